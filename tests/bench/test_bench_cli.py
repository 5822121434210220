"""`vidrl bench` as people type it: what it makes, and what it says of bad input."""

import csv
import json
import os
import re
import shutil

import cv2
import pytest
import torch
from _clips import folder, moving, write

from vidrl import cli
from vidrl.bench import command, manifest, results
from vidrl.rewards import video

QUICK = ["--dims", "flicker,frame_quality", "--jobs", 0, "--format", "csv"]
HTML = 'a "quoted" <script>alert(1)</script> prompt; $(rm -rf ~) & `x`\n, =1+1'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def bench(capsys, *words):
    try:
        status = cli.main(["bench", *map(str, words)])
    except SystemExit as left:  # argparse refuses a number out of its range
        status = left.code
    out, err = capsys.readouterr()
    return status, out, err


def read(out):
    return json.loads((out / "results.json").read_text())


# --- what it makes --------------------------------------------------------------------


def test_a_folder_gives_json_csv_and_a_page(capsys, tmp_path):
    folder(tmp_path / "videos", 6)
    status, out, err = bench(capsys, "videos", "--dims", "flicker,frame_quality", "--jobs", 0)
    made = tmp_path / "runs" / "bench-videos"
    assert status == 0 and err == ""
    assert {"results.json", "results.csv", "report.html"} <= {p.name for p in made.iterdir()}
    assert re.search(r"flicker +-0\.\d+ \[-0\.\d+, -0\.\d+\] few", out)
    assert "files: runs/bench-videos/results.json" in out
    found = read(made)
    assert found["command"] == "vidrl bench videos --dims flicker,frame_quality --jobs 0"
    assert "flicker" in (made / "report.html").read_text()


def test_results_of_other_clips_or_dims_are_not_replaced_without_out(capsys, tmp_path):
    for name in ("a/videos", "b/videos"):
        folder(tmp_path / name, 2)
    for words, number in (
        (("a/videos", *QUICK), ""),
        (("b/videos", *QUICK), "-2"),  # another folder of the same name
        (("a/videos", "--dims", "flicker", *QUICK[2:]), "-3"),
        (("b/videos", *QUICK, "--jobs", 1), "-2"),  # the same results again
        (("a/videos", *QUICK), ""),
    ):
        status, out, err = bench(capsys, *words)
        assert status == 0 and f"files: runs/bench-videos{number}/results.json" in out
        assert ("runs/bench-videos holds the results of other clips" in err) == bool(number)
        made = tmp_path / "runs" / f"bench-videos{number}"
        assert read(made)["sets"][0]["source"] == words[0]
    # one cache: the third call measured nothing
    assert [path.parent.name for path in tmp_path.rglob("cache")] == ["bench-videos"]
    saved = [f"runs/bench-videos{number}/results.json" for number in ("", "-2")]
    for order, name in ((saved, "x-vs-y"), (saved[::-1], "x-vs-y-2")):
        out = bench(capsys, *order, "--names", "x,y", "--format", "csv")[1]
        assert f"files: runs/bench-{name}/results.json" in out


def test_two_folders_are_compared_by_prompt(capsys, tmp_path):
    for name, noise in (("a", 0.02), ("b", 0.1)):
        folder(tmp_path / name, 3, noise=noise)
        manifest.write(
            tmp_path / name / "prompts.csv",
            [{"path": f"{i}.mp4", "prompt": f"prompt {i}", "seed": 0} for i in range(3)],
        )
    status, out, _ = bench(capsys, "a", "b", "--names", "base,ours", *QUICK)
    found = read(tmp_path / "runs" / "bench-base-vs-ours")
    assert status == 0 and "ours - base" in out
    row = found["comparisons"][0]
    assert (row["dim"], row["losses"], row["paired_by"]) == ("flicker", 3, "prompt and seed")


def test_formats_are_written_as_asked(capsys, tmp_path):
    folder(tmp_path / "v", 2)
    bench(capsys, "v", *QUICK[:4], "--format", "all", "--out", "o")
    assert {"results.json", "results.csv", "results.md", "results.tex", "report.html"} <= {
        p.name for p in (tmp_path / "o").iterdir()
    }
    status, _, err = bench(capsys, "v", *QUICK[:4], "--format", "jsn", "--out", "p")
    # before anything is measured
    assert status == 2 and "did you mean 'json'" in err and not (tmp_path / "p").exists()


