"""A pipeline decodes fewer latent frames than it samples, as it decodes a clip of that
length."""

import functools

import pytest
import torch
from toys import Brightness

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS

from vidrl.algorithms.base import Batch
from vidrl.algorithms.reward_backprop import RewardBackprop
from vidrl.backbones._latent_layout import Layout
from vidrl.backbones.pipeline import Pipeline
from vidrl.data.prompt import Prompt
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

LONG, SHORT = 17, 9  # pixel frames; each of these families has 4 of them a latent frame


class Light(Brightness):
    differentiable = True


@functools.cache
def made(name: str, frames: int) -> Pipeline:
    family = FAMILIES[name]
    return Pipeline(family.build(), {**family.call, "num_frames": frames})


def asked(name: str, folder) -> list[str]:
    """One prompt, with a picture where the family reads one."""
    if not FAMILIES[name].reads_image:
        return [PROMPTS[0]]
    FAMILIES[name].picture(FAMILIES[name].call).save(folder / "given.png")
    return [Prompt(PROMPTS[0], {"image": str(folder / "given.png")})]


# latents of one tensor, latents packed as tokens, a picture beside them, a given first
# frame
@pytest.mark.parametrize("name", ["wan", "ltx", "wan_i2v", "ltx_i2v"])
@torch.no_grad()
def test_a_piece_of_a_clip_is_decoded_as_a_clip_of_its_length(name, tmp_path):
    long, short = made(name, LONG), made(name, SHORT)
    piece = torch.randn(1, *short.shape, generator=torch.Generator().manual_seed(0))
    whole = torch.randn(1, *long.shape, generator=torch.Generator().manual_seed(1))
    conds = [backbone.encode(asked(name, tmp_path)) for backbone in (long, short)]
    before = long.predict(whole, torch.tensor([0.5]), conds[0])
    found = long.decode_with(piece, conds[0])
    torch.testing.assert_close(found, short.decode_with(piece, conds[1]))
    assert found.shape[1] == SHORT == long.frame_map[piece.shape[2] - 1][1]
    torch.testing.assert_close(long.predict(whole, torch.tensor([0.5]), conds[0]), before)
    assert long.decode_with(whole, conds[0]).shape[1] == LONG


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_vader_sends_a_gradient_through_the_piece_alone(name):
    backbone = made(name, LONG)
    algorithm, reward = RewardBackprop(steps=4, way="vader", context=1), Light()
    algorithm.setup(Policy(backbone, full=True), reward, 1)
    assert algorithm._pieces() == [(0, 3), (2, 5)]
    x = torch.zeros(1, *backbone.shape, requires_grad=True)
    segment = {"segment": torch.tensor([1])}
    batch = Batch(
        segment, backbone.encode(PROMPTS[:1]), PROMPTS[:1], 1.0, Plan([1.0, 0.0], "ode", 0.0)
    )
    clip = algorithm._decoded(x, batch)
    assert clip.shape[1] == 8  # pixel frames 9 to 16
    clip.sum().backward()
    reached = x.grad.abs().flatten(3).sum((0, 1, 3))
    assert bool((reached[2:] > 0).all()) and not reached[:2].any()


def test_what_stands_beside_the_video_is_not_cut():
    family = FAMILIES["ltx2"]
    backbone = Pipeline(family.build(), family.call)
    short = torch.zeros(1, backbone.shape[0], 1, 1, 1)
    with pytest.raises(ValueError, match="expected latents of . frames, got 1: what stands beside"):
        backbone.decode(short)
    with pytest.raises(
        ValueError, match="decodes . of its . latent frames alone.*beside the video"
    ):
        algorithm = RewardBackprop(steps=4, way="vader", context=1)
        algorithm.setup(Policy(backbone, full=True), Light(), 1)


def test_the_layout_of_fewer_frames_keeps_the_given_first_one_and_no_last_one():
    spans = [(0, 1), (1, 5), (5, 9), (9, 13)]
    packed = Layout((24, 8), 0, 4, False, spans)
    assert packed.with_length(2).pipeline_shape == (12, 8) and packed.with_length(2).frame_map == [
        (0, 1),
        (1, 5),
    ]
    first = packed.without_frames((0,)).with_length(2)
    assert (first.pipeline_shape, first.shape, first.frame_map) == (
        (18, 8),
        (8, 2, 6, 1),
        [(0, 5), (5, 9)],
    )
    assert (
        first.to_pipeline(torch.ones(1, 8, 2, 6, 1)).sum((0, 2)).tolist() == [0.0] * 6 + [8.0] * 12
    )
    with pytest.raises(ValueError, match=r"no other length with the latent frames \[0, 3\] given"):
        packed.without_frames((0, 3)).with_length(1)
