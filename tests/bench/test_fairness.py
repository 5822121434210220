"""What forbids a comparison: rates, sizes, and how files were written; and what is too
small a difference to matter."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from _clips import moving
from _results import dim, finish, made

from vidrl.bench import least_relevant, measure, results, suite
from vidrl.bench.export import csv, latex, markdown
from vidrl.bench.fairness import common_rate, count_rates, unfair_differences
from vidrl.bench.file_format import file_format
from vidrl.bench.items import find
from vidrl.bench.page import page
from vidrl.bench.page.facts import significant_side, verdict
from vidrl.bench.table import table


def encode(path, codec="libx264", pixels="yuv420p", fps=16, options=None, frames=9, seed=0):
    """A clip written by an encoder of choice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = (moving(frames, 64, seed=seed) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {})
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = (
            clip.shape[1],
            clip.shape[2],
            pixels,
            1,
        )
        for frame in clip:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())
    return path


def measured(*folders, fps=0.0):
    chosen = suite.load("temporal").only(["flicker"])
    sets = [
        results.measured_set(path.name, str(path), measure.run(find([path]).items, chosen))
        for path in folders
    ]
    return results.assemble(sets, chosen)


# --- how a file was written -----------------------------------------------------------


@pytest.mark.parametrize(
    "name, codec, pixels, wanted",
    [
        ("a.mp4", "libx264", "yuv420p", ("mp4", "h264", "yuv420p")),
        ("a.mkv", "libx264", "yuv444p", ("matroska", "h264", "yuv444p")),
        ("a.mov", "libx265", "yuv420p", ("mp4", "hevc", "yuv420p")),
        ("a.webm", "libvpx-vp9", "yuv420p", ("matroska", "vp9", "yuv420p")),
        ("a.mkv", "ffv1", "bgr0", ("matroska", "ffv1", "bgr0")),
        ("a.avi", "mpeg4", "yuv420p", ("avi", "mpeg4", "yuv420p")),
    ],
)
def test_container_codec_and_pixel_format_are_told(tmp_path, name, codec, pixels, wanted):
    found = file_format(encode(tmp_path / name, codec, pixels), (80, 64), 9)
    assert (found["container"], found["codec"], found["pixels"]) == wanted
    whole = 8 * (tmp_path / name).stat().st_size / (80 * 64 * 9)
    # without the container's own bytes, where they are told apart
    assert 0.3 * whole < found["bits"] <= 1.001 * whole