def test_vbenchs_profile_gives_its_dims_totals_and_leaderboard(capsys, tmp_path):
    folder(tmp_path / "v", 2)
    status, said, err = bench(
        capsys,
        "v",
        "--profile",
        "vbench",
        "--jobs",
        0,
        "--format",
        "leaderboard",
        "--out",
        "o",
        "--dims",
        "vbench_temporal_flickering,vbench_dynamic_degree",
        "--option",
        "vbench_dynamic_degree.flow=dis",
    )
    found = read(tmp_path / "o")
    assert status == 0 and {dim["profile"] for dim in found["dims"]} == {"vbench"}
    assert found["dims"][1]["options"] == {"flow": "dis"} and err == ""
    assert (
        found["totals"]["v"]["quality"] is None
        and "motion_smoothness" in found["totals"]["v"]["missing"]
    )
    assert (
        "VBench's totals of v: quality -, semantic -, total -; missing: subject_consistency, "
        in said
    )
    board = json.loads((tmp_path / "o" / "leaderboard.json").read_text())
    assert set(board) == {"temporal_flickering", "dynamic_degree"}


def test_a_saved_result_is_compared_without_measuring(capsys, tmp_path):
    for name in "ab":
        folder(tmp_path / name, 2, noise=0.1 if name == "b" else 0.02)
        bench(capsys, name, *QUICK, "--out", f"out_{name}")
        shutil.rmtree(tmp_path / name)
    status, out, _ = bench(
        capsys, "out_a/results.json", "out_b/results.json", "--out", "both", "--format", "json"
    )
    assert (
        status == 0
        and "b - a" in out
        and [one["name"] for one in read(tmp_path / "both")["sets"]] == ["a", "b"]
    )


def test_a_saved_result_of_another_protocol_is_refused(capsys, tmp_path):
    folder(tmp_path / "a", 2)
    bench(capsys, "a", *QUICK, "--out", "one")
    bench(capsys, "a", *QUICK, "--out", "two", "--fps", 4)
    status, out, err = bench(capsys, "one/results.json", "two/results.json", "--out", "both")
    assert (
        status == 2
        and out == ""
        and "expected one protocol" in err
        and not (tmp_path / "both").exists()
    )
    status, _, err = bench(capsys, "one/results.json", "a")
    assert status == 2 and "saved results alone, or clips alone" in err


def test_a_second_run_measures_nothing(capsys, tmp_path, monkeypatch):
    folder(tmp_path / "v", 3)
    bench(capsys, "v", *QUICK, "--out", "o")
    first = read(tmp_path / "o")
    monkeypatch.setattr("vidrl.bench.scoring.Clip", None)  # whoever opens a clip fails
    status, _, _ = bench(capsys, "v", *QUICK, "--out", "o")
    assert status == 0 and read(tmp_path / "o") | {"made": 0} == first | {"made": 0}
    monkeypatch.setattr("vidrl.bench.scoring.Clip", None)
    status, _, _ = bench(capsys, "v", *QUICK, "--out", "p", "--cache", "o/cache")
    assert status == 0 and read(tmp_path / "p")["sets"] == first["sets"]


