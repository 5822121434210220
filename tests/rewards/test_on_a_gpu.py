"""Rewards without trained weights run where the clips are, and give the numbers of the CPU.

The GPU is pretended (tests/pretend_gpu.py): an operation on tensors of both devices raises, and
each copy is noted. OpenCV's fast paths are of the CPU alone, so that these tests also compare
torch's path with OpenCV's for each reward, with the same flow.
"""

from functools import cache

import pytest
import torch
from pretend_gpu import PretendGpu
from torch.nn.functional import interpolate

from vidrl import plugin, rewards
from vidrl.rewards import Samples
from vidrl.rewards.flow import Motion, estimate

CLASSES = {name: plugin.find("rewards", name) for name in plugin.names("rewards")}
OWN = [name for name, found in CLASSES.items() if not found.learned]
DEVICE = [name for name in OWN if not CLASSES[name].on_host]
# Numbers that a reward may read on the host to decide: this many for each frame of a batch.
A_FRAME = 12
# Copies to the host: the range of the frames, the reasons of unscored clips, and decisions.
COPIES = 24
# The largest difference of a value or an entry of a curve, for values of about 1.
TOLERANCE = 2e-5
# Rewards that read a few frames at a time on purpose.
IN_STEPS = {
    "drift": "a path is followed from each frame to the next",
    "vbench_temporal_flickering": "all pairs at once would take eight times the clips' memory",
}
PROMPT = "a disc moves right"
PLANE = 48 * 64


def clips(frames: int = 9, batch: int = 2) -> torch.Tensor:
    """Return clips (B, F, 3, 48, 64): a textured disc moves over textured ground, with grain."""
    draw = torch.Generator().manual_seed(1)
    ground, skin = (
        interpolate(torch.rand(batch, 3, 9, 12, generator=draw), size=(48, 64), mode="bicubic")
        for _ in range(2)
    )
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    made = []
    for t in range(frames):
        disc = (9 - (x - 14 - 2 * t).hypot(y - 20 - t)).clamp(0, 1)
        made.append(ground * (1 - disc) + skin.roll((t, 2 * t), (2, 3)) * disc)
    grain = 0.01 * torch.randn(batch, frames, 3, 48, 64, generator=draw)
    return (torch.stack(made, 1).clamp(0, 1) * 0.9 + 0.05 + grain).clamp(0, 1)


@cache
def flows(frames: int, batch: int) -> Motion:
    return estimate(clips(frames, batch), "torch")


def reward(name: str):
    """Return a reward that reads the flow `torch`, on a GPU and on the CPU."""
    made = CLASSES[name].tiny()
    if made.flow == "auto":
        made.flow = "torch"
    if hasattr(made, "network"):
        # the rewards of published warping errors ask for the flow themselves, `chunk` pairs a time
        made.network, made.chunk = lambda first, second: first[:, :2] / 255 - 0.5, 64
    return made


def samples(video: torch.Tensor) -> Samples:
    """Return samples whose flow is known, so that rewards and not estimators are compared."""
    known = flows(*video.shape[1::-1])
    there, back = (flow.to(video.device) for flow in (known.forward, known.backward))
    found = Samples(video, [PROMPT] * len(video), 8.0)
    found.memo(("motion", "torch", 192), lambda: Motion(video, there, back))
    return found


def tensors(score):
    yield score.value
    if score.frames is not None:
        yield score.frames
    yield from (*score.slopes.values(), *score.adds.values())
    for part in score.parts.values():
        yield from tensors(part)


def on_gpu(made, video):
    """Return a score on the pretended GPU, brought to the host, and the GPU."""
    with PretendGpu() as gpu:
        given = samples(video.to("cuda:0"))
        gpu.up.clear()
        gpu.operations = 0
        score = made(given)
        gpu.up_while_scoring = list(gpu.up)
        assert all(x.device.type == "cuda" for x in tensors(score))
        gpu.down_before = list(gpu.down)
        found = [x.cpu() for x in tensors(score)]
    return found, gpu


