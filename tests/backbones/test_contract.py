"""What every backbone promises, held for each file of the folder."""

import pytest
import torch
from torch import Tensor

from vidrl import plugin
from vidrl.backbones.base import Denoiser, Generator, rows
from vidrl.data import picture
from vidrl.data.prompt import Prompt


@pytest.fixture(scope="module", params=plugin.names("backbones"))
def backbone(request: pytest.FixtureRequest) -> Generator:
    return plugin.find("backbones", request.param).tiny()


@pytest.fixture(scope="module")
def prompts(backbone: Generator, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three prompts of the family's grammar, with different images where it needs images."""
    if "image" not in backbone.needs:
        return list(backbone.examples)
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        draw = torch.Generator().manual_seed(i)
        picture.write(folder / f"{i}.png", torch.rand(backbone.clip_shape[1:], generator=draw))
    return [Prompt(x, {"image": folder / f"{i}.png"}) for i, x in enumerate(backbone.examples)]


@pytest.fixture
def denoiser(backbone: Generator) -> Denoiser:
    if not isinstance(backbone, Denoiser):
        pytest.skip("not a denoiser")
    return backbone


def noise(backbone: Generator, n: int = 3) -> Tensor:
    return backbone.noise([torch.Generator().manual_seed(i) for i in range(n)])


def test_noise_is_of_the_latents_shape_and_its_own_seed_alone(backbone: Generator) -> None:
    several = noise(backbone)
    assert several.shape == (3, *backbone.shape) and several.dtype == torch.float32
    alone = backbone.noise([torch.Generator().manual_seed(2)])
    assert torch.equal(several[2:], alone) and not torch.equal(several[0], several[1])


def test_encode_of_a_batch_is_that_of_each(backbone: Generator, prompts: list[str]) -> None:
    batch = backbone.encode(prompts)
    for i, prompt in enumerate(prompts):
        alone = backbone.encode([prompt])
        assert alone.keys() == batch.keys()
        assert all(torch.allclose(alone[k], batch[k][i : i + 1], atol=1e-5) for k in batch)
    assert not any(value.requires_grad for value in batch.values())
    assert any(not torch.allclose(value[0], value[1]) for value in batch.values())


def test_encoding_on_a_named_device_gives_the_same_conditions(
    denoiser: Denoiser, prompts: list[str]
) -> None:
    """What the loop calls before the network moves: `with encoding(device): encode(...)`."""
    usual = denoiser.encode(prompts)
    with denoiser.encoding(torch.device("cpu")):
        named = denoiser.encode(prompts)
    assert usual.keys() == named.keys()
    assert all(torch.equal(usual[key], named[key]) for key in usual)


def test_generate_is_deterministic(backbone: Generator, prompts: list[str]) -> None:
    cond = backbone.encode(prompts)
    with torch.no_grad():
        first, second = (backbone.generate(noise(backbone), cond) for _ in range(2))
    assert torch.equal(first, second)
    assert (
        first.shape == (3, *backbone.shape)
        and first.dtype == torch.float32
        and first.isfinite().all()
    )


def test_decode_gives_clips_in_range_and_carries_gradient(backbone: Generator) -> None:
    z = noise(backbone).requires_grad_()
    video = backbone.decode(z)
    assert video.dim() == 5 and len(video) == 3 and video.shape[2] == 3
    assert video.min() >= 0 and video.max() <= 1
    extreme = backbone.decode(100 * noise(backbone))
    assert extreme.min() >= 0 and extreme.max() <= 1
    (gradient,) = torch.autograd.grad(video.square().mean(), z)
    assert gradient.isfinite().all() and gradient.abs().flatten(1).amax(1).min() > 0


def readable(denoiser: Denoiser) -> Denoiser:
    if not denoiser.encodes_video:
        pytest.skip("no video encoder")
    return denoiser


def random_clips(denoiser: Denoiser, n: int = 3) -> Tensor:
    return torch.rand(n, *denoiser.clip_shape, generator=torch.Generator().manual_seed(0))


def test_clip_shape_is_that_of_a_decode(denoiser: Denoiser) -> None:
    assert tuple(denoiser.decode(noise(denoiser, 1)).shape[1:]) == tuple(denoiser.clip_shape)


def test_latents_of_a_clip_are_its_own_and_carry_no_gradient(denoiser: Denoiser) -> None:
    clips = random_clips(readable(denoiser))
    latents = denoiser.encode_video(clips.clone().requires_grad_())
    assert latents.shape == (3, *denoiser.shape) and latents.dtype == torch.float32
    assert not latents.requires_grad and bool(latents.isfinite().all())
    assert torch.equal(latents, denoiser.encode_video(clips))
    assert torch.equal(latents[1:2], denoiser.encode_video(clips[1:2]))
    assert not torch.allclose(latents[0], latents[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(latents, denoiser.encode_video(clips))


def test_bytes_and_floats_of_one_clip_have_the_same_latents(denoiser: Denoiser) -> None:
    clips = (255 * random_clips(readable(denoiser), 1)).round()
    assert torch.allclose(
        denoiser.encode_video(clips.byte()), denoiser.encode_video(clips / 255), atol=1e-5
    )


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda v: v[:, :-1], "as .* makes them, got"),
        (lambda v: v[..., :-1], "as .* makes them, got"),
        (lambda v: v[:, :, :1], "as .* makes them, got"),
        (lambda v: v[0], "add the batch"),
        (lambda v: v.transpose(1, 2), "transpose|makes them"),
        (lambda v: 255 * v, "255"),
        (lambda v: 2 * v - 1, "\\[0, 1\\]"),
        (lambda v: v.masked_fill(v > 0.5, torch.nan), "NaN or infinity in clip 0"),
    ],
)
def test_clips_that_the_encoder_cannot_read_are_refused(denoiser: Denoiser, change, told) -> None:
    with pytest.raises(ValueError, match=told):
        readable(denoiser).encode_video(change(random_clips(denoiser)))


