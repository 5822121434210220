"""VBench-2.0's totals against its script, and the result files of VBench's tools."""

import json
import math
import zipfile

import numpy as np
import pytest

from vidrl.rewards import vbench

# VBench-2.0/scripts/constant.py of Vchitect/VBench (commit 45e79ec), by the names that the
# script looks for
CREATIVITY = ["Composition", "Diversity"]
COMMONSENSE = ["Instance Preservation", "Motion Rationality"]
CONTROLLABILITY = [
    "Camera Motion",
    "Complex Landscape",
    "Complex Plot",
    "Dynamic Attribute",
    "Dynamic Spatial Relationship",
    "Human Interaction",
    "Motion Order Understanding",
]
HUMAN_FIDELITY = ["Human Anatomy", "Human Clothes", "Human Identity"]
PHYSICS = ["Material", "Mechanics", "Multi-View Consistency", "Thermotics"]
CATEGORIES = {
    "creativity": CREATIVITY,
    "commonsense": COMMONSENSE,
    "controllability": CONTROLLABILITY,
    "human_fidelity": HUMAN_FIDELITY,
    "physics": PHYSICS,
}
EVERY = [name for names in CATEGORIES.values() for name in names]


def script(files):
    """Compute what VBench-2.0's cal_final_score.py computes of result files.

    Names have blanks, and missing results count 0.
    """
    known = {key.replace("_", " "): file[key][0] for file in files for key in file}
    known = {name: known.get(name, 0) for name in EVERY}
    sums = {
        category: sum(known[name] for name in names) / len(names)
        for category, names in CATEGORIES.items()
    }
    return {**sums, "total": 0.2 * sum(sums.values())}


def entry(score):
    return [score, [{"video_path": "videos/a cat-0.mp4", "video_results": score}]]


def test_the_totals_of_vbench2_are_those_of_its_script_whatever_is_missing(tmp_path):
    draw, whole = np.random.default_rng(0), [name.replace(" ", "_") for name in EVERY]
    for known in [
        whole,
        *([name] for name in whole),
        *([one for one in whole if one != name] for name in whole),
    ]:
        data = {name: entry(float(draw.random())) for name in known}
        (tmp_path / "m_eval_results.json").write_text(json.dumps(data))
        got = vbench.vbench2_totals(vbench.read_results(tmp_path))
        wanted = script([data])
        assert {part: got[part] for part in wanted} == pytest.approx(wanted, abs=1e-12)
        assert set(got["missing"]) == {name.lower() for name in whole if name not in known}
    assert len(whole) == 18 and set(got) == {*CATEGORIES, "total", "missing"}


def test_a_category_of_vbench2_by_hand_and_a_missing_dimension_with_strict():
    got = vbench.vbench2_totals(
        {"Human_Anatomy": 0.9, "Human_Clothes": 0.6, "Human_Identity": 0.3, "Material": None}
    )
    assert got["human_fidelity"] == pytest.approx(0.6) and got["total"] == pytest.approx(0.12)
    assert "material" in got["missing"] and len(got["missing"]) == 15
    with pytest.raises(ValueError, match="missing: composition, diversity, .*raw score 0"):
        vbench.vbench2_totals({"Human_Anatomy": 0.9}, strict=True)
    with pytest.raises(
        ValueError, match=r"VBench-2.0 has no dimension 'multi_view.*: did you mean 'multi-view"
    ):
        vbench.vbench2_totals({"Multi_View_Consistency": 0.9})
    with pytest.raises(ValueError, match="VBench-2.0 has no dimension 'scene'"):
        vbench.vbench2_totals({"scene": 0.9})


def test_results_are_read_from_a_file_a_folder_and_a_zip(tmp_path):
    """The layouts of cal_final_score.py are read.

    These are .json files at the top and one folder below, with lists next to them.
    """
    folder = tmp_path / "evaluation_results"
    files = {
        "a_eval_results.json": {"subject_consistency": entry(0.9)},
        "color/b_eval_results.json": {"color": entry(0.25), "temporal_style": entry(0.2)},
        "color/b_full_info.json": [{"prompt_en": "a red car", "dimension": ["color"]}],
        "__MACOSX/c.json": {"scene": entry(1.0)},
        ".hidden.json": {"scene": entry(1.0)},
        "one/two/deep.json": {"scene": entry(1.0)},
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(data))
    with zipfile.ZipFile(tmp_path / "evaluation_results.zip", "w") as archive:
        for name in files:
            archive.write(folder / name, name)
    wanted = {"subject_consistency": 0.9, "color": 0.25, "temporal_style": 0.2}
    assert (
        vbench.read_results(folder)
        == vbench.read_results(tmp_path / "evaluation_results.zip")
        == wanted
    )
    assert vbench.read_results(folder / "a_eval_results.json") == {"subject_consistency": 0.9}
    assert len(vbench.totals(vbench.read_results(folder))["missing"]) == 13


def test_a_score_that_is_not_there_is_missing(tmp_path):
    (tmp_path / "r.json").write_text('{"color": [NaN, []], "scene": [0.5, []]}')
    found = vbench.read_results(tmp_path / "r.json")
    assert math.isnan(found["color"]) and "color" in vbench.totals(found)["missing"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"a.json": '{"color": [0.5, []]}', "b.json": '{"color": [0.6, []]}'},
            "a.json and .*b.json both hold 'color'",
        ),
        ({"a.json": '{"Color": [0.5, []], "color": [0.6, []]}'}, "holds 'color' twice"),
        (
            {"results.json": '{"version": "1", "dims": []}'},
            r"expected \[score, clips\] of 'version' in .*results.json",
        ),
        ({"a.json": '{"color": 0.5}'}, r"expected \[score, clips\] of 'color'"),
        ({"a.json": '{"color": [[0.5], []]}'}, r"expected \[score, clips\] of 'color'"),
        ({"a.json": "0.5"}, "got float"),
        ({"a.json": '{"color": '}, "expected JSON in .*a.json"),
        ({"info_full_info.json": "[]", "notes.txt": "x"}, "found none"),
    ],
)
def test_what_is_no_results_is_refused_by_name(files, told, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        vbench.read_results(tmp_path)


def test_a_path_without_results_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        vbench.read_results(tmp_path / "absent")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 \xff\xfe")
    with pytest.raises(ValueError, match="expected JSON in .*broken.zip"):
        vbench.read_results(tmp_path / "broken.zip")
