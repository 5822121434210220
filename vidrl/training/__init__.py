"""The training loop, and what a round needs: policy, rollout, update, evaluation,
checkpoint, record."""
