"""Clips of chunks: what is refused before any work, and how each family continues a clip."""

import json

import pytest
import torch
from _chunks import check_rollout_on_the_host

from vidrl.backbones.base import on
from vidrl.backbones.gan import Gan
from vidrl.backbones.long import Long
from vidrl.backbones.toy import Toy
from vidrl.backbones.wan import Wan

TINY = "assets/tiny-wan-32"


@pytest.mark.parametrize(
    "options, told",
    [
        ({"chunks": 0}, "chunks ≥ 1 .* got chunks = 0"),
        ({"history": 0}, "history ≥ 1"),
        ({"base": "toy"}, "can continue a clip, got Toy"),
        ({"base": "pipeline"}, "got WanPipeline, which takes no image"),
        ({"weights": "assets/tiny-lomg"}, "network.safetensors in .* got assets/tiny-lomg"),
    ],
)
def test_what_cannot_be_continued_is_refused_before_a_model_is_read(options, told):
    with pytest.raises(ValueError, match=told):
        Long.check_options({"model": TINY, **options})


@pytest.mark.parametrize(
    "name, told",
    [
        ("HunyuanVideoFramepackPipeline", "makes the last piece of a clip first.*; use a pipeline"),
        ("HeliosPyramidPipeline", 'between stages; use HeliosPipeline with base = "wan"'),
        ("SkyReelsV2DiffusionForcingPipeline", 'set base = "wan"'),
    ],
)
def test_pipelines_that_make_a_clip_in_pieces_are_refused_by_their_index(name, told, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    options = {"model": str(tmp_path), "base": "pipeline"}
    with pytest.raises(ValueError, match=f"makes one chunk.* got {name}: .*{told}"):
        Long.check_options(options)
    with pytest.raises(ValueError, match=f"makes one chunk.* got {name}: .*{told}"):
        Long(**options)


def test_chunks_that_are_too_long_for_the_model_are_refused_with_the_length_that_fits():
    with pytest.raises(
        ValueError, match="at most 4 latent frames.* got 5: set options.frames = 13"
    ):
        Long(TINY, options={"frames": 17})


def test_a_history_longer_than_a_chunk_is_refused():
    with pytest.raises(ValueError, match="history of 1 to 2 latent frames"):
        Wan.tiny().continuation(3)


def test_missing_weights_are_refused_before_the_model_is_read(tmp_path):
    with pytest.raises(ValueError, match="network.safetensors"):
        Long("no/such/model", weights=str(tmp_path))


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="of other names or shapes"):
        Long(Long.tiny().base.pipe, options=SIZE, weights="assets/tiny-long")


def test_all_entries_of_a_condition_are_on_one_device():
    """With rollouts on the host, conditions and latents are not where the network is."""
    long = Long.tiny()
    cond = long.encode(["a", "b"])
    latents = torch.zeros(2, *long.base.shape)
    for before in (None, latents, latents.to("meta")):
        for place in ("cpu", "meta"):
            if before is not None and before.device.type == "meta" and place == "cpu":
                continue  # nothing can be copied from "meta"
            found = long.following(on(cond, torch.device(place)), before)
            assert {value.device.type for value in found.values()} == {place}


def test_a_round_of_a_gpu_keeps_its_rollout_on_the_host():
    check_rollout_on_the_host(Long.tiny())


SIZE = {"height": 16, "width": 16, "frames": 5, "fps": 8.0, "text_length": 16}


@pytest.mark.parametrize("backbone", [Toy, Gan])
def test_families_without_earlier_frames_say_so(backbone):
    with pytest.raises(ValueError, match=f"got {backbone.__name__}"):
        backbone.tiny().continuation(1)


def test_the_frames_before_are_at_time_zero_and_left_out():
    long = Long.tiny()
    cond = long.encode(["a"])
    x = long.chunk_noise([torch.Generator().manual_seed(0)])
    seen = []
    hook = long.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        raw = long.predict(x, torch.tensor([0.5]), long.following(cond, x + 1))
    hook.remove()
    assert raw.shape == x.shape
    assert torch.equal(seen[0]["hidden_states"], torch.cat([x[:, :, -1:] + 1, x], 2))
    assert seen[0]["timestep"].tolist() == [[0.0] * 4 + [500.0] * 8]


def test_the_decoder_goes_on_from_chunk_to_chunk():
    """Two chunks are decoded as one clip of Wan: the causal decoder knows the first one."""
    long = Long.tiny()
    x = long.noise([torch.Generator().manual_seed(0)])
    assert torch.allclose(long.decode(x), long.base.decode(x), atol=1e-6)
    assert not torch.allclose(long.decode(x)[:, 5:9], long.base.decode(x[:, :, 2:])[:, 1:5])


def test_the_length_of_the_model_is_that_of_its_folder(tmp_path):
    wan = Wan.tiny()
    wan.folder = tmp_path
    (tmp_path / "vidrl.json").write_text(json.dumps({"frames": 9}))
    wan.continuation(1).check_length(2)
    with pytest.raises(ValueError, match="at most 1 latent frames"):
        wan.continuation(2).check_length(2)
