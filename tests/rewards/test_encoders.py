"""Encoders are chosen by name, and preprocess as transformers does.

The tests also cover how a reward holds a network.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from vidrl.rewards import encoders
from vidrl.rewards._networks import hub as _hub
from vidrl.rewards._networks import pixels as _pixels
from vidrl.rewards._networks import qwen, tiny
from vidrl.rewards._networks.pixels import HALF, IMAGENET, OPENAI, Pixels
from vidrl.rewards._vbench import networks


def pictures(height=40, width=56, count=3):
    """Return smooth pictures in integer levels of 255, so that both sides start from equal bytes."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, height // 4, width // 4, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


def published(module, name, images, **options):
    """Return the pictures as transformers' PIL processor prepares them."""
    import importlib

    cls = getattr(importlib.import_module(f"transformers.models.{module}"), name)
    arrays = [(x.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for x in images]
    processor = cls(**options)
    return processor, processor(arrays, return_tensors="pt").pixel_values


CASES = [
    (
        "clip.image_processing_pil_clip",
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": 28},
        Pixels(32, (28, 28), OPENAI),
    ),
    (
        "siglip.image_processing_pil_siglip",
        "SiglipImageProcessorPil",
        {"size": {"height": 24, "width": 20}},
        Pixels((24, 20), None, HALF),
    ),
    (
        "bit.image_processing_pil_bit",
        "BitImageProcessorPil",
        {
            "size": {"shortest_edge": 32},
            "crop_size": 28,
            "image_mean": IMAGENET[0],
            "image_std": IMAGENET[1],
        },
        Pixels(32, (28, 28), IMAGENET),
    ),
    (
        "vit.image_processing_pil_vit",
        "ViTImageProcessorPil",
        {
            "size": {"height": 24, "width": 24},
            "image_mean": IMAGENET[0],
            "image_std": IMAGENET[1],
            "resample": 2,
        },
        Pixels((24, 24), None, IMAGENET, "bilinear"),
    ),
    (
        "videomae.image_processing_pil_videomae",
        "VideoMAEImageProcessorPil",
        {
            "size": {"shortest_edge": 24},
            "crop_size": 24,
            "image_mean": IMAGENET[0],
            "image_std": IMAGENET[1],
        },
        Pixels(24, (24, 24), IMAGENET, "bilinear"),
    ),
]


@pytest.mark.parametrize(
    ("module", "name", "options", "mine"), CASES, ids=[case[1] for case in CASES]
)
@pytest.mark.parametrize("shape", [(40, 56), (71, 37), (16, 24)])
def test_preprocessing_is_the_published_within_rounding(module, name, options, mine, shape):
    """PIL rounds to 8 bits after each of two passes and this does not: up to 1.5 levels of
    255, on average 0.4.

    Up to 5 for one value in a hundred, where the kernel overshoots: Pillow 13 sometimes
    resizes the height first.
    """
    images = pictures(*shape)
    processor, expected = published(module, name, images, **options)
    expected = expected.flatten(0, expected.dim() - 4)
    level = torch.tensor([1 / 255 / d for d in mine.moments[1]])[:, None, None]
    assert mine(images).shape == expected.shape
    error = (mine(images) - expected).abs() / level
    assert error.max() < 5 and error.flatten().quantile(0.99) < 1.5 and error.mean() < 0.4
    read = _pixels.pixels_of_config(processor.to_dict(), Pixels(7, mine.crop and (7, 7), HALF))
    assert (read.size, read.crop, read.mode) == (mine.size, mine.crop, mine.mode)
    torch.testing.assert_close(read(images), mine(images))


def test_older_configurations_give_one_number():
    """CLIP L/14's file says "size": 224 and means the shorter side; that of DINO B/16 means
    a square."""
    older = {
        "size": 224,
        "crop_size": 224,
        "do_center_crop": True,
        "resample": 3,
        "image_mean": OPENAI[0],
    }
    read = _pixels.pixels_of_config(older, encoders.FAMILIES["clip"].pixels)
    assert (read.size, read.crop, read.mode) == (224, (224, 224), "bicubic")
    read = _pixels.pixels_of_config({"size": 224, "resample": 2}, encoders.FAMILIES["dino"].pixels)
    assert (read.size, read.crop, read.mode) == ((224, 224), None, "bilinear")


def test_padding_keeps_the_whole_frame_on_black():
    images = torch.ones(1, 3, 20, 40)
    made = Pixels(40, None, ((0.0,) * 3, (1.0,) * 3), pad=True)(images)
    assert made.shape == (1, 3, 40, 40)
    assert (
        (made[:, :, 10:30] == 1).all()
        and (made[:, :, :10] == 0).all()
        and (made[:, :, 30:] == 0).all()
    )


def test_grey_frames_become_three_channels():
    grey = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(Pixels(16, None)(grey), Pixels(16, None)(grey.expand(-1, 3, -1, -1)))


def siglip_model():
    t = _hub.import_package("transformers")
    text = {**tiny.SMALL, "vocab_size": 60, "max_position_embeddings": 8}
    sight = {**tiny.SMALL, "image_size": 32, "patch_size": 16}
    return tiny.seeded(lambda: t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=sight)))


