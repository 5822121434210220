"""The held-out prompts: the same noise, the deterministic sampler, whatever the weights and however many processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vidrl import evaluate
from vidrl.backbones.base import PromptCache
from vidrl.parallel import Workers
from vidrl.policy import Policy
from vidrl.rewards import Reward, Samples, Score
from vidrl.rollout import draws, generate

TWINS = 32  # prompts, the first ones, of which a second clip is made: how far members of a group stand apart
Look = Callable[[int, Policy, str, Workers, bool], None]  # round, policy, its weights' name, processes, whether it ends


class HeldOut:
    """Measures a policy's set of weights on the held-out prompts; each process does its share."""

    def __init__(self, prompts: Sequence[str], reward: Reward, workers: Workers, encode: PromptCache, steps: int):
        self.prompts, self.reward, self.workers, self.encode, self.steps = prompts, reward, workers, encode, steps
        self.places = workers.share(len(prompts), even=False)
        self.captions = evaluate.are_captions(prompts)  # of all of them: processes must agree on what is measured

    def measure(self, policy: Policy, weights: str, batch: int) -> tuple[evaluate.Measures, Samples, Score]:
        """Every prompt's numbers, of all processes; and this process's clips with their scores."""
        with self.workers.autocast(), policy.using(weights):
            samples = self._clips(policy, self.places, "held out", batch)
            twins = [i for i in self.places if i < TWINS]
            others = self._clips(policy, twins, "held out twin", batch) if twins else None
        score = evaluate.score_each(self.reward, samples)
        own = evaluate.measure(score, samples, self.captions) | {"diversity": _apart(samples, others)}
        return self.workers.gather_arrays(own), samples, score

    def _clips(self, policy: Policy, places: Sequence[int], name: str, batch: int) -> Samples:
        prompts = [self.prompts[i] for i in places]
        return generate(policy, prompts, draws(0, [(name, i) for i in places]), self.steps, batch, self.encode)


def _apart(samples: Samples, twins: Samples | None) -> np.ndarray:
    """Distance (B,) of each clip to its twin; NaN for a clip without one."""
    found = np.full(len(samples), np.nan)
    if twins is not None:
        pairs = zip(evaluate.thumbnails(samples.video), evaluate.thumbnails(twins.video), strict=False)
        found[: len(twins)] = [float((a - b).abs().mean()) for a, b in pairs]
    return found