def test_images_and_references(capsys, tmp_path):
    write(tmp_path / "v" / "a.mkv")
    (tmp_path / "i").mkdir()
    cv2.imwrite(
        str(tmp_path / "i" / "a.png"), (moving(1)[0] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    )
    assert (
        bench(
            capsys,
            "i",
            "--suite",
            "image",
            "--dims",
            "frame_quality",
            "--jobs",
            0,
            "--format",
            "json",
        )[0]
        == 0
    )
    assert read(tmp_path / "runs" / "bench-i")["sets"][0]["clips"][0]["frames"] == 1
    assert bench(capsys, "v", "--reference", "i", *QUICK)[0] == 0
    assert read(tmp_path / "runs" / "bench-v")["sets"][0]["clips"][0]["reference"] == "i/a.png"


def test_files_are_one_set(capsys, tmp_path):
    folder(tmp_path / "v", 3)
    assert bench(capsys, "v/0.mp4", "v/2.mp4", *QUICK, "--out", "o")[0] == 0
    (one,) = read(tmp_path / "o")["sets"]
    assert one["name"] == "files" and [clip["path"] for clip in one["clips"]] == [
        "v/0.mp4",
        "v/2.mp4",
    ]


def test_what_was_trained_on_is_marked(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text('[reward]\nname = "flicker"\n')
    args = cli.build().parse_args(
        ["bench", "--model", "m", "--lora", str(tmp_path / "run" / "lora"), *QUICK[:2]]
    )
    assert command._trained_dims(args, command.suite_from(args)) == ["flicker"]
    assert command._model_source(args).name == "run"


def test_preferences_give_the_table_in_one_command(capsys, tmp_path):
    """A rater who prefers the clean clip: flicker agrees with him always."""
    for i in range(3):
        write(tmp_path / "v" / f"{i}a.mp4", seed=i)
        write(tmp_path / "v" / f"{i}b.mp4", seed=i, noise=0.15)
    rows = "".join(f"{i}a.mp4,{i}b.mp4,a,prompt {i}\n" for i in range(3))
    (tmp_path / "v" / "choices.csv").write_text("path_a,path_b,choice,prompt\n" + rows)
    status, out, _ = bench(
        capsys, "--preferences", "v/choices.csv", "--dims", "flicker", "--jobs", 0, "--out", "o"
    )
    found = json.loads((tmp_path / "o" / "preferences.json").read_text())
    assert status == 0 and "flicker" in out and "o/preferences.md" in out
    assert found["command"].startswith("vidrl bench --preferences v/choices.csv")
    assert re.search(r"flicker +vidrl +100", out), out


def test_meta_is_asked_for_what_was_said(capsys, tmp_path, monkeypatch):
    from vidrl.bench import meta, meta_page

    asked = {}
    monkeypatch.setattr(meta, "run", lambda *words, **more: asked.update(more, words=words))
    monkeypatch.setattr(meta_page, "summary", lambda found: "the table")
    status, out, _ = bench(
        capsys, "--meta", "clips", "--dims", "flicker,cut", "--limit", 4, "--seed", 3, "--out", "o"
    )
    assert status == 0 and out.startswith("the table") and "o/bench_meta.svg" in out
    assert asked["dims"] == ["flicker", "cut"] and asked["count"] == 4 and asked["seed"] == 3
    assert asked["words"] == (command.Path("o"), "clips")


@pytest.mark.parametrize(
    ("words", "file", "base"),
    [
        (("--meta",), "bench_meta.json", "bench-meta"),
        (("--preferences", "choices.csv"), "preferences.json", "bench-choices"),
    ],
)
def test_without_out_the_results_of_another_command_stay(
    capsys, tmp_path, monkeypatch, words, file, base
):
    """The second command gets a folder of its own, a repeated one that of its first call."""
    from vidrl.bench import meta, meta_page, preference_page, preferences

    used = []

    def run(*given, command, **more):
        out = next(path for path in given if str(path).startswith("runs"))
        used.append(out.name)
        (tmp_path / out).mkdir(parents=True, exist_ok=True)
        (tmp_path / out / file).write_text(json.dumps({"command": command}))

    monkeypatch.setattr(meta, "run", run)
    monkeypatch.setattr(preferences, "run", run)
    monkeypatch.setattr(meta_page, "summary", lambda found: "")
    monkeypatch.setattr(preference_page, "text", lambda found: "")
    errors = [bench(capsys, *words, "--dims", dim)[2] for dim in ("flicker", "cut", "flicker")]
    assert used == [base, f"{base}-2", base]
    assert not errors[0] and not errors[2]
    assert f"runs/{base} holds the results of other commands" in errors[1]


def test_a_primary_dim_and_margins_are_said_before_and_stand_in_the_results(capsys, tmp_path):
    for name, noise in (("a", 0.02), ("b", 0.1)):
        folder(tmp_path / name, 3, noise=noise)
    two = ("a", "b", "--dims", "flicker,freeze", "--jobs", 0, "--format", "json")
    assert (
        bench(capsys, *two, "--primary", "flicker", "--margin", "freeze=0.5", "--out", "o")[0] == 0
    )
    found = read(tmp_path / "o")
    assert found["claims"] == {"primary": "flicker", "margins": {"freeze": 0.5}}
    assert [row["margin"] for row in found["comparisons"]][1] == 0.5
    for words, told in (
        (("--primary", "fliker"), "did you mean 'flicker'"),
        (("--margin", "freeze=-1"), "above 0"),
        (("--margin", "0.5"), "expected --margin DIM=VALUE"),
        (("--margin", "x=1"), "--margin, got 'x'"),
    ):
        status, _, err = bench(capsys, *two, *words, "--out", "refused")
        assert status == 2 and told in err and not (tmp_path / "refused").exists()


def test_distances_between_sets_by_an_encoder_of_ones_own(capsys, tmp_path):
    for name, noise in (("a", 0.02), ("b", 0.1)):
        folder(tmp_path / name, 12, frames=3, noise=noise)
    status, out, _ = bench(
        capsys, "a", "b", *QUICK, "--distance", "kernel,frechet", "--encoder", "pixels"
    )
    rows = read(tmp_path / "runs" / "bench-a-vs-b")["distances"]
    assert status == 0 and [(row["name"], row["first"], row["second"]) for row in rows] == [
        ("kernel", "a", "b"),
        ("frechet", "a", "b"),
    ]
    assert all(row["n"] == [12, 12] for row in rows) and "frechet" in out
    # fewer clips than features
    assert rows[0]["value"] > 0 and rows[1]["value"] is None and rows[1]["notes"]
    bench(capsys, "a", *QUICK, "--against", "b", "--encoder", "pixels", "--out", "o")
    assert [row["value"] for row in read(tmp_path / "o")["distances"]] == [
        row["value"] for row in rows[::-1]
    ]
    # of clips this new no hash is kept, so that their folder is named
    again = ["o/results.json", "--clips", "a"]
    bench(
        capsys,
        *again,
        "--against",
        "b",
        "--encoder",
        "pixels",
        "--out",
        "saved",
        "--format",
        "json",
    )
    assert read(tmp_path / "saved")["distances"] == read(tmp_path / "o")["distances"]
    status, _, err = bench(capsys, "a", "b", *QUICK, "--distance", "frechett", "--out", "p")
    assert status == 2 and "did you mean 'frechet'" in err and not (tmp_path / "p").exists()


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "expected folders or files to measure"),
        (["empty"], "expected videos"),
        (["nowhere"], "found nothing"),
        (["v", "--suite", "temporel"], "did you mean 'temporal'"),
        (["v", "--dims", "flikker"], "did you mean 'flicker'"),
        (["v", "--names", "a,b"], "expected 1 different names"),
        (["v", "v", "--names", "a,a"], "expected 2 different names"),
        (["v", "--manifest", "nowhere.csv"], "nowhere.csv"),
        (["v", "--manifest", "v"], "expected a table ending in"),
        (["v", "--option", "flicker.colours=1"], "no option 'colours'"),
        (["v", "--profile", "vbench", "--suite", "orbit"], "no dims of the profile"),
        (["v", "--distance", "kernel"], "expected two sets for a distance"),
        (["v", "--against", "v", "--encoder", "pixel"], "did you mean 'pixels'"),
        (["nowhere.json"], "expected results of vidrl bench"),
    ],
)
def test_errors_of_use_are_one_line_with_the_cure(capsys, tmp_path, words, said):
    folder(tmp_path / "v", 1)
    (tmp_path / "empty").mkdir()
    status, out, err = bench(capsys, *words)
    assert (
        status == 2
        and out == ""
        and said in err
        and "Traceback" not in err
        and len(err.splitlines()) == 1
    )