def vit_model():
    t = _hub.import_package("transformers")
    return tiny.seeded(lambda: t.ViTModel(t.ViTConfig(**tiny.SMALL, image_size=32, patch_size=16)))


def dinov3_model():
    t = _hub.import_package("transformers")
    return tiny.seeded(
        lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**tiny.SMALL, image_size=32, patch_size=16))
    )


MODELS = {
    "clip": (tiny.clip_model, CASES[0], {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "siglip": (siglip_model, CASES[1], {"size": {"height": 32, "width": 32}}),
    "dino": (vit_model, CASES[3], {"size": {"height": 32, "width": 32}}),
    "dinov2": (tiny.dinov2_model, CASES[2], {"size": {"shortest_edge": 32}, "crop_size": 28}),
    "dinov3": (dinov3_model, CASES[3], {"size": {"height": 32, "width": 32}}),
}


@pytest.mark.parametrize("family", MODELS)
def test_a_local_folder_gives_the_features_of_transformers(family, tmp_path):
    """Features equal those of the published pipeline: PIL's processor, then the model.

    The remaining difference is PIL's rounding to 8 bits.
    """
    make, (module, name, *_), options = MODELS[family]
    model, images = make().eval(), pictures()
    model.save_pretrained(tmp_path)
    processor, pixels = published(module, name, images, **options)
    processor.save_pretrained(tmp_path)
    found = encoders.load(f"{family}:{tmp_path}", chunk=2)(images)
    with torch.no_grad():
        if family in ("clip", "siglip"):
            expected = model.get_image_features(pixel_values=pixels).pooler_output
        else:
            expected = (
                model(pixel_values=pixels).pooler_output
                if family == "dinov2"
                else model(pixels)[0][:, 0]
            )
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
    torch.testing.assert_close(found, expected, atol=0.03 * expected.abs().max().item(), rtol=0)


def test_chunks_change_no_number_and_gradients_pass():
    images = pictures().requires_grad_()
    whole = tiny.vision(100)(images)
    torch.testing.assert_close(tiny.vision(2)(images), whole, atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(whole[:, 0].sum(), images)
    assert gradient.abs().sum() > 0


def test_weights_can_be_bfloat16(tmp_path):
    tiny.dinov2_model().save_pretrained(tmp_path)
    images = pictures(28, 28)
    half = encoders.load(f"dinov2:{tmp_path}", dtype="bfloat16")
    half.find = lambda _: Pixels(28, None, IMAGENET)
    full = encoders.load(f"dinov2:{tmp_path}")
    full.find = half.find
    assert half(images).dtype == torch.float32 and half.network.module.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half(images), full(images)).min() > 0.99


def bin_folder(folder):
    """A tiny DINO as facebook/dino-vitb16 comes: config.json and pytorch_model.bin, no
    safetensors."""
    from transformers import ViTConfig, ViTModel

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).eval()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def test_weights_that_come_as_bin_alone_are_read_as_plain_tensors(tmp_path):
    model = bin_folder(tmp_path)
    found = encoders.load(f"dino:{tmp_path}").network.setup()
    assert all(
        torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_a_bin_file_of_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    model = bin_folder(tmp_path)
    torch.save({**model.state_dict(), "evil": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|unpickl") as told:
        encoders.load(f"dino:{tmp_path}").network.setup()
    assert told.type is not AssertionError


def test_a_folder_without_weights_says_what_it_needs(tmp_path):
    bin_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(OSError, match="model.safetensors .or pytorch_model.bin"):
        encoders.load(f"dino:{tmp_path}").network.setup()


def test_efficientnet_and_callables_are_taken():
    from vidrl.rewards._networks.efficientnet import EfficientNetLite

    assert isinstance(encoders.load("efficientnet"), EfficientNetLite)
    assert encoders.load(len) is len


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'dinov2'.*efficientnet"):
        encoders.load("dinv2:somewhere")
    with pytest.raises(ValueError, match="known: clip, siglip"):
        encoders.load_pair("dinov2:somewhere")
    with pytest.raises(ValueError, match="did you mean 'bfloat16'"):
        encoders.load("clip:somewhere", dtype="bf16")(pictures())


def test_what_is_not_there_is_told_with_the_cure(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    for spec in (f"clip:{tmp_path}/nothing", "clip:nobody/nothing"):
        with pytest.raises(OSError, match="hf download"):
            encoders.load(spec)(pictures())
    for load in (networks.dino, networks.clip, qwen.read_configuration):
        with pytest.raises(OSError, match=r"cannot load '.*nothing'.*hf download"):
            load(f"{tmp_path}/nothing")
    with pytest.raises(OSError, match="no file.*hf download"):
        _hub.weights_file(f"{tmp_path}/nothing.pt")


@pytest.fixture
def hub(monkeypatch):
    """Give the constants of an online hub, restore them afterwards, and clear the cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _hub.silent_hub.cache_clear()
    yield constants
    _hub.silent_hub.cache_clear()


def test_a_hub_that_does_not_answer_is_asked_once(hub, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(OSError, match=r"127.0.0.1:9 does not answer .*no local copy.*hf download"):
        _hub.weights_file("nobody/nothing/file.pth")
    assert hub.HF_HUB_OFFLINE
    assert _hub.silent_hub.cache_info().misses == 1


def test_a_hub_that_answers_with_an_error_is_there(hub, monkeypatch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # which answers HEAD with 501
    Thread(target=server.handle_request, daemon=True).start()
    monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert _hub.silent_hub() == "" and not hub.HF_HUB_OFFLINE
    server.server_close()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError):
        _hub.read_state(tmp_path / "evil.pt")


def test_states_are_found_under_their_usual_names(tmp_path):
    from safetensors.torch import save_file

    one = {"a": torch.ones(2)}
    torch.save({"state_dict": {"module.a": one["a"]}, "epoch": 3}, tmp_path / "one.pt")
    torch.save(one, tmp_path / "two.pth")
    save_file(one, tmp_path / "three.safetensors")
    for name in ("one.pt", "two.pth", "three.safetensors"):
        assert list(_hub.read_state(tmp_path / name)) == ["a"]


class Counting(torch.nn.Linear):
    """A module that records the devices to which it is sent."""

    def __init__(self):
        super().__init__(2, 1)
        self.sent = []

    def to(self, *where, **more):
        self.sent.append(str(where[0]))
        return self


def test_a_network_is_built_once_frozen_and_put_away():
    made = []
    network = _hub.Network(lambda: made.append(Counting()) or made[-1], offload=True)
    assert made == []
    for _ in range(2):
        with network.on(torch.zeros(1)) as module:
            assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert len(made) == 1 and made[0].sent == ["cpu", "cpu"] * 2  # there and back
    with network.on(torch.zeros(1, requires_grad=True)):
        pass
    assert made[0].sent == ["cpu", "cpu"] * 2 + ["cpu"]  # backward needs it there


def test_float64_is_computed_in_float64_and_leaves_the_weights_alone():
    encoder = tiny.vision()
    images = pictures(28, 28)
    exact = encoder(images.double())
    assert exact.dtype == torch.float64 and encoder(images).dtype == torch.float32
    assert encoder.network.module.dtype == torch.float32
    torch.testing.assert_close(exact.float(), encoder(images), atol=1e-5, rtol=1e-4)
