"""results.json: what it holds, what is worth a note, and which results refuse to be
compared."""

import json

import pytest
from _clips import folder

from vidrl.bench import items, measure, results, suite
from vidrl.bench.table import table
from vidrl.bench.totals import totals

DIMS = ["flicker", "frame_quality"]


def measured(*folders, dims=DIMS, names=None, **protocol):
    found = suite.load("temporal").only(list(dims))
    found = suite.replace(found, protocol=suite.Protocol(**protocol))
    clips = [items.find([path]) for path in folders]
    sets = [
        results.measured_set(name, str(path), measure.run(one.items, found), one.skipped)
        for name, path, one in zip(names or [path.name for path in folders], folders, clips)
    ]
    return results.assemble(sets, found, "vidrl bench", trained=["flicker"])


@pytest.fixture
def two(tmp_path):
    return folder(tmp_path / "base", 3), folder(tmp_path / "ours", 3, noise=0.1)


def timeless(found):
    return json.dumps(
        {key: value for key, value in found.items() if key not in ("made", "command")}
    )


# --- what it holds --------------------------------------------------------------------


def test_the_layout_is_the_one_that_is_promised(two, tmp_path):
    (two[0] / "broken.mp4").write_bytes(b"no")
    found = json.loads(results.write(measured(*two), tmp_path / "out").read_text())
    assert list(found) == [
        "format",
        "made",
        "command",
        "suite",
        "protocol",
        "versions",
        "dims",
        "sets",
        "distances",
        "notes",
        "fairness",
        "summary",
        "comparisons",
        "totals",
    ]
    base, ours = found["sets"]
    assert [one["name"] for one in found["sets"]] == ["base", "ours"] and base["model"] is None
    assert [row["path"] for row in base["skipped"]] == [str(two[0] / "broken.mp4")] and len(
        base["clips"]
    ) == 3
    clip = base["clips"][0]
    assert set(clip) == {
        "path",
        "id",
        "prompt",
        "seed",
        "reference",
        "reference_id",
        "meta",
        "fps",
        "size",
        "frames",
        "reader",
        "note",
        "written",
        "value",
        "curve",
        "why",
    }
    assert len(clip["curve"]["flicker"]) == clip["frames"] == 9 and list(clip["value"]) == DIMS
    assert [dim["trained"] for dim in found["dims"]] == [True, False]
    assert set(found["summary"]["base"]["flicker"]) >= {
        "mean",
        "low",
        "high",
        "n",
        "prompts",
        "unscored",
        "std",
        "within_prompt_std",
        "enough",
        "saturated",
        "notes",
    }
    assert [(row["first"], row["second"], row["dim"]) for row in found["comparisons"]] == [
        ("base", "ours", name) for name in DIMS
    ]
    mean = sum(clip["value"]["flicker"] for clip in base["clips"]) / 3
    assert found["summary"]["base"]["flicker"]["mean"] == pytest.approx(mean)


def test_the_same_input_gives_the_same_bytes(two):
    assert timeless(measured(*two)) == timeless(measured(*two))


def test_nothing_that_is_no_json_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.write({"x": float("nan")}, tmp_path)
    assert not list(tmp_path.iterdir())


# --- notes ----------------------------------------------------------------------------


def test_mixed_rates_and_sizes_are_told(tmp_path):
    path = folder(tmp_path / "a", 2)
    folder(tmp_path / "a" / "more", 1, fps=24.0, side=48)
    found = measured(path)
    assert "a: clips of 2 frame rates: 8 (2), 24 (1)" in found["notes"]
    assert "a: clips of 2 sizes: 48x32 (2), 64x48 (1)" in found["notes"]


def test_sets_of_other_rates_and_slow_clips_are_told(tmp_path):
    slow, fast = folder(tmp_path / "slow", 1), folder(tmp_path / "fast", 1, fps=24.0)
    assert any(
        "differ in frames a second (slow 8, fast 24)" in note
        for note in measured(slow, fast)["notes"]
    )
    noted = measured(slow, fast, fps=16)["notes"]
    assert any(
        note.startswith("slow: 1 clips are measured at 8 frames a second instead of 16: ")
        for note in noted
    )
    assert any(
        note.startswith("fast: 1 clips are measured at 12 frames a second instead of 16: ")
        for note in noted
    )


def test_a_dim_that_no_clip_has_is_told_once_with_its_reason(two):
    found = measured(*two, dims=["flicker", "loop", "vbench_dynamic_degree"])
    said = [note for note in found["notes"] if "vbench_dynamic_degree" in note]
    assert len(said) == 2 and all("needs an optical flow" in note for note in said)  # one a set
    assert found["summary"]["base"]["vbench_dynamic_degree"]["mean"] is None


# --- earlier results ------------------------------------------------------------------


def test_saved_results_are_compared_as_if_measured_together(two, tmp_path):
    apart = [
        results.load(results.write(measured(path), tmp_path / path.name).parent) for path in two
    ]
    together = measured(*two)
    merged = results.merge(apart)
    assert timeless({**merged, "notes": []}) == timeless({**together, "notes": []})
    assert [one["name"] for one in results.merge(apart, ["x", "y"])["sets"]] == ["x", "y"]


