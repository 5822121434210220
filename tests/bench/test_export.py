"""Exports: cells that no spreadsheet runs, LaTeX that compiles as it reads, bold only
beyond doubt, VBench's layout."""

import csv
import io
import json
import re

import pytest
from _results import NAUGHTY, finish, made

from vidrl.bench import export, manifest
from vidrl.bench.page import facts
from vidrl.rewards.vbench import I2V, I2V_QUALITY, totals


def rows(results):
    return list(csv.DictReader(io.StringIO(export.csv(results))))


def test_csv_has_a_row_a_clip_with_every_dimension_at_full_precision():
    results = made(count=5)
    found = rows(results)
    clips = [(one["name"], clip) for one in results["sets"] for clip in one["clips"]]
    assert [(row["set"], row["path"]) for row in found] == [
        (name, clip["path"]) for name, clip in clips
    ]
    for row, (_, clip) in zip(found, clips):
        assert {name: float(row[name]) for name in clip["value"]} == clip["value"]
        assert (row["width"], row["height"], row["frames"]) == ("64", "48", "9")


def test_csv_tells_what_is_missing_and_what_was_skipped():
    results = made(count=3)
    clip = results["sets"][0]["clips"][1]
    clip["value"]["flicker"], clip["why"]["flicker"] = None, "unscored: NaN in frame 3"
    results["sets"][1]["skipped"] = [{"path": "b/broken.mp4", "why": "unreadable: no stream"}]
    found = rows(results)
    assert found[1]["flicker"] == "" and found[1]["why"] == "flicker: unscored: NaN in frame 3"
    assert (
        len(found) == 7 and found[-1]["path"] == "b/broken.mp4" and "no stream" in found[-1]["why"]
    )


@pytest.mark.parametrize("text", [*NAUGHTY, "  =1", "\t=1", "\r=1", "＝1"])
def test_no_text_of_a_csv_is_a_formula(text):
    results = made(count=2, prompts=[text])
    results["sets"][0]["name"] = text
    results["sets"][0]["clips"][0]["path"] = f"{text}.mp4"
    results["summary"], results["comparisons"] = {}, []
    first = rows(results)[0]
    for key in ("prompt", "set", "path"):
        assert not first[key].lstrip(" ").startswith(export.FORMULA)
        assert first[key].startswith((text.replace("\r", "\n"), "'" + text.replace("\r", "\n")))


UNSEEN = (
    "\u00a0",
    "\u200b",
    "\ufeff",
    "\u2060",
    "\u00ad",
    "\u180e",
    "\u3000",
    "\u2003",
    "\u202e",
    "\u2066",
    "\u3164",
    "\u2800",
    "\u115f",
    "\uffa0",
    "\u034f",
    "\ufe0f",
    "\U000e0020",
    "\U000e0101",
    "\x00",
    "\x1b",
    "\x85",
    "\x0b",
    "\u2028",
    "\ufffe",
    "\ue000",
    " \u200b\u00a0 ",
)


@pytest.mark.parametrize(
    "sign", ["=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫"]
)
def test_a_sign_that_unseen_characters_hide_begins_no_cell_of_any_table(tmp_path, sign):
    texts = [f"{unseen}{sign}1+1" for unseen in UNSEEN]
    results = made(names=(texts[0],), count=len(texts), prompts=texts)
    results["dims"][0]["name"] = f"\u200b{sign}dim"
    for clip, text in zip(results["sets"][0]["clips"], texts):
        clip["path"], clip["why"] = text, {"flicker": text}
    cells = [value for row in csv.reader(io.StringIO(export.csv(results))) for value in row]
    manifest.write(
        tmp_path / "prompts.csv",
        [{"path": text, "prompt": text, text: text} for text in texts[:1] * 2],
    )
    cells += [
        value for row in csv.reader((tmp_path / "prompts.csv").open(newline="")) for value in row
    ]
    signs = set("=+-@\t＝＋－＠﹦﹢﹣﹫")
    hidden = [
        value
        for value in cells
        if value[:1] != "'" and signs & set(value[:5]) and not value.isascii()
    ]
    assert not hidden and sum(value[1:2] == texts[0][0] for value in cells) >= 8


def test_a_table_that_vidrl_wrote_is_read_as_it_was_meant(tmp_path):
    prompts = [
        "=1+1",
        "'=1+1",
        "''=x",
        "\u200b-a",
        "'quoted'",
        "- a list",
        "a\r\nb",
        "\rx",
        "plain",
        "@you",
    ]
    manifest.write(
        tmp_path / "t.csv", [{"path": f"{p}.mp4", "prompt": p, "=extra": p} for p in prompts]
    )
    found = manifest.read(tmp_path / "t.csv")
    assert [row.prompt for row in found] == prompts and [
        row.meta["=extra"] for row in found
    ] == prompts
    results = made(names=("only",), count=len(prompts), prompts=prompts)
    (tmp_path / "results.csv").write_text(export.csv(results), encoding="utf-8")
    assert [row.prompt for row in manifest.read(tmp_path / "results.csv")] == [
        p.replace("\r\n", "\n").replace("\r", "\n") for p in prompts
    ]


def test_numbers_stay_numbers():
    assert export.cell(-0.25) == -0.25
    assert ",-" in export.csv(made(count=2))


def test_a_broken_file_name_can_be_written():
    results = made(count=2)
    results["sets"][0]["clips"][0]["path"] = b"\xff.mp4".decode("utf-8", "surrogateescape")
    for text in (export.csv(results), export.markdown(results), export.latex(results)):
        text.encode("utf-8")
    assert ".mp4" in export.csv(results).encode("utf-8").decode()


