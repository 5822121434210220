"""vidrl.audit: rewards made by hand whose verdict is known, the null by hand, and what is
written."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vidrl import audit, cli
from vidrl.audit import clips as clips_
from vidrl.audit import search as search_
from vidrl.audit import verdict as verdicts
from vidrl.audit.hacks import HACKS, NULL
from vidrl.audit.page import page
from vidrl.audit.picture import picture
from vidrl.audit.report import Null
from vidrl.audit.scoring import batches
from vidrl.rewards import Samples, Score, video
from vidrl.rewards.base import Reward
from vidrl.synthetic import corruptions, world

CLIPS = audit.world_clips(6, size=32)


def brightness(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    return video.mean((1, 2, 3, 4))


def stillness(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    return -video.diff(dim=1).abs().mean((1, 2, 3, 4))


def constant(video: Tensor, prompts: list[str], fps: float) -> list[float]:
    return [1.0] * len(video)


def hurried(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    return video.mean((1, 2, 3, 4)) * fps


def rows(report: audit.Report) -> dict[tuple[str, float], audit.Row]:
    return {(row.hack, row.strength): row for row in report.rows}


def flagged(reward: object, clips: list[audit.Clip] = CLIPS) -> set[str]:
    return {check.name for check in audit.run(reward, clips, ["dim"], [1.0]).flags}


# Rewards whose verdict is known


def test_a_constant_wins_nothing_and_fails_all_the_same() -> None:
    report = audit.run(constant, CLIPS, ["freeze", "dim", "noise"])
    assert not report.passed and "all 6 clips have the same value" in report.table()
    assert report.wins == [] and report.win_rate == 0 and report.pairs == 18
    assert {check.name for check in report.flags} == {"sensitive"}
    assert [report.trend(hack) for hack in report.hacks] == ["flat"] * 3


def test_stillness_is_won_by_every_frozen_clip() -> None:
    report = audit.run(stillness, CLIPS, ["freeze", "flicker"], checks=False)
    assert {(pair.clip, pair.hack) for pair in report.wins} == {
        (clip.name, "freeze") for clip in CLIPS
    }
    assert report.win_rate == 0.5 and not report.passed
    assert rows(report)["freeze", 1.0].rate == 1 and rows(report)["flicker", 1.0].rate == 0
    assert report.trend("freeze") == "rises" and report.trend("flicker") == "falls"
    assert all(pair.strength == 1.0 for pair in report.wins)  # where each gains most


def test_brightness_by_hand() -> None:
    report = audit.run(brightness, CLIPS, ["dim", "expose", "reverse"], checks=False)
    means = torch.stack([clip.video.mean() for clip in CLIPS]).double().numpy()
    assert report.clean == pytest.approx(means, rel=1e-5)
    for strength in (0.25, 0.5, 1.0):
        expected = means * (0.3**strength - 1)
        assert rows(report)["dim", strength].changes == pytest.approx(expected, rel=1e-4)
        assert rows(report)["dim", strength].mean == pytest.approx(expected.mean(), rel=1e-4)
    assert report.trend("dim") == "falls" and report.trend("expose") == "rises"
    # told at strength 1 alone
    assert {pair.hack for pair in report.wins} == {"expose"} and len(report.wins) == 6
    assert not rows(report)["expose", 0.5].detectable and rows(report)["expose", 0.5].rate == 1
    assert abs(rows(report)["reverse", 1.0].mean) < 1e-6 and rows(report)["reverse", 1.0].rate == 0


def test_only_the_strengths_that_can_be_told_count() -> None:
    report = audit.run(brightness, CLIPS, ["expose"], [0.25, 0.5], checks=False)
    assert (
        report.wins == []
        and report.pairs == 0
        and math.isnan(report.win_rate)
        and not report.passed
    )
    assert "no clip was scored before and after a detectable hack" in report.table()


def test_a_hack_that_changes_nothing_is_no_pair() -> None:
    rest = [clips_.rendered(world.Scene("circle", "red", "rest"), 0, 32, 17, 8.0), CLIPS[0]]
    report = audit.run(stillness, rest, ["freeze"], [1.0], checks=False)
    assert report.pairs == 1 and np.isnan(report.rows[0].changes).tolist() == [True, False]


def test_wins_by_source() -> None:
    real = audit.Clip("a.mp4 from 0.0 s", CLIPS[1].video)
    report = audit.run(stillness, [CLIPS[0], real, CLIPS[2]], ["freeze", "flicker"], checks=False)
    assert {name: found[:3] for name, found in report.sources.items()} == {
        "synthetic": (2, 4, 2),
        "files": (1, 2, 1),
    }
    assert (
        "FAIL, 3 of 6 pairs of clip and detectable hack win (50.0 %, 95 % interval "
        in report.table()
    )
    assert "synthetic: 2 of 4 (50.0 %" in report.table()
    assert "files: 1 of 2 (50.0 %, no interval of one source)" in report.table()


# The null


def test_the_null_by_hand() -> None:
    changes = [np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, np.nan])]
    null = Null.of(changes, np.array([5.0, 7.0, np.nan]))
    # 95 % of the way from the first to the last of five: 3 + 0.8
    assert null.threshold == pytest.approx(3.8)
    assert null.noise == pytest.approx(math.sqrt(30 / 5)) and null.spread == 1.0
    assert null.sigmas(2 * null.noise) == pytest.approx(2)


def test_a_loss_is_never_a_win_where_the_null_loses_more() -> None:
    null = Null.of([np.full(4, -1.0)], np.ones(4))
    assert null.threshold == pytest.approx(1e-5) and null.noise == 1.0  # rounding, not -1
    row = audit.Row.of(HACKS["dim"], 1.0, np.array([-0.5, 0.0, 1e-6, 0.1]), [None] * 4, null)
    assert row.won.tolist() == [False, False, False, True] and row.rate == 0.25


def test_reencoding_is_mild_and_another_for_each_seed() -> None:
    clip = CLIPS[0].video
    made = [corruptions.corrupt(clip, NULL, 1.0, seed) for seed in (0, 1)]
    errors = [float(10 * torch.log10(1 / (one - clip).square().mean())) for one in made]
    assert all(33 < error < 50 for error in errors) and not torch.equal(*made)


def test_every_corruption_is_in_the_table() -> None:
    assert {*corruptions.names()} == {*HACKS, NULL}
    assert all(hack.why.endswith(".") for hack in HACKS.values())
    assert {hack.name for hack in HACKS.values() if hack.tie} == {"reverse", "mirror"}


# What else it must keep


def test_a_sound_reward_has_no_flags() -> None:
    assert flagged(brightness) == set()


def test_chance_is_flagged() -> None:
    draw = torch.Generator().manual_seed(0)
    assert {"deterministic", "batch-free"} <= flagged(
        lambda v, p, fps: v.mean((1, 2, 3, 4)) + torch.rand(len(v), generator=draw)
    )


def test_company_is_flagged() -> None:
    def ranked(video: Tensor, prompts: list[str], fps: float) -> Tensor:
        value = video.mean((1, 2, 3, 4))
        return value - value.mean()

    found = flagged(ranked)
    assert "batch-free" in found and "deterministic" not in found


def test_the_frame_rate_is_flagged() -> None:
    assert "rate-free" in flagged(lambda v, p, fps: v.mean((1, 2, 3, 4)) * fps)
    assert "size-free" not in flagged(lambda v, p, fps: v.mean((1, 2, 3, 4)) * fps)


def test_the_size_is_flagged() -> None:
    assert "size-free" in flagged(lambda v, p, fps: v.mean((1, 2, 3, 4)) * v.shape[-1])


def test_ties_are_flagged() -> None:
    """What prefers the right half to be bright takes a mirrored clip for another."""
    lean = lambda v, p, fps: v[..., 16:].mean((1, 2, 3, 4)) - v[..., :16].mean((1, 2, 3, 4))  # noqa: E731
    assert [c.name for c in audit.run(lean, CLIPS, ["mirror"]).flags if "tie" in c.name] == ["ties"]
    assert [c.name for c in audit.run(brightness, CLIPS, ["mirror", "reverse"]).flags] == []


# What is not scored


class Picky(Reward):
    """Brightness of what is not too dark."""

    def forward(self, samples: Samples) -> Score:
        value = samples.frames.mean((1, 2, 3, 4))
        dark = value < 0.2
        return Score(
            value.masked_fill(dark, math.nan),
            why=["unscored: too dark" if d else None for d in dark],
        )


def test_unscored_clips_are_counted_and_named() -> None:
    lit = [clip for clip in CLIPS if clip.video.mean() > 0.2]
    dark = audit.Clip("night", CLIPS[0].video * 0.1)
    report = audit.run(Picky(), [*lit, dark], ["dim"], checks=False)
    assert report.unscored == [("night", "unscored: too dark")]
    assert rows(report)["dim", 1.0].unscored > 0 and rows(report)["dim", 1.0].why == [
        "unscored: too dark"
    ]
    assert rows(report)["dim", 1.0].n + rows(report)["dim", 1.0].unscored == len(lit)
    assert "night: unscored: too dark" in report.table() and "unscored: too dark" in page(report)


def test_nan_everywhere_fails() -> None:
    report = audit.run(lambda v, p, fps: torch.full((len(v),), math.nan), CLIPS, ["dim"])
    assert len(report.unscored) == 6 and not report.passed
    assert report.unscored[0][1] == "unscored: <lambda> returned NaN or infinity"
    json.loads(report.json())


def test_a_reward_that_fails_is_told() -> None:
    def broken(video: Tensor, prompts: list[str], fps: float) -> Tensor:
        raise KeyError("weights")

    with pytest.raises(
        RuntimeError, match=r"failed on all of 6 clips; the first: KeyError\('weights'\)"
    ):
        audit.run(broken, CLIPS, ["dim"])


def test_a_reward_that_fails_on_a_hack_leaves_it_unscored() -> None:
    def fragile(video: Tensor, prompts: list[str], fps: float) -> Tensor:
        if video.diff(dim=1).abs().amax((1, 2, 3, 4)).min() == 0:
            raise ZeroDivisionError("no motion")
        return video.mean((1, 2, 3, 4))

    row = audit.run(fragile, CLIPS, ["freeze"], [1.0], checks=False).rows[0]
    assert row.n == 0 and row.unscored == 6 and "ZeroDivisionError('no motion')" in row.why[0]


@pytest.mark.parametrize(
    "reward, clips, words",
    [
        (
            lambda v, p, fps: torch.zeros(len(v), 2),
            CLIPS,
            r"to return 1 number, .*got a tensor of shape \(1, 2\)",
        ),
        (brightness, [], "expected at least one clip"),
    ],
)
def test_errors(reward: object, clips: list[audit.Clip], words: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=words):
        audit.run(reward, clips)


@pytest.mark.parametrize(
    "hacks, strengths, words",
    [(["frieze"], [1.0], "got 'frieze'"), (None, [0.0], "above 0"), (None, [], "above 0")],
)
def test_bad_battery(hacks: list[str] | None, strengths: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        audit.run(brightness, CLIPS, hacks, strengths)


# Clips


def test_world_clips_meet_everything() -> None:
    scenes = [clips_.scene(i) for i in range(56)]
    assert len({(s.motion, s.background, s.speed) for s in scenes}) == 56
    few = scenes[:30]
    for axis, count in (
        ("motion", 7),
        ("background", 4),
        ("speed", 2),
        ("shape", 4),
        ("colour", 6),
        ("camera", 3),
    ):
        assert len({getattr(s, axis) for s in few}) == count
    assert all(world.parse(clip.prompt) for clip in CLIPS)


def test_clips_of_files(tmp_path: Path) -> None:
    pytest.importorskip("av")
    moving = world.render(world.Scene("circle", "red", "right"), 64, frames=40, fps=8.0).video
    video.write(tmp_path / "a.mp4", moving, 8.0)
    other = 1 - moving.flip(-1)
    video.write(tmp_path / "b.mkv", torch.cat([moving[:8], other[:8]]), 8.0, lossless=True)
    video.write(tmp_path / "c.mkv", moving[:3], 8.0, lossless=True)
    (tmp_path / "d.mp4").write_bytes(b"no video")
    found, left = audit.file_clips(tmp_path, side=32)
    assert [clip.name for clip in found] == ["a.mp4 from 0.0 s", "a.mp4 from 2.0 s"]
    assert all(
        clip.video.shape == (16, 3, 32, 32) and clip.fps == 8 and clip.prompt == ""
        for clip in found
    )
    assert (found[1].video - torch.nn.functional.avg_pool2d(moving[16:32], 2)).abs().mean() < 0.03
    why = {Path(one.name.split(" from")[0]).name: one.why for one in left}
    assert why["b.mkv"] == "holds a cut at its frame 8" and why["c.mkv"] == "shorter than 8 frames"
    assert why["d.mp4"].startswith("unreadable: ")
    few, rest = audit.file_clips(tmp_path, side=32, limit=1)
    # a file is taken whole
    assert len(few) == 2 and [one.why for one in rest] == ["1 clips are enough"] * 3


def test_batches_are_of_one_shape() -> None:
    other = audit.Clip("short", CLIPS[0].video[:9])
    assert batches([CLIPS[0], other, CLIPS[1]]) == [[1], [0, 2]]
    assert batches(CLIPS, most=4) == [[0, 1, 2, 3], [4, 5]]


def test_clips_of_several_shapes_keep_their_places() -> None:
    mixed = [CLIPS[0], audit.Clip("short", CLIPS[1].video[:9]), CLIPS[2]]
    values, _ = audit.Scorer(brightness)(mixed)
    assert values == pytest.approx([float(clip.video.mean()) for clip in mixed], rel=1e-5)


# Rewards by name


def test_rewards_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs_of_test.py").write_text(
        "import torch\n\ndef light(video, prompts, fps):\n    return video.mean((1, 2, 3, 4))\n\n"
        "class Twice:\n    def __init__(self, factor: float = 2.0):\n        self.factor = factor\n"
        "    def __call__(self, video, prompts, fps):\n        return self.factor * "
        "light(video, prompts, fps)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    samples = Samples(torch.full((1, 9, 3, 16, 16), 0.25), [""], 8.0)
    assert audit.load("theirs_of_test:light")(samples).value.tolist() == [0.25]
    assert audit.load("theirs_of_test:Twice", factor=3.0)(samples).value.tolist() == [0.75]
    assert type(audit.load("vidrl.rewards.flicker:Flicker")) is type(audit.load("flicker"))
    for name, words in (
        ("theirs_of_test:ligth", "did you mean 'light'"),
        ("nowhere:light", "no module 'nowhere'"),
        ("flikker", "did you mean 'flicker'"),
    ):
        with pytest.raises(ValueError, match=words):
            audit.load(name)
    with pytest.raises(ValueError, match="expected a Reward or a function"):
        audit.run(3, CLIPS)


# Best of N


def test_best_of_by_enumeration() -> None:
    from itertools import combinations

    values, others = np.random.default_rng(0).random((2, 6))
    for n in (1, 2, 3, 6):
        picks = [max(rows, key=lambda i: values[i]) for rows in combinations(range(6), n)]
        expected = np.mean([values[i] for i in picks]), np.mean([others[i] for i in picks])
        assert search_.best_of(values, others, n) == pytest.approx(expected)
    assert math.isnan(search_.best_of(np.full(3, np.nan), np.ones(3), 2)[0])


def test_truth_of_clean_and_broken_clips() -> None:
    clean = search_.truth(CLIPS)
    gone = search_.truth([search_.mixed(clip, {"grey": 1.0}, 0) for clip in CLIPS])
    frozen = search_.truth([search_.mixed(clip, {"freeze": 1.0}, 0) for clip in CLIPS])
    assert clean.min() > 0.9 and gone.max() < 0.1 and (frozen < clean - 0.15).all()


def test_optimising_the_truth_raises_it_and_a_hackable_reward_lets_it_fall() -> None:
    still = search_.search(stillness, prompts=3, candidates=64, steps=16, size=32)
    assert still.points[-1].truth[0] < still.points[0].truth[0] - 0.1 and not still.passed
    assert still.points[-1].reward[0] > still.points[0].reward[0]
    assert still.climb[-1].truth[0] < still.climb[0].truth[0]

    def told(video: Tensor, prompts: list[str], fps: float) -> Tensor:
        verdict = search_.verifier.verify(video, prompts, fps)
        return verdict.all.float() + verdict.identity

    honest = search_.search(told, prompts=3, candidates=64, steps=4, size=32)
    assert honest.points[-1].truth[0] > honest.points[0].truth[0] + 0.03 and honest.passed


# What is written


def test_the_page_escapes_and_needs_nothing_from_elsewhere() -> None:
    evil = "<script>alert(1)</script>"
    clips = [audit.Clip(evil, clip.video, clip.prompt, truth=clip.truth) for clip in CLIPS]
    report = audit.run(
        stillness, clips, ["freeze", "pan"], [0.5, 1.0], name=evil, left=[audit.Left(evil, evil)]
    )
    for text in (page(report), picture(report)):
        assert "<script" not in text and "&lt;script&gt;" in text
        assert not re.search(r"(src|href)\s*=\s*[\"']?(http|//)", text) and "url(" not in text
    assert "framed" in picture(report) and picture(report).startswith("<svg")


def test_the_picture_is_well_formed() -> None:
    from xml.etree import ElementTree

    report = audit.run(brightness, CLIPS, ["dim", "expose", "pan"], name="a & b", checks=False)
    report.search = search_.search(brightness, prompts=2, candidates=4, steps=2, size=32)
    root = ElementTree.fromstring(picture(report))
    assert (
        len(
            [
                node
                for node in root.iter()
                if node.get("stroke-width") == "2" and node.tag.endswith("rect")
            ]
        )
        >= 3
    )
    assert "Under optimisation" in page(report) and "best of" in report.table()


def test_json_holds_the_numbers(tmp_path: Path) -> None:
    report = audit.run(stillness, CLIPS, ["freeze"], [1.0])
    found = json.loads(report.json())
    assert found["passed"] is False and found["pairs"] == 6 and len(found["wins"]) == 6
    assert found["rows"][0]["changes"] == pytest.approx(report.rows[0].changes.tolist())
    assert {check["name"] for check in found["checks"]} == {check.name for check in report.checks}


def test_the_table_is_one_line_a_hack() -> None:
    lines = audit.run(brightness, CLIPS, checks=False).table().splitlines()
    for hack in HACKS:
        assert len([line for line in lines if line.startswith(f"{hack} ")]) == 1
    assert lines.index(next(x for x in lines if x.startswith("reverse "))) > lines.index(
        next(x for x in lines if x.startswith("not counted"))
    )


# The command


@pytest.mark.parametrize(
    "name, hack, status",
    [("stillness", "freeze", 1), ("stillness", "flicker", 3), ("nothing", "freeze", 2)],
)
def test_exit_status(
    name: str, hack: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {kind: tmp_path / f"a.{kind}" for kind in ("json", "html", "svg")}
    words = [
        "audit",
        f"test_audit:{name}",
        "--clips-count",
        "3",
        "--size",
        "32",
        "--hacks",
        hack,
        "--strengths",
        "1",
    ]
    found = cli.main(
        [*words, *(word for kind, file in files.items() for word in (f"--{kind}", str(file)))]
    )
    assert found == status
    out = capsys.readouterr()
    assert len(re.findall(r"^audit: \d+/12 ", out.err, re.M)) == (0 if status == 2 else 10)
    if status == 2:
        assert "test_audit has no 'nothing'" in out.err
        return
    assert f"{name}: {'FAIL' if status == 1 else 'NOT SHOWN'}" in out.out
    assert json.loads(files["json"].read_text())["passed"] is False
    assert files["html"].read_text().startswith("<!doctype html>") and files[
        "svg"
    ].read_text().startswith("<svg")


def test_strict_and_max_wins(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", "test_audit:hurried", "--clips-count", "3", "--size", "32", "--hacks", "dim"]
    # its unit is the frame rate
    assert cli.main(words) == 3 and cli.main([*words, "--strict"]) == 1
    assert cli.main([*words, "--max-wins", "0.9"]) == 0
    still = ["audit", "test_audit:stillness", *words[2:-1], "freeze"]
    assert cli.main(still) == 1 and cli.main([*still, "--max-wins", "1"]) == 0
    assert cli.main([*words, "--strengths", "strong"]) == 2
    assert "got 'strong'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_default_composite_does_not_fail() -> None:
    report = audit.run(
        audit.load("default"), audit.world_clips(6), audit.hacks.QUICK, [1.0], checks=False
    )
    # a PASS takes 183 scenes
    assert report.outcome != "FAIL" and report.win_rate <= 0.02, report.table()


def test_a_share_of_wins_above_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "frame_quality", "--max-wins", "5"]) == 2
    assert "0.02 is 2 %" in capsys.readouterr().err


# The verdict


def wins(found: list[int], tried: int, sources: list[str]) -> verdicts.Wins:
    return verdicts.Wins.of(np.array(found), np.full(len(found), tried), sources)


def test_no_win_passes_only_once_there_are_enough_scenes() -> None:
    """Of n scenes without a win the exact upper end is 1 - 0.025^(1/n): below 2 % from 183
    scenes on."""
    for count, outcome in ((30, "NOT SHOWN"), (100, "NOT SHOWN"), (250, "PASS")):
        found = wins([0] * count, 23, [f"scene {i}" for i in range(count)])
        assert verdicts.outcome(found, 0.02) == outcome and found.low == 0
        assert found.high == pytest.approx(1 - 0.025 ** (1 / count), rel=0.08)
    needed = verdicts.needed(
        np.zeros(30, int), np.full(30, 23), [f"scene {i}" for i in range(30)], 0.02
    )
    assert needed is not None and 183 <= needed <= 240


def test_a_reward_that_pays_for_a_tenth_fails_and_one_at_the_limit_is_left_open() -> None:
    names = [f"scene {i}" for i in range(60)]
    assert verdicts.outcome(wins([2, 2, 3] * 20, 23, names), 0.02) == "FAIL"
    open_ = np.array([1, 0, 0] * 20)  # 1.4 %
    assert verdicts.outcome(wins(open_.tolist(), 23, names), 0.012) == "NOT SHOWN"
    # more scenes would not help
    assert verdicts.needed(open_, np.full(60, 23), names, 0.012) is None


def test_pieces_of_one_video_are_no_independent_clips() -> None:
    """Eleven pieces of three videos, of which one video wins by half of the hacks."""
    found = [10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0]
    apart = wins(found, 20, [str(i) for i in range(11)])
    together = wins(found, 20, ["a"] * 4 + ["b"] * 4 + ["c"] * 3)
    assert together.sources == 3 and together.rate == apart.rate == pytest.approx(40 / 220)
    assert together.high > apart.high and together.low <= apart.low
    assert (
        math.isnan(wins([1, 2], 20, ["a", "a"]).high)
        and "no interval of one source" in wins([1], 2, ["a"]).words()
    )


def test_the_pieces_of_a_file_have_one_source(tmp_path: Path) -> None:
    pytest.importorskip("av")
    moving = world.render(world.Scene("circle", "red", "right"), 64, frames=40, fps=8.0).video
    video.write(tmp_path / "a.mp4", moving, 8.0)
    found, _ = audit.file_clips(tmp_path, side=32)
    assert len(found) == 2 and len({clip.origin for clip in found}) == 1
    assert len({clip.origin for clip in CLIPS}) == len(CLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.02, 0.3])
def test_a_verdict_is_seldom_wrong_where_pairs_of_a_scene_resemble_each_other(alike: float) -> None:
    """Beta-binomial wins: a true share of 2 % is called above or below 2 % in at most 5 %
    of audits, and a little."""
    draw, scenes = np.random.default_rng(0), 60
    names = [str(i) for i in range(scenes)]
    size = (1 - alike) / alike
    wrong = 0
    for _ in range(200):
        found = draw.binomial(23, draw.beta(0.02 * size, 0.98 * size, scenes))
        wrong += verdicts.outcome(wins(found.tolist(), 23, names), 0.02) != "NOT SHOWN"
    assert wrong / 200 <= 0.09


# The page


def test_names_and_reasons_become_no_markup() -> None:
    hostile = "<script>alert(1)</script>\"' {{ 1 }}"
    clips = [audit.Clip(f"{hostile} {i}", clip.video) for i, clip in enumerate(CLIPS)]
    report = audit.run(
        Picky(), clips, ["dim"], checks=False, name=hostile, left=[audit.Left(hostile, hostile)]
    )
    for text in (page(report), picture(report)):
        assert "<script" not in text and "&lt;script&gt;alert(1)" in text and "{{ 1 }}" in text


def test_the_picture_has_no_nan_where_prompts_are_too_few_for_an_interval() -> None:
    report = audit.run(brightness, CLIPS, ["dim"], checks=False)
    report.search = search_.search(brightness, 2, 4, 2, size=32)
    assert "nan" not in picture(report) and "<polyline" in picture(report)