def test_without_pyav_the_container_and_the_bits_are_told(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.webm", "libvpx-vp9")
    monkeypatch.setitem(sys.modules, "av", None)
    found = file_format(path, (80, 64), 9)
    assert (found["container"], found["codec"], found["pixels"]) == ("matroska", None, None)
    assert found["bits"] == pytest.approx(8 * path.stat().st_size / (80 * 64 * 9), rel=1e-3)
    notes = measured(tmp_path)["notes"]
    assert any("the codec of 1 clips is not known: PyAV" in note for note in notes)


# --- what differs between sets --------------------------------------------------------


def test_sets_of_other_encoders_are_told_under_every_headline(tmp_path):
    for i in range(2):
        encode(tmp_path / "base" / f"{i}.mkv", "ffv1", "bgr0", seed=i)
        encode(tmp_path / "ours" / f"{i}.mp4", "libx264", options={"crf": "18"}, seed=i)
    found = measured(tmp_path / "base", tmp_path / "ours")
    (said,) = found["fairness"]
    shown = f"{said[:1].upper()}{said[1:]}."
    for words in (
        "container (base matroska, ours mp4)",
        "codec (base ffv1, ours h264)",
        "pixel format (base bgr0, ours yuv420p)",
        "bits a pixel (base ",
    ):
        assert words in said
    assert said in found["notes"]
    lines = table(found).splitlines()
    assert lines[1] == f"note: {said}" and sum(said in line for line in lines) == 1
    assert markdown(found).startswith("> the files of the sets differ in container")
    text = page(found, tmp_path / "report.html", {})
    assert text.index(shown) < text.index("</header>")
    assert text.count("he files of the sets differ in") == 2  # and in the Markdown to paste
    again = results.merge([results.load(results.write(found, tmp_path / "out").parent)])
    assert again["fairness"] == found["fairness"]


def test_one_encoder_at_two_settings_differs_in_bits(tmp_path):
    for name, crf in (("base", "5"), ("ours", "30")):
        encode(tmp_path / name / "0.mp4", options={"crf": crf})
    (said,) = measured(tmp_path / "base", tmp_path / "ours")["fairness"]
    assert said.startswith("the files of the sets differ in bits a pixel (base ")


def test_sets_written_alike_are_not_told(tmp_path):
    for name in ("base", "ours"):
        for i in range(2):
            encode(tmp_path / name / f"{i}.mp4", seed=i)
    assert measured(tmp_path / "base", tmp_path / "ours")["fairness"] == []


def test_saved_results_of_other_codecs_are_told_when_they_are_merged(tmp_path):
    encode(tmp_path / "base" / "0.mp4")
    encode(tmp_path / "ours" / "0.mp4", "mpeg4")
    apart = [measured(tmp_path / name) for name in ("base", "ours")]
    assert [one["fairness"] for one in apart] == [[], []]
    assert "codec (base h264, ours mpeg4)" in results.merge(apart)["fairness"][0]


def test_codecs_mixed_within_a_set_are_told(tmp_path):
    encode(tmp_path / "v" / "0.mp4")
    encode(tmp_path / "v" / "1.mp4", "mpeg4")
    assert "v: clips of 2 codecs: h264 (1), mpeg4 (1)" in measured(tmp_path / "v")["notes"]


def test_the_csv_says_how_each_clip_was_written(tmp_path):
    encode(tmp_path / "v" / "0.mp4")
    head, row = (line.split(",") for line in csv(measured(tmp_path / "v")).splitlines())
    told = dict(zip(head, row, strict=True))
    assert (told["container"], told["codec"], told["pixels"]) == (
        "mp4",
        "h264",
        "yuv420p",
    ) and float(told["bits"]) > 0


# --- rates ----------------------------------------------------------------------------


def test_one_rate_in_two_containers_is_one(tmp_path):
    """Matroska rounds time stamps to milliseconds: by its stamps 16 is 15.9967."""
    encode(tmp_path / "m" / "0.mp4", frames=6)
    encode(tmp_path / "k" / "0.mkv", frames=6)
    found = measured(tmp_path / "m", tmp_path / "k")
    (said,) = found["fairness"]
    assert said == (
        "the files of the sets differ in container (m mp4, k matroska); codec, pixel format and "
        "bits a "
        "pixel are the same"
    )
    assert not [
        note for note in found["notes"] if "frames a second" in note or "frame rates" in note
    ]
    sets = [
        {"name": name, "clips": [{"fps": fps, "size": [4, 4]}] * 2}
        for name, fps in (("m", 16.0), ("k", 15.9967))
    ]
    assert unfair_differences(sets) == []


@pytest.mark.parametrize(
    "rates, wanted",
    [
        ([24.0, 16.0], 8.0),
        ([30.0, 15.0], 15.0),
        ([30.0, 24.0], None),
        ([25.0, 24.0], None),
        ([23.976, 24.0], 23.976),
        ([16.0, 15.9967], 15.9967),
        ([12.0, 4.0], 4.0),
        ([60.0, 24.0], 12.0),
        ([8.0, 12.0], None),
    ],
)
def test_the_common_rate_leaves_frames_out_evenly(rates, wanted):
    assert common_rate(rates) == wanted


@pytest.mark.parametrize(
    "other, said",
    [
        (24.0, "measure all with --fps 8, which leaves"),
        (25.0, "make the clips at one rate; a conversion that repeats"),
    ],
)
def test_the_advice_on_rates_does_no_harm(other, said):
    sets = [
        {"name": name, "clips": [{"fps": fps, "size": [4, 4]}]}
        for name, fps in (("a", 16.0), ("b", other))
    ]
    (told,) = unfair_differences(sets)
    assert f"(a 16, b {other:g})" in told and said in told


def test_rates_that_rounding_parts_are_counted_together():
    assert count_rates([24.0, 23.976, 30.0, 29.97, 30.0]) == {24.0: 2, 30.0: 3}


def test_sizes_that_differ_are_told():
    sets = [
        {"name": name, "clips": [{"fps": 8.0, "size": size}]}
        for name, size in (("a", [4, 4]), ("b", [8, 4]))
    ]
    assert unfair_differences(sets) == [
        "the sets differ in the size of their pictures (a 4x4, b 8x4): make them at one size, or "
        "measure all with one --side"
    ]


# --- the least relevant difference ----------------------------------------------------


def sure_but_small(least):
    """Two sets that differ surely by 0.03 on both dims, of which `flicker` may move by
    `least` when re-encoded."""
    found = made(dims=("flicker", "warp_error"))
    found["dims"] = [dim("flicker", relevant=least), dim("warp_error", relevant=None)]
    return finish(found)


@pytest.mark.parametrize("least, wanted", [(0.001, 1), (0.2, 0), (None, 1)])
def test_a_difference_below_that_of_a_re_encoding_is_not_beyond_doubt(least, wanted):
    found = sure_but_small(least)
    row = found["comparisons"][0]
    assert significant_side(found, row) == 1 and verdict(found, row) == wanted
    assert ("~: p < 0.05, but smaller than the change by a re-encoding" in table(found)) == (
        wanted == 0
    )
    assert ("not relevant" in page(found, found_at(), {})) == (wanted == 0)
    assert ("no relevant difference" in page(found, found_at(), {})) == (wanted == 0)
    assert (r"\textbf" in latex(found).split("flicker")[1].split(r"\\")[0]) == (wanted == 1)


def found_at():
    from pathlib import Path

    return Path("report.html")


def test_the_page_names_dims_without_a_measured_value():
    assert "No least relevant difference is known of warp_<wbr>error." in page(
        sure_but_small(0.01), found_at(), {}
    )


def test_every_dim_of_the_temporal_suite_has_its_measured_value():
    """A changed option, weight or version makes another hash: run
    benchmarks/studies/codec_floor.py again."""
    dims = suite.load("temporal").dims
    assert {one.name: least_relevant.lookup(one.hash, False) is not None for one in dims} == {
        one.name: True for one in dims
    }
    apart = {one.name: least_relevant.lookup(one.hash, alike=False) for one in dims}
    alike = {one.name: least_relevant.lookup(one.hash, alike=True) for one in dims}
    assert apart["cut"] >= 1e-4 and apart["pumping"] > 0.05 and apart["default"] > 0.3
    assert 0 < alike["default"] < apart["default"] and alike["pumping"] < apart["pumping"]


@pytest.mark.parametrize("codec, wanted", [("h264", 0.25), ("vp9", 0.5)])
def test_sets_that_one_encoder_wrote_share_the_change_that_it_makes(monkeypatch, codec, wanted):
    """Then the least relevant difference is the smaller one, how far clips deviate from the
    shared change."""
    found = made(dims=("flicker",))
    digest = found["dims"][0]["hash"]
    monkeypatch.setattr(
        least_relevant, "_measured", lambda: {digest: {"least": 0.5, "alike": 0.25}}
    )
    for one, name in zip(found["sets"], ("h264", codec), strict=True):
        for clip in one["clips"]:
            clip["written"] = {"container": "mp4", "codec": name, "pixels": "yuv420p", "bits": 0.1}
    assert results.with_statistics(found)["dims"][0]["relevant"] == wanted