@pytest.mark.parametrize("name", DEVICE)
def test_a_reward_stays_on_the_device_and_gives_the_numbers_of_the_cpu(name):
    video = clips()
    expected = list(tensors(reward(name)(samples(video))))
    found, gpu = on_gpu(reward(name), video)
    for copy in gpu.down_before:
        assert copy.numbers <= A_FRAME * video.shape[0] * video.shape[1], copy
    assert len(gpu.down_before) <= COPIES, [copy.lines[:1] for copy in gpu.down_before]
    # indices and constants; no plane of pixels
    assert all(copy.numbers < PLANE for copy in gpu.up_while_scoring), gpu.up_while_scoring
    assert torch.isfinite(expected[0]).all(), "a clip that is not scored shows nothing"
    for here, there in zip(expected, found, strict=True):
        torch.testing.assert_close(there, here, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in DEVICE if name not in IN_STEPS])
def test_frames_and_clips_are_one_batch(name):
    """The number of operations on the GPU does not grow with the number of frames."""
    short, long = (on_gpu(reward(name), clips(n, 1))[1].operations for n in (10, 14))
    assert long <= 1.05 * short


@pytest.mark.parametrize("name", [name for name in OWN if CLASSES[name].on_host])
def test_a_reward_of_the_host_gets_one_copy_and_says_why(name):
    video = clips(3, 1)
    expected = list(tensors(reward(name)(samples(video))))
    found, gpu = on_gpu(reward(name), video)
    whole = [copy for copy in gpu.down_before if copy.numbers >= PLANE]
    assert [copy.numbers for copy in whole] == [video.numel()]
    assert len(CLASSES[name].on_host.split()) > 4
    for here, there in zip(expected, found, strict=True):
        torch.testing.assert_close(there, here, equal_nan=True)


def test_rewards_of_the_host_share_their_copy():
    made = [reward("view_consistency"), reward("view_consistency")]
    with PretendGpu() as gpu:
        shared = samples(clips(3, 1).to("cuda:0"))
        for each in made:
            each(shared)
    assert sum(copy.numbers >= PLANE for copy in gpu.down) == 1


def test_the_default_composite_runs_on_the_device():
    video = clips(9)
    with PretendGpu() as gpu:
        score = rewards.load("default")(samples(video.to("cuda:0")))
        assert score.value.device.type == "cuda"
    assert all(copy.numbers <= A_FRAME * video.shape[0] * video.shape[1] for copy in gpu.down)


def test_auto_is_dis_on_a_cpu_and_torch_on_a_gpu():
    video = clips(3, 1)
    here = estimate(video).forward
    assert torch.equal(here, estimate(video, "dis").forward)
    with PretendGpu() as gpu:
        there = estimate(video.to("cuda:0")).forward.cpu()
    assert [copy.numbers for copy in gpu.down] == [there.numel()]
    torch.testing.assert_close(there, estimate(video, "torch").forward, atol=1e-3, rtol=1e-3)


def test_dis_on_a_gpu_copies_the_frames_once():
    """OpenCV's methods need the frames on the CPU; the flow and what it warps go back."""
    video = clips(5)
    made = reward("flicker")
    made.flow = "dis"
    expected = made(samples(video)).value
    found, gpu = on_gpu(made, video)
    assert [c.numbers for c in gpu.down_before if c.numbers >= PLANE] == [video.numel()]
    torch.testing.assert_close(found[0], expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_reward_that_leaves_the_device_is_found():
    """The contract above fails for a reward that reads its pixels on the host."""

    class Leaves(rewards.Reward):
        def terms(self, samples):
            return samples.frames.cpu().mean((2, 3, 4)).to(samples.video)

    video = clips()
    _, gpu = on_gpu(Leaves(), video)
    assert max(copy.numbers for copy in gpu.down_before) == video.numel()
