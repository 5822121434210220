"""The report says where the credit went and why, on the clip's own time axis, and only what
the run folder holds."""

import base64
import json
import math
import re

import cv2
import numpy as np
import pytest
import torch

from vidrl.report import charts, run_folder, run_report
from vidrl.report.page import film, influence
from vidrl.report.page.reading import contributions, reading
from vidrl.rewards import video

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)> & ' {braces}"
SPANS = [[0, 5], [5, 9]]


def clip(path, frames, height=48, width=96):
    """Frame t is grey of t / frames, so that a picture of it can be told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = torch.arange(frames).view(-1, 1, 1, 1).expand(-1, 3, height, width) / frames
    return video.write(path, grey, fps=8.0)


def row(**more):
    """A clip of 9 frames and two segments; flicker is better than the others' in the first,
    drift in neither."""
    curves = {"composite": [0.5] * 9, "flicker": [0.6] * 5 + [0.1] * 4, "drift": [0.1] * 9}
    others = {"composite": [0.4] * 9, "flicker": [0.2] * 9, "drift": [0.2] * 9}
    return {
        "prompt": "a circle",
        "value": 0.5,
        "file": "clips/train/best.mp4",
        "parts": {"flicker": 0.4, "drift": 0.1},
        "curves": curves,
        "others": others,
        "slopes": {"flicker": 2.0, "drift": 1.0},
        "segments": SPANS,
        "advantage": [1.2, -0.5],
        "curve": curves["composite"],
        **more,
    }


def folder(tmp_path, rows, influence=None, frames=9):
    (tmp_path / "config.toml").write_text("seed = 0\n")
    (tmp_path / "credit.json").write_text(json.dumps(rows))
    if influence is not None:
        (tmp_path / "influence.json").write_text(json.dumps(influence))
    for name in ("best", "worst"):
        clip(tmp_path / "clips" / "train" / f"{name}.mp4", frames)
    return tmp_path


def html(run):
    return run_report.write(run).read_text()


def lane(text, name):
    """What is drawn in the lane of this name, up to the next lane."""
    start = text.index(f'<div class="name">{name}')
    return text[start : text.find('<div class="lane">', start) % len(text)]


# --- why, in words


def test_the_reason_is_what_the_curves_say():
    assert reading(row()) == (
        "Frames 0 to 4 were pushed up most (+1.2), because flicker was better there than in the "
        "group's other clips. "
        "Frames 5 to 8 were pushed down most (−0.5), because flicker and drift were worse there "
        "than in the group's "
        "other clips."
    )


def test_contributions_are_differences_times_slopes():
    assert contributions(row(), (0, 5)) == pytest.approx({"flicker": 2.0 * 0.4, "drift": -0.1})
    assert contributions(row(), (5, 9)) == pytest.approx({"flicker": 2.0 * -0.1, "drift": -0.1})


def test_small_contributions_are_not_named_as_reasons():
    assert "because flicker was worse" in reading(row(slopes={"flicker": 2.0, "drift": 0.01}))


def test_a_negative_weight_turns_what_better_means():
    found = contributions(row(slopes={"flicker": -2.0, "drift": 1.0}), (0, 5))
    assert found["flicker"] == pytest.approx(-0.8)
    assert "Frames 0 to 4 were pushed up most (+1.2), though no part was better there" in reading(
        row(slopes={"flicker": -2.0, "drift": 1.0})
    )


def test_without_the_group_it_compares_within_the_clip_and_says_so():
    told = reading(row(others=None))
    assert (
        "Frames 0 to 4 were pushed up most (+1.2); within the clip, flicker was above the rest "
        "there." in told
    )
    assert told.endswith("The group's other clips, which it was compared with, were not kept.")
    assert "because" not in told


def test_without_slopes_a_part_is_measured_in_its_own_spread():
    curves = {"a": [100.0, 0.0, 0.0, 100.0], "b": [1.0, 0.0, 0.0, 0.0]}
    found = contributions({"curves": curves, "segments": [[0, 2], [2, 4]]}, (0, 2))
    assert found == pytest.approx({"a": 0.0, "b": 0.5 / math.sqrt(0.1875)})


def test_a_curve_that_looks_at_the_whole_clip_is_no_reason_for_a_segment():
    assert set(contributions(row(supports={"drift": "clip", "flicker": "pair"}), (0, 5))) == {
        "flicker"
    }


def test_unscored_frames_are_left_out_of_the_reason():
    curves = {"flicker": [None, 0.6, None, None, None, 0.1, 0.1, 0.1, None], "drift": [None] * 9}
    assert contributions(row(curves=curves), (0, 5)) == pytest.approx({"flicker": 0.8})
    assert contributions(row(curves=curves), (8, 9)) == {}


@pytest.mark.parametrize(
    ("advantage", "spans", "told"),
    [
        (
            [1.2],
            [[0, 9]],
            "The whole clip was credited as one: it was pushed up (+1.2), because flicker was "
            "better than",
        ),
        (
            [-0.3, -0.3],
            SPANS,
            "Whole-clip credit: each of the 2 segments was pushed down (−0.3), because drift "
            "was worse",
        ),
        ([0.0, 0.0], SPANS, "Not pushed up or down"),
        ([None, None], SPANS, "No advantage was recorded"),
        ([], [], "No advantage was recorded"),
        ([0.2, 0.9], SPANS, "The least: frames 0 to 4 (+0.2)."),
        ([None, 0.9], SPANS, "Frames 5 to 8 were pushed up most (+0.9)"),
    ],
)
def test_whole_one_sided_and_missing_credit(advantage, spans, told):
    assert told in reading(row(advantage=advantage, segments=spans))


def test_a_segment_without_a_number_makes_no_whole_clip():
    told = reading(row(advantage=[None, 0.9]))
    assert not told.startswith(("The whole clip", "Whole-clip")) and "The least" not in told


# --- the drawings


def test_all_of_a_clip_stands_on_one_axis(tmp_path):
    text = html(folder(tmp_path, [row()]))
    assert re.findall(r'<div class="credit \w+" style="width:([\d.]+)%', text) == [
        "55.556",
        "44.444",
    ]
    assert '<div class="rules"><i style="left:55.556%"></i>' in text
    frames = re.findall(r'title="frame (\d+)" style="--x:([\d.]+)%;--w:([\d.]+)%"', text)
    assert [(int(t), float(x)) for t, x, _ in frames] == [
        (t, pytest.approx(100 * t / 9, abs=1e-3)) for t in range(9)
    ]
    reward = lane(text, "reward")
    assert (
        'title="frame 8: the group&#39;s others 0.4, composite 0.5"' in reward
        and ">frame 8<" in reward
    )
    assert {"flicker", "drift"} <= set(re.findall(r'<div class="name">(\w+)<', text))


def test_a_long_clip_shows_the_frames_at_the_middles_of_even_stretches(tmp_path):
    drawn = film.film(clip(tmp_path / "long.mp4", 81))
    shown = [int(t) for t in re.findall(r'title="frame (\d+)"', drawn)]
    assert shown == [int((i + 0.5) * 81 / 17) for i in range(17)]
    for t, data in zip(shown, re.findall(r"base64,([^\"]+)", drawn), strict=True):
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (48, 96, 3) and abs(picture.mean() - 255 * t / 81) < 6


def test_large_frames_are_shrunk(tmp_path):
    drawn = film.film(clip(tmp_path / "large.mp4", 3, 144, 256))
    data = re.findall(r"base64,([^\"]+)", drawn)[0]
    assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).shape == (72, 128, 3)
    assert '--a:5.333"' in drawn  # three frames of 16:9


def test_no_film_of_an_image_or_of_what_is_no_video(tmp_path):
    assert film.film(clip(tmp_path / "one.mp4", 1)) == "" and film.film(None) == ""
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    assert film.film(tmp_path / "broken.mp4") == "" and film.film(tmp_path / "absent.mp4") == ""


def test_steps_by_segments(tmp_path):
    steps = {"advantage_steps": [[0.5, -1.0], [None, 0.25]], "times": [0.9, 0.5]}
    drawn = lane(html(folder(tmp_path, [row(**steps)])), "by step")
    cells = re.findall(r'<i class="(\w+)"(?: style="opacity:([\d.]+)")? title="([^"]+)"', drawn)
    assert cells == [
        ("plus", "0.5", "t 0.9, frames 0 to 4: +0.5"),
        ("minus", "1", "t 0.9, frames 5 to 8: −1"),
        ("none", "", "t 0.5, frames 0 to 4: not scored"),
        ("plus", "0.25", "t 0.5, frames 5 to 8: +0.25"),
    ]
    assert "grid-template-columns:5fr 4fr" in drawn and ">t 0.9<" in drawn and ">t 0.5<" in drawn


def test_steps_without_times_are_counted(tmp_path):
    drawn = lane(html(folder(tmp_path, [row(advantage_steps=[[0.5, -1.0]])])), "by step")
    assert 'title="step 1, frames 0 to 4: +0.5"' in drawn


def test_parts_that_are_not_local_are_named(tmp_path):
    parts = {"flicker": 0.4, "drift": 0.1, "aesthetic": 5.0}
    text = html(folder(tmp_path, [row(parts=parts, supports={"drift": "prefix"})]))
    assert (
        "Credited to every segment alike, because these parts have no value for single frames: "
        "drift, aesthetic." in text
    )


def test_nan_and_infinity_in_the_files_are_gaps(tmp_path):
    curve = [math.nan, 0.5, 0.4, math.inf, *[0.3] * 5]
    bad = row(
        curve=curve, curves={"composite": curve}, advantage=[math.nan, -math.inf], others=None
    )
    matrix = [[math.nan] * 9, [1.0] * 9]
    text = html(folder(tmp_path, [bad], {"parts": {"composite": matrix}, "segments": SPANS}))
    assert not re.search(
        r"(?i)\b(nan|inf)\b", re.sub(r"base64,[^\"]+", "", text[text.index("<body>") :])
    )
    assert (
        text.count('<div class="credit none"') == 2
        and "No advantage was recorded for this clip." in text
    )


def test_an_image_has_numbers_for_curves(tmp_path):
    image = row(
        segments=[[0, 1]],
        advantage=[0.7],
        curve=[0.5],
        curves={"composite": [0.5], "flicker": [0.4]},
        others={"composite": [0.2], "flicker": [0.1]},
        advantage_steps=[[0.1], [0.6]],
    )
    text = html(
        folder(tmp_path, [image], {"parts": {"composite": [[1.0]]}, "segments": [[0, 1]]}, frames=1)
    )
    assert (
        "The image was pushed up (+0.7), because flicker was better than in the group&#39;s "
        "other clips." in text
    )
    assert (
        "<dt>flicker</dt><dd>0.4</dd>" in text
        and 'class="film"' not in text
        and 'class="heat"' in text
    )
    assert "An image is one segment of one frame" in text and 'class="matrix"' not in text


def test_hostile_names_stay_text(tmp_path):
    bad = row(
        prompt=HOSTILE,
        parts={HOSTILE: 1.0},
        curves={HOSTILE: [1.0] * 5 + [0.0] * 4},
        others=None,
        slopes=None,
    )
    matrices = {
        "parts": {"composite": [[1.0] * 9] * 2, HOSTILE: [[1.0] * 9] * 2, HOSTILE + "2": [[1.0]]},
        "steps": HOSTILE,
        "segments": SPANS,
    }
    text = html(folder(tmp_path, [bad], matrices))
    assert "<script>alert" not in text and "<img src=x" not in text
    # prompt, reading, curve and its hover, matrix, steps, not drawn
    assert text.count("&lt;script&gt;alert(1)") >= 6


# --- influence


def test_the_influence_is_drawn_row_by_row_with_its_blocks(tmp_path):
    matrix = [[2.0] * 5 + [0.0] * 4, [0.5] * 5 + [1.0] * 4]
    parts = {"flicker": matrix, "composite": matrix, "drift": [[1.0] * 9]}
    text = html(
        folder(tmp_path, [row()], {"parts": parts, "steps": "mean over steps", "segments": SPANS})
    )
    section = text[text.index("Which frames the noise of a segment moves") :]
    assert (
        section.index("<h3>composite</h3>") < section.index("<h3>flicker</h3>")
        and "<h3>drift</h3>" not in section
    )
    assert "Not drawn, because rows or columns are missing: drift." in section
    assert section.count('title="segment 2 (frames 5 to 8), frame 0: 0.5"') == 2
    assert section.count('style="opacity:0.25" title="segment 2 (frames 5 to 8), frame 0') == 2
    assert (
        '<u class="block" style="left:55.556%;width:44.444%;top:50.000%;height:50.000%"></u>'
        in section
    )
    assert (
        "moves the reward of each frame (mean over steps). A row that is strong only in its own "
        "block" in section
    )
    # own energy 5 · 4 + 4 · 1 of 25.25; even: 20 · 5/9 + 5.25 · 4/9
    assert "<b>95 %</b> of the effect (I²) falls on own frames; 53 % if spread evenly" in section
    assert 'class="film"' in section


def test_the_share_of_an_even_matrix_is_that_of_an_even_spread():
    own, even = influence.local_share([[1.0] * 9] * 2, [(0, 5), (5, 9)])
    assert (
        own == even == pytest.approx(0.5) and influence.local_share([[0.0] * 9], [(0, 9)]) is None
    )


def test_one_segment_is_said_to_be_the_whole_clip(tmp_path):
    one = {"parts": {"composite": [[1.0] * 9]}, "segments": [[0, 9]]}
    text = html(folder(tmp_path, [row(segments=[[0, 9]], advantage=[0.4])], one))
    assert "The clip is one segment, so the clip got one advantage." in text
    assert 'class="block"' not in text and "if spread evenly" not in text


def test_a_long_matrix_scrolls_in_its_own_box(tmp_path):
    spans = [[0, 41], [41, 81]]
    long = {"parts": {"composite": [[1.0] * 81] * 2}, "segments": spans}
    text = html(folder(tmp_path, [row(segments=spans, curve=[0.5] * 81)], long))
    assert '<div class="scroll"><div style="min-width:400px">' in text
    assert re.search(r"\.scroll \{ overflow-x: auto", text)


def test_a_run_without_influence_says_nothing_of_it(tmp_path):
    run = folder(tmp_path, [row()])
    assert (
        "Which frames the noise of a segment moves" not in html(run)
        and run_folder.read(run).influence == {}
    )


def test_a_lonely_point_is_a_dot():
    drawn = charts.chart(
        [charts.Line("a", [0.5, 1.5, 2.5, 3.5], [1.0, None, 2.0, 2.0])],
        span=(0, 4),
        axis="frame",
        cells=True,
    )
    assert drawn.count('class="mark') == 1 and 'style="left:12.50%;top:100.00%"' in drawn
    assert 'title="frame 1: a –"' in drawn and ">frame 3<" in drawn
