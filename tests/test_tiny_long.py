"""The recipe of long video, its embedded weights, and the script that trained them."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from vidrl import cli, config
from vidrl.backbones.long import Long
from vidrl.report.run_folder import read
from vidrl.rewards import Samples
from vidrl.training import evaluate

RECIPE = "scripts/recipes/tiny_long.toml"
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("pretrain_long")


def test_the_recipe_is_right() -> None:
    loaded = config.load(RECIPE)
    evaluate.check_recipe(loaded)
    options, algorithm = loaded.backbone.options, loaded.algorithm.options
    assert algorithm["segments"] == options["chunks"]
    long = Long(**{**options, "model": options["model"]})
    assert loaded.reward.parts["segment_seam"]["options"]["borders"] == long.borders == [13, 29]


def test_only_seams_change_colour_shape_or_light(script, monkeypatch) -> None:
    """Without the faults, the same clips differ after the first seam alone."""
    faulty = [clip for _, clip in script.corpus(range(6))]
    monkeypatch.setattr(script, "changed", lambda scene, light, draw: (scene, light))
    clean = [clip for _, clip in script.corpus(range(6))]
    first = script.SEAMS[0]
    assert all(torch.equal(a[:first], b[:first]) for a, b in zip(faulty, clean, strict=True))
    moved = [not torch.equal(a[first:], b[first:]) for a, b in zip(faulty, clean, strict=True)]
    assert any(moved)
    # what follows a seam stays changed until the next one
    late = torch.stack([(a - b).abs().mean((1, 2, 3)) for a, b in zip(faulty, clean, strict=True)])
    for start, end in zip(script.SEAMS, [*script.SEAMS[1:], script.FRAMES], strict=True):
        changed = late[:, start:end] > 1e-3
        assert bool((changed.all(1) == changed.any(1)).all())


def test_rows_of_the_pretraining_follow_the_frame_before(script) -> None:
    latents = torch.arange(16.0).view(1, 1, 16, 1, 1).expand(20, 1, 16, 4, 4)
    (begun, nothing, _), (x0, before, _) = script.batch(latents, 0)[0]
    assert nothing is None and begun[0, 0, :, 0, 0].tolist() == [0, 1, 2, 3]
    assert x0.shape[2] == 4 and before.shape[2] == 1
    gap = x0[:, :, :1] - before
    assert torch.allclose(gap, torch.ones_like(gap), atol=5 * script.GRAIN)


def test_the_pretraining_and_the_backbone_call_the_network_alike(script) -> None:
    from vidrl.backbones.wan import Wan

    wan = Wan("assets/tiny-wan-32", frames=13, text_length=24)
    x = wan.noise([torch.Generator().manual_seed(0)])
    cond = {**wan.encode(["a red circle goes round slowly on a dark background"])}
    cond["history"] = x[:, :, -1:] + 1
    time = torch.tensor([0.5])
    with torch.no_grad():
        theirs = wan.continuation(1).predict(x, time, cond)
        # the script appends a padding token, which here is one of the padded text
        own = script.predict(wan.network, x, time, cond["history"], cond["text"][:, :-1])
    assert torch.allclose(own, theirs, atol=1e-5)


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_check_reads_each_chunk(script, chunks, monkeypatch) -> None:
    """For another number of chunks than that of the corpus, too."""
    monkeypatch.setattr(script.tiny, "MODEL", Path("assets/tiny-wan-32"))
    lengths = []
    read = script.verifier.verify
    monkeypatch.setattr(
        script.verifier,
        "verify",
        lambda video, captions, fps: lengths.append(video.shape[1]) or read(video, captions, fps),
    )
    found = script.check(2, chunks)
    assert [len(values) for values in found.values()] == [chunks] * 3
    assert lengths == 3 * [13, 16][:chunks]


def test_the_study_gives_a_seam_to_its_border(monkeypatch) -> None:
    """The picture changes at frame 13 alone, so that the second border has no seam."""
    monkeypatch.syspath_prepend("benchmarks/studies")
    curves = importlib.import_module("long_curves")
    ground = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) / 4
    light = (torch.arange(45) >= 13)[:, None, None, None] / 2
    samples = Samples((ground + light)[None], ["a red circle stays still on a dark background"], 8)
    found = curves.scores(samples, [13, 29])
    first, second = curves.by_border(found["segment_seam"], [0, 13, 29, 45]).split(", ")
    assert float(second) == 0 and float(first) < -0.5
    value = float(found["segment_seam"].value)
    assert (float(first) + float(second)) / 2 == pytest.approx(value, abs=1e-3)
    assert curves.by_chunk(found["drift"], [0, 13, 29, 45]).startswith(("+0.000", "-0.000"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 84 s of CPU time; other work may share the machine
def test_long_clips_learn_to_have_no_seams(tmp_path) -> None:
    """The recipe, shortened: the reward rises beyond doubt on held-out captions, and the
    verifier, which no reward reads, does not fall."""
    from vidrl.training import loop

    changes = [
        f"run={tmp_path / 'run'}",
        "train.rounds=4",
        "train.learning_rate=1e-3",
        "train.show=2",
        "train.eval_every=100",
        "train.eval_n=0",
        "data.held_out_n=48",
    ]
    found = read(loop.run(config.load(RECIPE, changes)))
    assert found.held_out["composite"]["low"] > 0
    for name in ("verifier", "identity"):
        assert found.held_out[name]["after"] >= 0.965 * found.held_out[name]["before"]


@pytest.mark.slow
def test_sample_makes_a_long_clip(tmp_path) -> None:
    words = ["sample", "--recipe", RECIPE, "--steps", "2", "--out", str(tmp_path)]
    prompt = "a red circle goes round slowly on a dark background"
    assert cli.main([*words, "--prompt", prompt]) == 0
    from vidrl.rewards import video

    (file,) = tmp_path.glob("*.mp4")
    assert len(video.read(file)[0]) == 45


@pytest.mark.slow
def test_the_recipe_runs_shortly(tmp_path) -> None:
    from vidrl.training import loop

    changes = [
        f"run={tmp_path / 'run'}",
        "train.rounds=2",
        "train.prompts_per_round=1",
        "train.group=4",
        "data.held_out_n=2",
        "train.eval_n=2",
        "train.eval_steps=2",
        "train.show=1",
        "guard.action='warn'",
    ]
    found = read(loop.run(config.load(RECIPE, changes)))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["kl"] > 0 for row in rows)
    assert found.held_out["composite"]["before"] is not None
