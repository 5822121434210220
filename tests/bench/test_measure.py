"""Items × dims: the numbers of `vidrl score`, what is missing alone measured, and a reason
for what is not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from _clips import folder, moving, write

from vidrl import plugin
from vidrl.bench import measure, suite
from vidrl.bench.dims import Dim
from vidrl.bench.items import Item
from vidrl.bench.protocol import Protocol
from vidrl.bench.suite import Suite
from vidrl.rewards import score_files, video
from vidrl.rewards.compose import default

HERE = Path(__file__).parent


def made(*dims, **protocol):
    named = [dim if isinstance(dim, Dim) else Dim(dim, dim) for dim in dims]
    return Suite("test", "1", "", tuple(named), Protocol(**protocol))


def counted(tmp_path, **options):
    return Dim("counted", "_clips:Counted", {"told": str(tmp_path / "told"), **options})


def calls(tmp_path):
    # not the option itself: a file there is identified by its content
    told = tmp_path / "told.calls"
    return len(told.read_text().splitlines()) if told.exists() else 0


def items(path, **given):
    return [Item(file, **given) for file in sorted(path.glob("*.m*"))]


# --- the numbers ----------------------------------------------------------------------


def test_the_numbers_are_those_of_vidrl_score(tmp_path):
    """Long clips come in pieces, rates differ: the value to the last bit, the curve to six
    digits."""
    paths = [write(tmp_path / "a.mkv", frames=35, fps=30.0), write(tmp_path / "b.mkv", frames=2)]
    found = suite.load("temporal")
    rewards = {dim.name: dim.build() for dim in found.dims}
    rows = measure.run([Item(path, "a thing moves left") for path in paths], found)
    for row, path in zip(rows, paths):
        (own,) = score_files([path], rewards, {str(path): "a thing moves left"})
        assert row["value"] == own["value"]
        assert (row["fps"], row["size"], row["frames"]) == (own["fps"], own["size"], own["frames"])
        for name in rewards:
            if own["value"][name] is not None:
                assert row["curve"][name] == pytest.approx(
                    own["curve"][name], rel=1e-5, abs=1e-9
                ), name


@pytest.mark.slow
def test_a_dim_has_one_number_alone_and_among_others(tmp_path):
    clips = items(folder(tmp_path, 1, frames=35, fps=30.0))
    whole = suite.load("temporal")
    together = measure.run(clips, whole)
    for dim in whole.dims:
        for row, alone in zip(together, measure.run(clips, whole.only([dim.name]))):
            assert all(
                row[part][dim.name] == alone[part][dim.name] for part in ("value", "curve")
            ), dim.name


def test_dims_are_measured_under_the_protocol(tmp_path):
    path = write(tmp_path / "a.mkv", frames=48, fps=24.0, side=64)
    (row,) = measure.run([Item(path)], made("flicker", "frame_quality", fps=8, side=32, frames=10))
    assert (row["fps"], row["size"], row["frames"], len(row["curve"]["flicker"])) == (
        8.0,
        [40, 32],
        10,
        10,
    )
    frames = Protocol(fps=8, side=32).small(video.read(path)[0][:30:3])
    small = video.write(tmp_path / "small.mkv", frames, 8.0, lossless=True)
    (same,) = measure.run([Item(small)], made("flicker", "frame_quality"))
    # The same pixels, read from another place in memory: sums may round in another order.
    assert same["value"] == pytest.approx(row["value"], rel=1e-5)


@pytest.mark.slow
def test_processes_give_the_same_rows(tmp_path):
    clips = items(folder(tmp_path, 4))
    found = suite.load("temporal").only(["default", "flicker"])
    assert measure.run(clips, found, jobs=2) == measure.run(clips, found)


def test_parts_of_a_composite_are_not_measured_twice():
    from vidrl.bench.scoring import leaves, without_duplicate_rewards

    parts = {
        "drift": plugin.load("rewards", "drift"),
        "frame_quality": plugin.load("rewards", "frame_quality"),
        **leaves("default", default()),
    }
    single, same = without_duplicate_rewards(parts)
    assert same["default/drift"] == "drift" and set(single) == set(parts) - {"default/drift"}
    assert same["default/frame_quality"] == "default/frame_quality"  # log = true there


# --- what a number depends on ---------------------------------------------------------

FREE = [name for name in plugin.names("rewards") if not plugin.find("rewards", name).learned]
PROMPTS = (
    "",
    "a still life",
    "the camera pans left slowly and a dog runs quickly, a timelapse that loops",
)


@pytest.mark.parametrize("name", [name for name in FREE if not Dim(name, name).reads("prompt")])
def test_dims_that_say_so_do_not_read_the_prompt(tmp_path, name):
    path = write(tmp_path / "a.mkv", frames=9)
    cls = plugin.find("rewards", name)
    dim = Dim(name, name, {"every": 4} if name == "segment_seam" else {})
    values = {measure.run([Item(path, prompt)], made(dim))[0]["value"][name] for prompt in PROMPTS}
    assert len(values) == 1 and cls.__module__.startswith("vidrl.")


def test_dims_that_read_the_prompt_are_known():
    reading = {name for name in FREE if Dim(name, name).reads("prompt")}
    assert {
        "freeze",
        "loop",
        "motion_target",
        "dynamic_degree",
        "warp_error",
        "motion_consistency",
    } <= reading
    assert not {"flicker", "jerk", "cut", "drift", "pumping"} & reading
    assert Dim("d", "default").reads("prompt") and Dim("l", "_clips:Like").reads("reference")


def test_another_prompt_measures_only_what_reads_it(tmp_path):
    path, kept = write(tmp_path / "a.mkv"), tmp_path / "cache"
    found = made(counted(tmp_path), "freeze")
    measure.run([Item(path, "a dog")], found, kept)
    files = set(kept.rglob("*.json"))
    measure.run([Item(path, "a dog stays still")], found, kept)
    assert calls(tmp_path) == 1 and len(set(kept.rglob("*.json")) - files) == 1


def test_a_reference_is_read_in_pieces_too_and_is_part_of_the_key(tmp_path):
    path = write(tmp_path / "a.mkv", frames=40)
    images = [tmp_path / "dark.png", tmp_path / "light.png"]
    for image, light in zip(images, (0, 255)):
        cv2.imwrite(str(image), torch.full((8, 8, 3), light, dtype=torch.uint8).numpy())
    found = made(Dim("like", "_clips:Like"), "flicker")
    seen = [
        measure.run([Item(path, reference=image)], found, tmp_path / "c")[0] for image in images
    ]
    dark, light = (row["value"]["like"] for row in seen)
    mean = float(video.read(path)[0].float().mean() / 255)
    assert dark == pytest.approx(-mean, abs=1e-5) and light == pytest.approx(mean - 1, abs=1e-5)
    (gone,) = measure.run([Item(path, reference=tmp_path / "gone.png")], found, tmp_path / "c")
    assert (
        gone["value"]["flicker"] is not None
        and "expected an image, found none" in gone["why"]["like"]
    )


# --- the cache ------------------------------------------------------------------------


def test_one_more_dim_or_clip_measures_only_that(tmp_path):
    clips, kept = items(folder(tmp_path / "v", 3)), tmp_path / "cache"
    first = measure.run(clips, made(counted(tmp_path)), kept)
    assert calls(tmp_path) == 3
    more = measure.run(clips, made(counted(tmp_path), "flicker"), kept)
    assert calls(tmp_path) == 3
    assert [row["value"]["counted"] for row in more] == [row["value"]["counted"] for row in first]
    write(tmp_path / "v" / "3.mkv", seed=3)
    assert (
        len(measure.run(items(tmp_path / "v"), made(counted(tmp_path)), kept)) == 4
        and calls(tmp_path) == 4
    )


def test_another_protocol_or_option_measures_anew(tmp_path):
    clips, kept = items(folder(tmp_path / "v", 1)), tmp_path / "cache"
    measure.run(clips, made(counted(tmp_path)), kept)
    measure.run(clips, made(counted(tmp_path), fps=4), kept)
    measure.run(clips, made(counted(tmp_path, weight=2.0)), kept)
    assert calls(tmp_path) == 3
    measure.run(clips, made(counted(tmp_path), fps=4), kept)
    assert calls(tmp_path) == 3


def test_the_same_bytes_are_measured_once_wherever_they_lie(tmp_path):
    paths = [write(tmp_path / "a.mkv"), tmp_path / "b.mkv"]
    shutil.copy(*paths)
    rows = measure.run([Item(path) for path in paths], made(counted(tmp_path)))
    assert (
        calls(tmp_path) == 1
        and rows[0]["id"] == rows[1]["id"]
        and rows[0]["value"] == rows[1]["value"]
    )


def test_a_corrupt_row_is_measured_again_and_said(tmp_path, capsys):
    clips, kept = items(folder(tmp_path / "v", 2)), tmp_path / "cache"
    first = measure.run(clips, made(counted(tmp_path)), kept)
    spoiled = next(path for path in kept.rglob("*.json") if path.name != "files.json")
    spoiled.write_text(spoiled.read_text()[:50])
    assert measure.run(clips, made(counted(tmp_path)), kept) == first and calls(tmp_path) == 3
    assert str(spoiled) in capsys.readouterr().err
    assert json.loads(spoiled.read_text())["value"] is not None


RUN = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
from vidrl.bench import measure, suite
from test_measure import items, made
from vidrl.bench.dims import Dim
if __name__ == "__main__":
    dim = Dim("slow", "_clips:Slow", {{"told": {told!r}}})
    measure.run(items(Path({clips!r})), made(dim), Path({cache!r}), jobs={jobs})
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [0, 1])
def test_whoever_is_killed_goes_on_where_he_was(tmp_path, jobs):
    clips, told = folder(tmp_path / "v", 5), tmp_path / "told"
    script = tmp_path / "run.py"
    named = {"here": HERE, "told": told, "clips": clips, "cache": tmp_path / "c"}
    script.write_text(RUN.format(jobs=jobs, **{name: str(path) for name, path in named.items()}))
    rows = lambda: [path for path in (tmp_path / "c").rglob("*.json") if path.name != "files.json"]  # noqa: E731
    child = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(rows()) < 2:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(0.5 if jobs else 0)  # a worker may end its clip
    before, known = calls(tmp_path), len(rows())
    assert 2 <= known < 5
    found = measure.run(
        items(clips), made(Dim("slow", "_clips:Slow", {"told": str(told)})), tmp_path / "c"
    )
    assert calls(tmp_path) - before == 5 - known and all(
        row["value"]["slow"] is not None for row in found
    )


# --- what goes wrong ------------------------------------------------------------------


def dark(path):
    return video.write(path, moving() * 0.05, 8.0, lossless=True)


def test_a_failing_reward_spoils_none_of_the_others(tmp_path):
    write(tmp_path / "a.mkv")
    dark(tmp_path / "b.mkv")
    light, failed = measure.run(
        items(tmp_path), made("flicker", Dim("s", "_clips:Spoiled"), "freeze")
    )
    assert light["why"] == {} and failed["why"] == {"s": "unscored: this network failed <midway>"}
    assert failed["value"]["flicker"] is not None and failed["value"]["freeze"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, said", [("crash", "exit status 3"), ("hang", "took longer than 3 s")]
)
def test_a_crash_or_a_hang_costs_that_clip_alone(tmp_path, how, said):
    write(tmp_path / "a.mkv")
    dark(tmp_path / "b.mkv")
    write(tmp_path / "c.mkv", seed=3)
    found = made(Dim("s", "_clips:Spoiled", {"how": how}))
    kept = tmp_path / "cache"
    rows = measure.run(items(tmp_path), found, kept, jobs=1, timeout=3)
    assert (
        [row["path"][-5] for row in rows] == ["a", "b", "c"]
        and said in rows[1]["why"]
        and "value" not in rows[1]
    )
    assert rows[0]["value"]["s"] is not None and rows[2]["value"]["s"] is not None
    measure.run(items(tmp_path), made("flicker"), kept)
    rows = measure.run(items(tmp_path), made("flicker", *found.dims), kept, jobs=1, timeout=3)
    # what was known stays
    assert rows[1]["value"]["flicker"] is not None and said in rows[1]["why"]["s"]


def test_unreadable_missing_and_cut_off_files_are_rows_with_reasons(tmp_path):
    sound = write(tmp_path / "a.mkv", frames=40, side=64)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "c.mp4").write_bytes(b"")
    paths = [sound, *(tmp_path / f"{name}.mp4" for name in "bcd")]
    rows = measure.run([Item(path) for path in paths], made("flicker"))
    assert rows[0]["value"]["flicker"] is not None
    assert [set(row) for row in rows[1:]] == [{"path", "why", "prompt", "seed"}] * 3
    assert rows[1]["why"].startswith("unreadable: expected a video") and rows[3]["why"].startswith(
        "missing:"
    )


def test_missing_weights_are_found_once_and_never_kept(tmp_path, monkeypatch):
    clips, kept = items(folder(tmp_path / "v", 3)), tmp_path / "cache"
    found = made("flicker", Dim("needy", "_clips:Needy"), Dim("unbuilt", "_clips:Unbuilt"))
    rows = measure.run(clips, found, kept)
    assert all(
        row["why"]
        == {
            "needy": "unscored: needs weights: pip install 'nothing'",
            "unbuilt": "unscored: expected a GPU, found none",
        }
        for row in rows
    )
    assert all(row["value"]["flicker"] is not None for row in rows)
    import _clips

    monkeypatch.setattr(_clips.Needy, "terms", lambda self, samples: samples.frames.mean((2, 3, 4)))
    assert all(row["value"]["needy"] is not None for row in measure.run(clips, found, kept))


def test_a_learned_dims_failure_of_the_day_is_not_kept(tmp_path):
    from vidrl.bench.scoring import is_cacheable, unscored_row

    learned, plain = Dim("n", "_clips:Needy").build(), Dim("c", "_clips:Counted").build()
    assert not is_cacheable(unscored_row("unscored: the server is away"), learned)
    assert is_cacheable(unscored_row("inapplicable: one frame"), learned)
    assert is_cacheable(unscored_row("unscored: NaN in frame 3"), plain)


def test_dims_off_vbenchs_list_of_a_prompt_are_inapplicable(tmp_path):
    path = write(tmp_path / "a.mkv")
    found = suite.load("vbench").only(["vbench_temporal_flickering", "flicker"])
    listed = [Item(path, meta={"vbench": dims}) for dims in (("temporal_flickering",), ())]
    on, off = measure.run(listed, found)
    assert on["why"] == {} and on["meta"] == {} and off["value"]["flicker"] is not None
    assert off["why"] == {"vbench_temporal_flickering": measure.NOT_VBENCH}


def test_progress_sees_what_is_missing_alone(tmp_path):
    clips, seen = items(folder(tmp_path / "v", 3)), []

    def progress(rows, total):
        seen.append(total)
        return rows

    for count in (2, 3, 3):
        measure.run(clips[:count], made("flicker"), tmp_path / "c", progress=progress)
    assert seen == [2, 1]


def test_orders_and_seeds_stay(tmp_path):
    paths = [write(tmp_path / f"{name}.mkv", seed=i) for i, name in enumerate("caxb")]
    rows = measure.run(
        [Item(path, "p", i, None, {"kind": "x"}) for i, path in enumerate(paths)], made("flicker")
    )
    assert [row["path"] for row in rows] == list(map(str, paths)) and [
        row["seed"] for row in rows
    ] == [0, 1, 2, 3]
    assert rows[0]["meta"] == {"kind": "x"}
