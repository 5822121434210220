"""What only a GPU can show: the same rollout and ratio there as on the CPU, and bf16 within
its tolerance."""

import pytest
import torch
from toys import Brightness, experience

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.wan import Wan
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"
    ),
]
PROMPTS = ["a cat", "a dog"]


def rollout(device, segments=2):
    policy = Policy(Wan.tiny().to(device))
    grpo = GRPO(steps=4, segments=segments)
    grpo.setup(policy, Brightness(), 2)
    plan = grpo.plan(policy.backbone, 0, draws(0, [("plan",)])[0])
    return (
        policy,
        grpo,
        sample(policy, policy.backbone.encode(PROMPTS), draws(0, [(p,) for p in PROMPTS]), plan),
    )


def test_the_gpu_samples_what_the_cpu_samples():
    here, there = rollout("cpu")[2], rollout("cuda")[2]
    torch.testing.assert_close(there.latents.cpu(), here.latents, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 2e-2)])
def test_ratio_is_one_before_the_first_update(dtype, tolerance):
    policy, grpo, made = rollout("cuda")
    with torch.autocast("cuda", dtype=dtype or torch.float32, enabled=dtype is not None):
        made = sample(policy, made.cond, draws(0, [(p,) for p in PROMPTS]), made.plan)
        batch = next(grpo.minibatches(experience(made, torch.ones(2, 2))))
        ratio = grpo.loss(policy, batch).metrics["ratio"]
    assert (ratio - 1).abs().max() < tolerance
