"""Clips stay on the device where they were decoded; what is kept of them is on the host."""

import torch
from pretend_gpu import PretendGpu
from toys import Brightness

from vidrl.backbones.toy import Toy
from vidrl.training import evaluate
from vidrl.training.clips import clips, generate
from vidrl.training.record import extremes
from vidrl.training.rollout import draws
from vidrl.training.scored import Scored

PROMPTS = [f"prompt {i}" for i in range(6)]


def made(device: str, prompts=PROMPTS):
    backbone = Toy.tiny().to(device)
    return clips(backbone, prompts, draws(0, [(p,) for p in prompts]), steps=2, decode_batch=2)


def test_clips_are_decoded_and_scored_without_leaving_the_gpu():
    """Of 2 clips at a time, the range of each frame, the thumbnails, the numbers of a score and
    the clips that are shown go to the host, and nothing else."""
    with PretendGpu() as gpu:
        scored = Scored(Brightness(), lambda values: [0])
        for samples in made("cuda:0"):
            assert samples.video.device.type == "cuda"
            frames, pixels = samples.video.shape[1], samples.video[0].numel()
            scored.add(samples)
    assert scored.score.value.device.type == "cpu"
    assert scored.thumbnails.device.type == "cpu"
    small = scored.thumbnails[0].numel()
    sizes = sorted(copy.numbers for copy in gpu.down)
    # the one clip that is shown, and the thumbnails of three pieces of two clips
    assert sizes[-4:] == [2 * small, 2 * small, 2 * small, pixels]
    assert sizes[-5] <= 2 * 2 * frames


def test_the_scores_are_those_of_the_cpu():
    def found(device):
        scored = Scored(Brightness(), extremes)
        for samples in made(device):
            scored.add(samples)
        return scored

    here = found("cpu")
    with PretendGpu():
        there = found("cuda:0")
    assert torch.equal(there.score.value, here.score.value)
    assert torch.equal(there.score.frames, here.score.frames)
    assert torch.equal(there.thumbnails, here.thumbnails)
    assert there.clips.keys() == here.clips.keys()
    assert all(torch.equal(there.clips[i], clip) for i, clip in here.clips.items())


def test_the_gpu_keeps_no_clip_that_was_scored():
    """However many clips a round has, one piece of them lives at a time."""

    def peak(n: int) -> int:
        with PretendGpu() as gpu:
            scored = Scored(Brightness(), extremes)
            for samples in made("cuda:0", [f"prompt {i}" for i in range(n)]):
                scored.add(samples)
                evaluate.guarded(samples, captions=False)
                living = gpu.living()
                del samples
            assert gpu.living() < living
            return living

    latents = Toy.tiny().noise(draws(0, [(0,)])).numel() * 4
    # latents of all clips live until they are decoded, and are a thousandth of a clip of pixels
    assert peak(12) - peak(4) <= 8 * 4 * latents


def test_a_generated_clip_is_on_the_host_for_whoever_writes_it():
    with PretendGpu():
        generators = draws(0, [("a",)])
        samples = generate(Toy.tiny().to("cuda:0"), ["a"], generators, steps=2)
    assert samples.video.device.type == "cpu"
    assert torch.equal(samples.video, generate(Toy.tiny(), ["a"], draws(0, [("a",)]), 2).video)