def test_markdown_is_one_table_of_sets_and_one_of_differences():
    results = made(trained=("flicker",))
    text = export.markdown(results)
    grids = [block.splitlines() for block in text.split("\n\n")]
    assert len(grids[0]) == len(grids[1]) == 2 + len(results["dims"])
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in grids[0])
    assert "flicker†" in grids[0][2] and results["protocol"]["hash"] in text
    cell = facts.mean(results, "base", "flicker")
    assert f"{cell[0]} [{cell[1]}, {cell[2]}]" in grids[0][2]


def test_markdown_and_latex_escape_names():
    results = made(names=("a|b <b>*x*", "$50% & more_"))
    markdown, latex = export.markdown(results), export.latex(results)
    assert r"a\|b &lt;b>\*x\*" in markdown and "<b>" not in markdown
    assert r"\$50\% \& more\_" in latex and r"a\textbar{}b \textless{}b\textgreater{}*x*" in latex


def test_latex_is_balanced_and_has_the_columns_it_says():
    results = made(names=tuple(NAUGHTY[i] for i in (0, 9)), trained=("flicker",))
    text = export.latex(results)
    bare = re.sub(r"\\[\\{}$&#_%]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text).group(1)
    body = re.search(r"\\toprule(.*)\\bottomrule", text, re.S).group(1)
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + len(results["dims"])
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
    assert r"flicker\textsuperscript{\dag}" in text and "−" not in text


def test_bold_only_beyond_doubt():
    sure, open_ = made(shift=0.1), made(shift=0.0, seed=3)
    # the mean and the difference
    assert export.latex(sure).count(r"\textbf{") == 2 * len(sure["dims"])
    assert r"\textbf" not in export.latex(open_) and "**" not in export.markdown(open_)


def test_nothing_is_bold_where_the_clips_are_few():
    few = made(count=10, shift=0.1)
    assert min(row["p_holm"] for row in few["comparisons"]) < 0.001
    assert "**" not in export.markdown(few) and "(n = 10)" in export.markdown(few)


def test_of_three_sets_the_best_must_beat_both():
    results = made(names=("a", "b", "c"), shift=0.1)
    # c against b was not compared
    assert {facts.best_set(results, dim["name"]) for dim in results["dims"]} == {None}
    known = [row for row in results["comparisons"] if row["second"] == "b"]
    results["comparisons"] += [{**row, "first": "b", "second": "c"} for row in known]
    assert {facts.best_set(results, dim["name"]) for dim in results["dims"]} == {"c"}


def as_vbench_reads(text, names=None):
    """What VBench's scripts do with a file: `data[key][0]` of each key, by a table of names
    or with blanks."""
    data = json.loads(text)
    return {
        names[key] if names else key.replace("_", " "): float(value[0])
        for key, value in data.items()
    }


def test_the_leaderboard_file_reads_as_vbench_reads_it():
    results = made(
        names=("one",),
        dims=("flicker", "vbench_temporal_flickering", "vbench_imaging", "vbench_aesthetic"),
    )
    (text,) = export.leaderboards(results).values()
    data, submitted = json.loads(text), as_vbench_reads(text)
    assert set(data) == {"temporal_flickering", "imaging_quality", "aesthetic_quality"}
    values = [clip["value"]["vbench_temporal_flickering"] for clip in results["sets"][0]["clips"]]
    assert submitted["temporal flickering"] == pytest.approx(sum(values) / len(values))
    assert data["temporal_flickering"][1][0] == {
        "video_path": "videos_one/0.mp4",
        "video_results": values[0],
    }
    assert len(totals(submitted)["missing"]) == 13


def test_the_leaderboard_file_has_the_semantic_dimensions_that_are_scored():
    (text,) = export.leaderboards(
        made(names=("one",), dims=("vbench_imaging", "vbench_appearance_style"))
    ).values()
    missing = totals(as_vbench_reads(text))["missing"]
    assert len(missing) == 14 and not {"imaging_quality", "appearance_style"} & set(missing)


def test_the_leaderboard_files_leave_out_what_their_reader_stops_at():
    """Unscored dimensions, several sets in one file, and names that the script of
    VBench-I2V does not know."""
    dims = ("vbench_imaging", "vbench_aesthetic", "vbench_temporal_flickering")
    results = made(names=("base", "my model"), dims=dims)
    for clip in results["sets"][0]["clips"]:
        clip["value"]["vbench_imaging"] = None
    files = export.leaderboards(finish(results) or results)
    assert list(files) == ["leaderboard_1_base.json", "leaderboard_2_my-model.json"]
    base, other = (as_vbench_reads(text) for text in files.values())
    assert set(base) == {"aesthetic quality", "temporal flickering"} and set(other) - set(base) == {
        "imaging quality"
    }
    results = made(
        names=("one",), dims=("vbench_i2v_subject", "vbench_imaging", "vbench_temporal_flickering")
    )
    names = {name: name for name in (*I2V, *I2V_QUALITY)}
    (text,) = export.leaderboards(results).values()
    assert set(as_vbench_reads(text, names)) == {"i2v_subject", "imaging_quality"}
    for clip in results["sets"][0]["clips"]:
        clip["value"] = dict.fromkeys(clip["value"])
    (text,) = export.leaderboards(results).values()
    assert json.loads(text) == {}


def test_no_leaderboard_without_vbenchs_arithmetic():
    with pytest.raises(ValueError, match="--profile vbench"):
        export.leaderboards(made(dims=("flicker",)))


def test_a_set_without_a_value_has_dashes():
    results = made(count=4)
    for clip in results["sets"][0]["clips"]:
        clip["value"]["flicker"] = None
    finish(results)
    assert re.search(r"\| flicker +\| +– \|", export.markdown(results))
    assert (
        json.loads(export.leaderboards(results)["leaderboard_1_base.json"])["dynamic_degree"][0]
        is not None
    )