@pytest.mark.parametrize(
    "option", ["--fps", "--jobs", "--side", "--frames", "--limit", "--timeout"]
)
def test_a_negative_number_is_refused_after_the_usage(capsys, option):
    status, out, err = bench(capsys, "v", option, "-3")
    assert status == 2 and out == ""
    assert f"{option}: expected a " in err.splitlines()[-1] and err.endswith("got '-3'\n")


def test_one_clip_is_measured_and_marked(capsys, tmp_path):
    folder(tmp_path / "v", 1)
    status, out, _ = bench(capsys, "v", *QUICK)
    row = read(tmp_path / "runs" / "bench-v")["summary"]["v"]["flicker"]
    assert (
        status == 0 and "[?]" in out and "few" in out and row["low"] is None and not row["enough"]
    )
    assert any("fewer than 20 clips: 1" in note for note in row["notes"])


def test_a_folder_of_everything_that_goes_wrong(capsys, tmp_path):
    """Mixed rates and sizes, prompts that differ by case and hold anything, files that are
    broken, short or missing."""
    v = tmp_path / "v"
    write(v / "a.mp4")
    write(v / "b.mp4", fps=24.0, side=48, seed=1)
    video.write(v / "one.mp4", moving(1), 8.0)
    (v / "broken.mp4").write_bytes(b"no video")
    (v / "cut.mp4").write_bytes((v / "b.mp4").read_bytes()[:2000])
    rows = [
        {"path": "a.mp4", "prompt": HTML},
        {"path": "b.mp4", "prompt": HTML.upper()},
        {"path": "gone.mp4", "prompt": "x"},
        {"path": "one.mp4", "prompt": "кот"},
    ]
    manifest.write(v / "prompts.csv", rows)
    status, out, err = bench(
        capsys, "v", "--dims", "flicker,frame_quality", "--jobs", 0, "--format", "all"
    )
    found = read(tmp_path / "runs" / "bench-v")
    (one,) = found["sets"]
    assert (
        status == 0
        and "3 clips that could not be read, 1 that have no meaning for their clip" in err
    )
    assert {row["path"]: row["why"].split(":")[0] for row in one["skipped"]} == {
        "v/gone.mp4": "missing",
        "v/broken.mp4": "unreadable",
        "v/cut.mp4": "unreadable",
    }
    assert [clip["prompt"] for clip in one["clips"]] == [HTML, HTML.upper(), "кот"]
    (why,) = one["clips"][2]["why"].values()
    assert why.startswith("inapplicable to an image: needs a clip of at least 3 frames")
    notes = "\n".join(found["notes"])
    for said in (
        "2 frame rates",
        "sizes",
        "differ by letter case",
        "2 of 5 files have no row",
        "prompts are from",
    ):
        assert said in notes, said
    assert "<script>alert(1)" not in (tmp_path / "runs" / "bench-v" / "report.html").read_text()
    with open(tmp_path / "runs" / "bench-v" / "results.csv", newline="", encoding="utf-8") as file:
        assert HTML in {row["prompt"] for row in csv.DictReader(file)}
    assert (
        bench(capsys, "v", "--dims", "flicker", "--jobs", 0, "--format", "json", "--strict")[0] == 1
    )


