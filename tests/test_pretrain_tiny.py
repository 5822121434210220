"""The script that trained the embedded models: its corpus, how processes share a batch, and
what its losses say."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from vidrl.synthetic import verifier, world

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture(scope="module")
def tiny():
    return importlib.import_module("pretrain_tiny")


def data():
    draw = torch.Generator().manual_seed(0)
    latents, table = (
        torch.randn(12, 32, 5, 4, 4, generator=draw),
        torch.randn(4, 20, 64, generator=draw),
    )
    return latents, table, torch.arange(12) % 3 + 1


def test_the_corpus_is_the_same_each_time_and_holds_no_held_out_caption(tiny):
    first, again = (list(tiny.corpus(range(24), 64)) for _ in range(2))
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    held = {scene.caption for scene in world.scenes("held_out")}
    captions = [caption for caption, _ in first]
    assert not held & set(captions) and any("camera pans" in caption for caption in captions)
    assert not any("camera" in caption for caption, _ in tiny.corpus(range(24), 32))
    assert first[0][1].shape == (17, 3, 64, 64)


def test_clean_clips_of_the_corpus_are_what_their_captions_say(tiny, monkeypatch):
    monkeypatch.setattr(
        tiny, "fault", lambda scene, draw, size: world.render(scene, size, 17, 8.0, 1).video
    )
    captions, clips = zip(*tiny.corpus(range(16), 64), strict=True)
    assert verifier.verify(torch.stack(clips), list(captions), 8.0).all.all()


def test_processes_share_a_batch(tiny, monkeypatch):
    text = tiny.PaddedText()
    whole = tiny.noised(text, *data(), step=3)
    monkeypatch.setattr(tiny, "WORLD", 2)
    for rank in (0, 1):
        monkeypatch.setattr(tiny, "RANK", rank)
        part = tiny.noised(text, *data(), step=3)
        for name in ("x", "t", "words", "told", "velocity"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::2]), name


def test_a_velocity_leads_from_noise_to_the_clip(tiny):
    latents, table, caption = data()
    at = tiny.noised(tiny.PaddedText(), latents, table, caption, step=5)
    clip = at.x - at.t.view(-1, 1, 1, 1, 1) * at.velocity
    nearest = (clip[:, None] - latents[None]).flatten(2).norm(dim=2).min(1).values
    assert nearest.max() < 1e-4


def test_guidance_is_learnt_where_a_caption_is_told_and_nowhere_else(tiny, monkeypatch):
    class Net(torch.nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, x, t, words, return_dict):
            return ((self.size * words.mean((1, 2))).view(-1, 1, 1, 1, 1).expand_as(x),)

    text, batch = tiny.PaddedText(), data()
    # row 0, no caption, is 0: guidance of 2 says twice as much
    table = batch[1] * 0 + torch.arange(4.0).view(-1, 1, 1)
    batch = (batch[0], table, batch[2])
    assert tiny.guided_loss(Net(2.0), Net(1.0), text, *batch, 2).item() == pytest.approx(
        0, abs=1e-10
    )
    assert tiny.guided_loss(Net(1.0), Net(1.0), text, *batch, 2) > 0.1
    monkeypatch.setattr(tiny, "NO_TEXT", 1.1)  # nobody is told
    assert tiny.guided_loss(Net(1.0), Net(1.0), text, *batch, 3).item() == 0