def test_sets_of_one_name_get_numbers(two):
    assert [one["name"] for one in results.merge([measured(two[0], names=["v"])] * 2)["sets"]] == [
        "v",
        "v-2",
    ]
    with pytest.raises(ValueError, match="expected 2 names"):
        results.merge([measured(two[0])] * 2, ["a"])
    with pytest.raises(ValueError, match="names that differ"):
        results.merge([measured(two[0])] * 2, ["a", "a"])


@pytest.mark.parametrize(
    "change", [{"fps": 4}, {"side": 16}, {"frames": 5}, {"decoder": "decord 0.5.0"}]
)
def test_results_of_two_protocols_refuse_to_be_compared(two, change):
    with pytest.raises(ValueError, match=f"one protocol.*{next(iter(change))}"):
        results.merge([measured(two[0]), measured(two[1], **change)])


def test_a_dim_measured_in_two_ways_refuses_to_be_compared(two):
    one, other = measured(two[0]), measured(two[1])
    other["dims"][0]["hash"] = "0" * 12
    with pytest.raises(ValueError, match="'flicker' was measured in two ways"):
        results.merge([one, other])
    assert list(results.merge([one, other], dims=["frame_quality"])["summary"]["base"]) == [
        "frame_quality"
    ]


def test_dims_of_one_alone_are_left_out_and_told(two):
    merged = results.merge([measured(two[0]), measured(two[1], dims=["flicker"])])
    assert [dim["name"] for dim in merged["dims"]] == ["flicker"]
    assert "not in all results, and left out: frame_quality" in merged["notes"]
    with pytest.raises(ValueError, match="a dim in common"):
        results.merge([measured(two[0], dims=["drift"]), measured(two[1], dims=["flicker"])])
    with pytest.raises(ValueError, match="drift is not among"):
        results.merge([measured(two[0])], dims=["drift"])


def test_results_of_other_versions_are_told(two):
    one, other = measured(two[0]), measured(two[1])
    other["versions"] = {**other["versions"], "torch": "1.0"}
    assert any(
        note.startswith("the results were made by other versions: torch")
        for note in results.merge([one, other])["notes"]
    )


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 2, "suite": 1}', "\x00"])
def test_a_file_that_is_no_results_is_said(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(results.BadResults, match="expected results of vidrl bench"):
        results.load(tmp_path)


# --- VBench's totals ------------------------------------------------------------------


def dim(reward):
    return {"name": reward, "reward": reward}


def clips(**values):
    return [{"value": {f"vbench_{name}": value for name, value in values.items()}}]


QUALITY = {
    "subject_consistency": 0.9,
    "background_consistency": 0.95,
    "temporal_flickering": 0.98,
    "motion_smoothness": 0.99,
    "aesthetic": 0.6,
    "imaging": 0.7,
    "dynamic_degree": 1.0,
}


def test_quality_by_hand():
    found = totals([dim(f"vbench_{name}") for name in QUALITY], clips(**QUALITY))
    by_hand = (
        (0.9 - 0.1462) / (1 - 0.1462)
        + (0.95 - 0.2615) / (1 - 0.2615)
        + (0.98 - 0.6293) / (1 - 0.6293)
        + (0.99 - 0.706) / (0.9975 - 0.706)
        + 0.6
        + 0.7
        + 0.5 * 1.0
    ) / 6.5
    assert (
        found["quality"] == pytest.approx(by_hand)
        and found["semantic"] is None
        and found["total"] is None
    )
    assert len(found["missing"]) == 9 and "scene" in found["missing"]


def test_a_missing_part_is_no_zero():
    some = {name: value for name, value in QUALITY.items() if name != "aesthetic"}
    found = totals([dim(f"vbench_{name}") for name in QUALITY], clips(**some, aesthetic=None))
    assert found["quality"] is None and "aesthetic_quality" in found["missing"]
    assert totals([dim("flicker")], [{"value": {"flicker": 1.0}}]) == {}


def test_the_totals_of_image_to_video_by_hand():
    quality = {name: value for name, value in QUALITY.items() if name != "temporal_flickering"}
    ours = {**quality, "i2v_subject": 0.9, "i2v_background": 0.95, "camera_motion": 0.4}
    found = totals([dim(f"vbench_{name}") for name in ours], clips(**ours))
    by_hand = (0.1 * 0.4 + (0.9 - 0.1462) / (1 - 0.1462) + (0.95 - 0.2615) / (1 - 0.2615)) / 2.1
    assert found["i2v"] == pytest.approx(by_hand) and found["missing"] == []
    assert found["total"] == pytest.approx((found["i2v"] + found["quality"]) / 2)


# --- the table ------------------------------------------------------------------------


def test_the_table_marks_what_is_trained_few_and_unscored(two):
    text = table(measured(*two, dims=["flicker", "vbench_dynamic_degree"]))
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "few" in lines["flicker†"] and "ours - base" in text and "[" in lines["flicker†"]
    assert (
        "none of 3 scored" in lines["vbench_dynamic_degree"] and "† was a training reward" in text
    )
    assert all(len(line.rstrip()) == len(line) for line in text.splitlines())