def test_nothing_that_can_be_scored_is_status_1_with_reasons(capsys, tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"no video")
    status, out, err = bench(capsys, "v", *QUICK)
    assert status == 1 and "1 clips that could not be read" in err and "none of 0 scored" in out
    assert read(tmp_path / "runs" / "bench-v")["sets"][0]["skipped"][0]["why"].startswith(
        "unreadable: "
    )


def test_a_manifest_alone_of_missing_files_is_status_1(capsys, tmp_path):
    manifest.write(tmp_path / "clips.csv", [{"path": "gone.mp4", "prompt": "x"}])
    status, _, err = bench(capsys, "--manifest", "clips.csv", *QUICK)
    assert status == 1 and len(read(tmp_path / "runs" / "bench-clips")["sets"][0]["skipped"]) == 1


def test_a_network_that_fails_midway_loses_nothing(capsys, tmp_path):
    write(tmp_path / "v" / "a.mp4")
    video.write(tmp_path / "v" / "b.mp4", moving() * 0.05, 8.0)
    words = ["v", "--dims", "flicker,_clips:Spoiled", "--jobs", 0, "--format", "json"]
    status, _, err = bench(capsys, *words)
    clips = read(tmp_path / "runs" / "bench-v")["sets"][0]["clips"]
    assert "1 numbers that are not there" in err and bench(capsys, *words, "--strict")[0] == 1
    assert status == 0 and [clip["value"]["_clips:Spoiled"] is None for clip in clips] == [
        False,
        True,
    ]
    assert clips[1]["why"] == {"_clips:Spoiled": "unscored: this network failed <midway>"}