def test_frame_map_covers_every_frame_once(denoiser: Denoiser) -> None:
    frames = denoiser.decode(noise(denoiser, 1)).shape[1]
    assert len(denoiser.frame_map) == denoiser.shape[1]
    assert [f for start, end in denoiser.frame_map for f in range(start, end)] == list(
        range(frames)
    )
    assert denoiser.fps > 0


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_times_fall_from_at_most_one_to_zero(denoiser: Denoiser, n: int) -> None:
    times = denoiser.times(n)
    assert len(times) == n + 1 and 0 < times[0] <= 1 and times[-1] == 0
    assert all(t > s for t, s in zip(times[:-1], times[1:], strict=True))


def test_prediction_of_a_sample_ignores_its_neighbours(
    denoiser: Denoiser, prompts: list[str]
) -> None:
    x, cond, t = noise(denoiser), denoiser.encode(prompts), torch.tensor([0.9, 0.5, 0.1])
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        raw = denoiser.predict(x, t, cond)
        turned = denoiser.predict(x[order], t[order], rows(cond, order))
        alone = denoiser.predict(x[1:2], t[1:2], rows(cond, slice(1, 2)))
    # where the scale is learned, it is predicted beside the mean, along the channels
    channels = x.shape[1] * (1 + denoiser.path.learned)
    assert raw.shape == (3, channels, *x.shape[2:]) and raw.dtype == torch.float32
    assert torch.allclose(turned, raw[order], atol=1e-5) and torch.allclose(
        alone, raw[1:2], atol=1e-5
    )
    assert not torch.allclose(
        raw, denoiser.predict(x, t, denoiser.encode(prompts[::-1])), atol=1e-5
    )  # it reads the text
    if not denoiser.path.learned:  # and the time
        assert not torch.allclose(raw, denoiser.predict(x, t.flip(0), cond), atol=1e-5)


def test_network_is_what_computes(denoiser: Denoiser, prompts: list[str]) -> None:
    x, t, cond = noise(denoiser), torch.full((3,), 0.5), denoiser.encode(prompts)
    parameters = list(denoiser.network.parameters())
    frozen = [p.requires_grad for p in parameters]
    try:
        denoiser.network.requires_grad_(True)
        predicted = denoiser.predict(x, t, cond).square().sum()
        # a generator behind a learned Gaussian computes the clip, and not the prediction
        shown = denoiser.decode_with(x, cond).square().sum() if denoiser.path.learned else 0
        gradients = torch.autograd.grad(predicted + shown, parameters, allow_unused=True)
    finally:
        for p, before in zip(parameters, frozen, strict=True):
            p.requires_grad_(before)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in gradients) > len(parameters) / 2