def test_results_hold_no_nan(capsys, tmp_path):
    folder(tmp_path / "v", 1)
    bench(capsys, "v", "--dims", "flicker,loop,cut", "--jobs", 0, "--format", "json")
    text = (tmp_path / "runs" / "bench-v" / results.FILE).read_text()
    assert not re.search(r"\b(NaN|Infinity)\b", text)


def test_sample_leaves_a_table_that_bench_reads(tmp_path, monkeypatch):
    from vidrl.backbones.toy import Toy

    monkeypatch.setattr("vidrl.plugin.load", lambda kind, name, model, **options: Toy.tiny())
    prompts = ["a", HTML]
    words = [word for prompt in prompts for word in ("--prompt", prompt)] + [
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    assert cli.main(["sample", "--model", "m", "--out", "o", "--seed", "7", *words]) == 0
    assert [
        (row.path, row.prompt, row.seed) for row in manifest.read(tmp_path / "o" / "prompts.csv")
    ] == [("0000.mp4", "a", 7), ("0001.mp4", HTML, 8)]


# --- names that are not UTF-8 ---------------------------------------------------------


def test_a_name_that_is_not_utf8_stops_nothing(capfdbinary, tmp_path):
    folder(tmp_path / "v", 2)
    names = [b"caf\xe9.mp4", b"caf\xe8.mp4"]
    for name in names:
        shutil.copy(tmp_path / "v" / "0.mp4", os.fsencode(tmp_path / "v") + b"/" + name)
    (tmp_path / "v" / os.fsdecode(b"\xff.mp4")).write_bytes(b"no video")
    status = cli.main(
        ["bench", "v", "--dims", "flicker", "--jobs", "0", "--out", "o", "--format", "all"]
    )
    assert status == 0 and "flicker" in capfdbinary.readouterr().out.decode()
    (found,) = read(tmp_path / "o")["sets"]
    paths = {os.fsencode(row["path"]) for row in [*found["clips"], *found["skipped"]]}
    assert paths == {b"v/0.mp4", b"v/1.mp4", b"v/\xff.mp4", *(b"v/" + name for name in names)}
    rows = list(csv.DictReader((tmp_path / "o" / "results.csv").open(encoding="utf-8")))
    assert {row["path"] for row in rows} >= {
        r"v/caf\udce9.mp4",
        r"v/caf\udce8.mp4",
        r"v/\udcff.mp4",
    }
    for name in ("report.html", "results.md", "results.tex"):
        assert (tmp_path / "o" / name).read_bytes().decode("utf-8")
    again = results.load(tmp_path / "o")
    assert [row["path"] for row in again["sets"][0]["clips"]] == [
        row["path"] for row in found["clips"]
    ]


def test_a_folder_whose_name_is_not_utf8_is_a_set(capfdbinary, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    folder(tmp_path / name, 1)
    assert cli.main(["bench", name, "--dims", "flicker", "--jobs", "0"]) == 0
    assert rb"caf\udce9" in capfdbinary.readouterr().out
    (made,) = (tmp_path / "runs").iterdir()
    assert rb"caf\udce9" in (made / "report.html").read_bytes()


def test_a_page_of_a_full_cache_reads_no_clip_again(capsys, tmp_path, monkeypatch):
    folder(tmp_path / "v", 2)
    words = ["v", "--dims", "flicker", "--jobs", 0, "--format", "html", "--cache", "kept", "--out"]
    bench(capsys, *words, "first")
    monkeypatch.setattr(video, "Video", lambda path: pytest.fail(f"{path} is read again"))
    monkeypatch.setattr("vidrl.bench.clip.Video", lambda path: pytest.fail(f"{path} is read again"))
    assert bench(capsys, *words, "second")[0] == 0
    first, second = ((tmp_path / out / "report.html").read_text() for out in ("first", "second"))
    assert second.count("data:video/mp4") == first.count("data:video/mp4") > 0
