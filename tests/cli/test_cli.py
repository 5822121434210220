"""The command line: what it prints, its exit status, and one clear message for each
mistake."""

import argparse
import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from vidrl import cli, config, rewards
from vidrl.training import checkpoint
from vidrl.training import resume as resume_

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def recipe(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    path = tmp_path / "mine.toml"
    path.write_text(
        f'run = "{tmp_path}/run"\n[backbone]\nname = "toy"\n[backbone.options]\n[policy]\nfull '
        "= true\n"
        f'[data]\nprompts = "{prompts}"\nheld_out = "{prompts}"\nheld_out_n = 2\n'
    )
    return path


def said(capsys, *arguments):
    """Exit status, standard output and standard error of one call."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        status = left.code
    return (status, *capsys.readouterr())


def subcommands():
    action = next(a for a in cli.build()._actions if isinstance(a, argparse._SubParsersAction))
    return list(action.choices)


@pytest.mark.parametrize("command", subcommands())
def test_each_command_has_help(capsys, command):
    status, out, _ = said(capsys, command, "--help")
    assert status == 0 and f"usage: vidrl {command}" in out and len(out.splitlines()) >= 6


def test_the_help_shows_examples(capsys):
    status, out, _ = said(capsys, "--help")
    assert status == 0 and "vidrl train scripts/recipes/demo.toml" in out
    names = [
        "train",
        "sample",
        "score",
        "audit",
        "serve",
        "bench",
        "fit",
        "loop",
        "cost",
        "report",
        "export",
        "influence",
        "pairs",
        "label",
        "list",
        "show",
        "schema",
        "completion",
    ]
    assert subcommands() == names


def test_it_runs_as_a_module():
    made = subprocess.run(
        [sys.executable, "-m", "vidrl", "--version"], capture_output=True, text=True
    )
    assert made.stdout.startswith("vidrl 0.") and made.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "reward"], "did you mean 'rewards'"),
        (["show", "rewards", "flikker"], "did you mean 'flicker'"),
        (
            ["train", "nothing.toml"],
            "nothing.toml: expected a TOML file, found none; recipes here: scripts/recipes/",
        ),
        (["report", "nowhere"], "nowhere: expected a run folder"),
        (["score", "x.mp4", "--reward", "flikker"], "did you mean 'flicker'"),
        (
            ["sample", "--model", "x", "--prompts", "no.txt", "--out", "o"],
            "no.txt: expected a UTF-8 text file",
        ),
    ],
)
def test_our_errors_are_one_message_without_a_traceback(capsys, arguments, message):
    status, out, err = said(capsys, *arguments)
    assert (
        status == 2
        and message in err
        and err.startswith("vidrl: ")
        and "Traceback" not in err
        and out == ""
    )


def test_the_traceback_may_be_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("VIDRL_TRACEBACK", "1")
    assert "Traceback" in said(capsys, "list", "reward")[2]


def test_a_slip_in_the_code_keeps_its_traceback(capsys, monkeypatch):
    monkeypatch.setattr(cli.list_and_show, "_list", lambda args: torch.zeros(2) @ torch.zeros(3))
    status, _, err = said(capsys, "list")
    assert status == 2 and "Traceback" in err


def test_unknown_arguments_are_refused(capsys):
    assert said(capsys, "list", "--jsn")[0] == 2
    assert "unrecognized arguments: --nope" in said(capsys, "train", "recipe.toml", "--nope")[2]
    assert "written as train.rounds=3" in said(capsys, "train", "recipe.toml", "--rounds", "3")[2]


# --- list and show


def test_list_names_each_with_what_it_is(capsys):
    status, out, _ = said(capsys, "list", "rewards")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0 and {"flicker", "drift", "warp_error"} <= set(names) and "base" not in names
    assert {"rewards", "backbones", "steering"} <= set(said(capsys, "list")[1].split())


def test_list_as_json(capsys):
    rows = json.loads(said(capsys, "list", "rewards", "--json")[1])
    flicker = next(row for row in rows if row["name"] == "flicker")
    assert {"summary", "options", "facts", "class"} <= set(flicker) and "flicker" in flicker[
        "facts"
    ]["lowered_by"]


def test_one_unusable_plugin_does_not_hide_the_others(capsys, monkeypatch):
    from vidrl import plugin

    real = plugin.facts
    missing = ImportError("needs x: pip install '.[train]'")

    def facts(kind, name):
        if name == "flicker":
            raise missing
        return real(kind, name)

    monkeypatch.setattr(plugin, "facts", facts)
    out = said(capsys, "list", "rewards")[1]
    assert "not usable here: needs x: pip install '.[train]'" in out and "drift" in out


def test_show_tells_options_and_facts(capsys):
    out = said(capsys, "show", "rewards", "flicker")[1]
    assert (
        "floor: float = 0.1" in out
        and "lowered_by" in out
        and "vidrl.rewards.flicker:Flicker" in out
    )


def test_show_tells_what_the_default_composite_is_made_of(capsys):
    status, out, _ = said(capsys, "show", "rewards", "default")
    made = rewards.default()
    assert status == 0 and "vidrl.rewards.compose:Composite" in out and "blind to" in out
    assert all(f"  {name} {weight:g}\n" in out for name, weight in made.weights.items())
    told = json.loads(said(capsys, "show", "rewards", "default", "--json")[1])
    assert told["parts"] == made.weights and told["facts"]["time_support"] == made.time_support


# --- train


@pytest.fixture
def trained(monkeypatch):
    """vidrl.training.loop.run, replaced by one that writes what a finished run leaves;
    holds what it was called with."""
    from vidrl.training import loop

    calls = []

    def run(given, resume=False):
        calls.append((given, resume))
        resume_.claim(given.run, given.to_dict(), resume)
        numbers = {"before": 0.1, "after": 0.2, "difference": 0.1, "low": 0.05, "high": 0.15}
        summary = {"held_out": {"composite": numbers}, "status": "finished"}
        checkpoint.write_text(Path(given.run) / "summary.json", json.dumps(summary))
        return Path(given.run)

    monkeypatch.setattr(loop, "run", run)
    return calls


def test_train_passes_the_recipe_on_and_ends_with_the_table(capsys, recipe, trained, tmp_path):
    status, out, _ = said(capsys, "train", recipe, "train.rounds=3", "--resume", "seed=5")
    given, resume = trained[0]
    assert status == 0 and (given.train.rounds, given.seed, resume) == (3, 5, True)
    assert isinstance(given, config.Recipe) and "composite" in out and "+0.1000" in out
    page = tmp_path / "run" / "report.html"
    assert out.splitlines()[-1] == str(page) and page.is_file()


def test_a_finished_run_is_reported_not_repeated(capsys, recipe, trained):
    said(capsys, "train", recipe)
    status, out, _ = said(capsys, "train", recipe, "--resume")
    assert status == 0 and len(trained) == 1 and "this run is finished" in out
    status, _, err = said(capsys, "train", recipe)
    assert status == 2 and "add --resume" in err
    status, _, err = said(capsys, "train", recipe, "--resume", "train.group=4")
    assert status == 2 and "train.group: 8 -> 4" in err and len(trained) == 1
    status, out, _ = said(capsys, "train", recipe, "--resume", "train.learning_rate=1e-5")
    assert (
        status == 0
        and len(trained) == 1
        and "not used, because the run is finished: train.learning_rate" in out
    )
    assert (
        said(capsys, "train", recipe, "--resume", "train.rounds=31")[0] == 0 and len(trained) == 2
    )


def test_check_says_where_the_run_stands_and_touches_nothing(capsys, recipe, trained, tmp_path):
    assert said(capsys, "train", recipe, "--check")[1].split() == ["new", str(tmp_path / "run")]
    assert not (tmp_path / "run").exists() and not trained
    checkpoint.append(_claimed(recipe) / "metrics.jsonl", {"round": 1})
    assert said(capsys, "train", recipe, "--check", "--resume")[1].split()[0] == "interrupted"


def _claimed(recipe):
    loaded = config.load(recipe)
    resume_.claim(loaded.run, loaded.to_dict(), resume=False)
    return Path(loaded.run)


def test_plugins_and_options_are_checked_before_anything_runs(capsys, recipe, trained):
    assert "did you mean 'grpo'" in said(capsys, "train", recipe, "algorithm.name=grpoo")[2]
    assert (
        "did you mean 'segments'" in said(capsys, "train", recipe, "algorithm.options.segmnts=2")[2]
    )
    assert (
        "expected int, got 'two'"
        in said(capsys, "train", recipe, "algorithm.options.segments=two")[2]
    )
    assert "did you mean 'flicker'" in said(capsys, "train", recipe, "reward.parts.flikker=1")[2]
    assert not trained


def test_an_interrupted_run_says_how_to_go_on(capsys, recipe, monkeypatch):
    from vidrl.training import loop

    def run(given, resume=False):
        checkpoint.append(_claimed(recipe) / "metrics.jsonl", {"round": 1})
        return Path(given.run)

    monkeypatch.setattr(loop, "run", run)
    status, out, _ = said(capsys, "train", recipe)
    assert status == 130 and "--resume goes on from" in out


# --- score and sample


@pytest.fixture
def made():
    """The rewards that score_files was given, by name."""
    return {}


@pytest.fixture
def scored(monkeypatch, made):
    """vidrl.rewards.score_files, replaced by one that scores a.mp4 and cannot score
    b.mp4."""
    calls = []

    def score_files(paths, chosen, prompts, jobs, timeout, memory, fps):
        calls.append((list(map(str, paths)), list(chosen)))
        made.update(chosen)
        facts = {"frames": 17, "note": None}
        yield {"path": "a.mp4", "value": {"flicker": 0.5}, "why": None} | facts
        yield {"path": "b.mp4", "value": {"flicker": None}, "why": "cannot be opened"} | facts

    monkeypatch.setattr(rewards, "score_files", score_files)
    return calls


def test_score_prints_a_line_a_clip(capsys, scored):
    status, out, err = said(
        capsys, "score", "clips", "c.mp4", "--reward", "flicker", "--reward", "drift"
    )
    assert scored == [(["clips", "c.mp4"], ["flicker", "drift"])]
    assert status == 0 and [json.loads(line)["path"] for line in out.splitlines()] == [
        "a.mp4",
        "b.mp4",
    ]
    assert "1 not scored" in err


def test_score_writes_a_file_and_is_strict_when_asked(capsys, scored, tmp_path):
    status, out, _ = said(capsys, "score", "clips", "--json", tmp_path / "s.jsonl", "--strict")
    assert status == 1 and out == "" and scored[0][1] == ["default"]
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 2


def test_score_passes_options_on(capsys, scored, made):
    said(
        capsys,
        "score",
        "clips",
        "--reward",
        "flicker",
        "--option",
        "floor=0.2",
        "--option",
        "flow=farneback",
    )
    assert (made["flicker"].floor, made["flicker"].flow) == (0.2, "farneback")
    said(
        capsys,
        "score",
        "clips",
        "--reward",
        "flicker",
        "--reward",
        "vidrl.rewards.frame_quality:FrameQuality",
        "--option",
        "vidrl.rewards.frame_quality:FrameQuality.log=true",
        "--option",
        "flicker.floor=0.3",
    )
    assert (
        made["flicker"].floor == 0.3
        and made["vidrl.rewards.frame_quality:FrameQuality"].log is True
    )


def test_score_takes_the_composite_by_name_beside_another(capsys, scored, made):
    status, _, _ = said(capsys, "score", "clips", "--reward", "default", "--reward", "flicker")
    assert (
        status == 0
        and list(made) == ["default", "flicker"]
        and isinstance(made["default"], rewards.Composite)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--reward", "flicker", "--option", "flor=1"],
            "has no option 'flor': did you mean 'floor'",
        ),
        (
            ["--reward", "flicker", "--option", "floor"],
            "expected an option as KEY=VALUE, got 'floor'",
        ),
        (
            ["--reward", "flicker", "--reward", "drift", "--option", "floor=1"],
            "as NAME.floor=..., one of flicker, drift",
        ),
        (["--reward", "flicker", "--option", "drift.floor=1"], "one of flicker; got drift"),
        (["--option", "floor=1"], "the default composite has no options, got floor"),
    ],
)
def test_options_that_are_nobodys_are_refused(capsys, scored, arguments, message):
    status, _, err = said(capsys, "score", "clips", *arguments)
    assert status == 2 and message in err and "Traceback" not in err and not scored


def test_score_asks_a_function_of_the_users_own(tmp_path, monkeypatch):
    """In processes of their own, from the folder that the user stands in."""
    pytest.importorskip("av")
    from vidrl.rewards import video

    video.write(tmp_path / "a.mp4", torch.rand(5, 3, 32, 32), 8.0)
    (tmp_path / "own_reward.py").write_text(
        "def light(video, prompts, fps):\n    return video.mean((1, 2, 3, 4))\n"
    )
    ran = subprocess.run(
        [
            Path(sys.executable).parent / "vidrl",
            "score",
            "a.mp4",
            "--reward",
            "own_reward:light",
            "--jobs",
            "1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    row = json.loads(ran.stdout)
    assert row["why"] is None and 0.3 < row["value"]["own_reward:light"] < 0.7


def test_sample_writes_clips_from_the_seeds_it_names(capsys, tmp_path, monkeypatch):
    from vidrl.rewards import video
    from vidrl.training import clips

    written, seeds = {}, []
    note = lambda path, clip, fps: written.update({path.name: tuple(clip.shape)})  # noqa: E731
    monkeypatch.setattr(video, "write", note, raising=False)
    real = clips.generate

    def generate(policy, prompts, generators, steps, **options):
        seeds.extend(generator.initial_seed() for generator in generators)
        return real(policy, prompts, generators, steps, **options)

    monkeypatch.setattr(clips, "generate", generate)
    status, out, _ = said(
        capsys,
        "sample",
        "--backbone",
        "toy",
        "--prompt",
        "a",
        "--prompt",
        "b",
        "--out",
        tmp_path / "o",
        "--seed",
        7,
        "--steps",
        2,
        "--device",
        "cpu",
    )
    assert (
        status == 0
        and seeds == [7, 8]
        and list(written) == ["0000.mp4", "0001.mp4"]
        and "2 clips" in out
    )


def test_clips_of_another_call_are_kept_unless_they_may_be_replaced(capsys, tmp_path):
    """The toy model makes images of one frame or small clips in milliseconds."""
    words = ["sample", "--backbone", "toy", "--steps", 1, "--device", "cpu", "--out", tmp_path]
    prompts = [["--prompt", name] for name in ("a", "b")]
    assert said(capsys, *words, *prompts[0], *prompts[1])[0] == 0
    (tmp_path / "own.txt").write_text("stays")
    before = (tmp_path / "0000.mp4").read_bytes()
    status, _, err = said(capsys, *words, *prompts[0], "--seed", 7)
    assert status == 2 and (tmp_path / "0000.mp4").read_bytes() == before
    assert "with 2, such as 0000.mp4: name another folder with --out, or add --overwrite" in err
    assert said(capsys, *words, *prompts[0], "--seed", 7, "--overwrite")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000.mp4", "own.txt", "prompts.csv"]
    assert (tmp_path / "0000.mp4").read_bytes() != before


# --- serve


def test_serve_answers_the_client_with_the_reward_asked_for(monkeypatch):
    """The command, up to the socket: one request of `http_scorer` is answered with the
    numbers of the reward."""
    from vidrl.rewards import Samples
    from vidrl.rewards._serving import serve
    from vidrl.rewards.frame_quality import FrameQuality
    from vidrl.rewards.http_scorer import HttpScorer

    monkeypatch.setenv("VIDRL_TOKEN", "a token of the test")
    found = {}

    def once(server):
        client = HttpScorer(f"http://127.0.0.1:{server.server_port}")
        worker = threading.Thread(target=lambda: found.update(score=client(samples)))
        worker.start()
        server.handle_request()
        worker.join()

    samples = Samples(torch.rand(2, 3, 3, 16, 16), ["", ""], 8.0)
    monkeypatch.setattr(serve.Server, "serve_forever", once)
    assert cli.main(["serve", "frame_quality", "--option", "log=true", "--port", "0"]) == 0
    assert torch.equal(found["score"].value, FrameQuality(log=True)(samples).value)


def test_serve_stays_on_this_machine(capsys):
    assert cli.main(["serve", "frame_quality", "--host", "0.0.0.0"]) == 2
    assert "others could reach it" in capsys.readouterr().err


# --- wrong inputs
# -----------------------------------------------------------------------------------------------------------

TINY = "sample --model assets/tiny-wan --prompt a --out {}/out "
CHECK = "train scripts/recipes/demo.toml --check "
WRONG = {
    TINY + "--steps -1": "--steps: expected a whole number of at least 1, got '-1'",
    TINY + "--height -64": "--height: expected a whole number of at least 1, got '-64'",
    TINY + "--device gpu": "--device: expected a device such as cpu, cuda or cuda:1, got 'gpu'",
    TINY + "--device cuda": "expected a --device of this machine, got cuda",
    TINY + "--backbone dtype=bf16": "expected one of 'float32', 'bfloat16', 'float16', got 'bf16'",
    TINY + "--backbone call=32": "backbone 'wan' has no option 'call'",
    TINY + "--backbone guidance=high": "option 'guidance' of backbone 'wan': expected float",
    TINY + "--backbone guidence=3": "did you mean 'guidance'?",
    "sample --model assets/tiny-wan --prompt a --out {}/file": "--out: expected a folder, got the",
    "sample --model {}/file --prompt a --out {}/out": "expected a diffusers folder",
    "sample --model {}/empty --prompt a --out {}/out": "which has no model_index.json",
    "bench {}/empty": "expected videos (.mp4, .webm, .mkv, .gif ...) or images in the folder",
    "bench --model assets/tiny-wan --limit -1": "--limit: expected a whole number of at least 0",
    "bench {}/empty --out {}/file": "--out: expected a folder, got the file",
    "bench {}/empty --fps fast": "--fps: expected a number of at least 0, got 'fast'",
    "score {}/empty --memory -1": "--memory: expected a number of at least 0, got '-1'",
    "score {}/empty --fps 0": "--fps: expected a number greater than 0, got '0'",
    "score {}/empty --json {}/none/s.jsonl": "expected a folder for the file",
    "score {}/empty --json {}/empty": "--json: expected a file, got the folder",
    "audit flicker --frames 0": "--frames: expected a whole number of at least 1, got '0'",
    "audit flicker --size -1": "--size: expected a whole number of at least 8, got '-1'",
    "serve flicker --port 99999": "--port: expected a whole number from 0 to 65535, got '99999'",
    "schema --out {}/empty": "--out: expected a file, got the folder",
    CHECK + "run={}/file": "expected a run folder, got the file",
    CHECK + "--processes -2": "--processes: expected a whole number of at least 0, got '-2'",
    CHECK + "train.rounds=-1": "train.rounds: expected at least 1, got -1",
    "report {}/file": "expected a run folder",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_input_is_one_clear_message(capsys, tmp_path, monkeypatch, command):
    """The exit status is 2, without a traceback, and no file is written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, out, err = said(capsys, *command.replace("{}", str(tmp_path)).split())
    assert status == 2 and WRONG[command] in err, err
    assert "Traceback" not in err and out == "" and not list(tmp_path.glob("out/*"))


def test_a_recipe_may_be_indented_with_tabs(capsys, recipe, trained, tmp_path):
    recipe.write_text(re.sub("^", "\t", recipe.read_text(), flags=re.MULTILINE))
    assert said(capsys, "train", recipe, "--check")[:2] == (0, f"new {tmp_path / 'run'}\n")


# --- on a terminal
# -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_terminal_gets_a_table_and_a_pipe_gets_text(capsys, monkeypatch):
    text = said(capsys, "list", "algorithms")[1]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["list", "algorithms"]) == 0
    drawn = terminal.getvalue()
    assert max(map(len, drawn.splitlines())) <= 60 < max(map(len, text.splitlines()))
    assert text.split()[0] in drawn


def test_a_table_shows_no_control_of_the_terminal_and_no_markup(monkeypatch):
    from vidrl.cli._tables import Table, print_tables

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    name = "[red]a \x1b]0;title\x07 \x9b31m caf\udce9"
    print_tables([Table(("name",), [(name,)], notes=[name])], "text")
    drawn = terminal.getvalue()
    assert drawn.count("[red]a \\x1b]0;title\\x07 \\x9b31m caf\\udce9") == 2
    assert "\x9b" not in drawn and "\x07" not in drawn


def test_a_bar_is_drawn_on_a_terminal_only(capsys, monkeypatch):
    from vidrl.cli._progress import clip_progress

    assert list(clip_progress(iter("abc"), 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(clip_progress(iter("abc"), 3)) == ["a", "b", "c"]
    assert "3/3" in terminal.getvalue() and capsys.readouterr().out == ""


def test_a_bar_of_tqdm_may_move_the_cursor_up():
    from vidrl.cli._terminal import Plain

    stream = io.StringIO()
    for text in ("\x1b[A", "\x1b[A\x1b[A", "a\x1b[A"):
        Plain(stream).write(text)
    assert stream.getvalue() == "\x1b[A\x1b[A\x1b[Aa\\x1b[A"


# --- before any work


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            [
                "algorithm.options.per_part=true",
                "reward.parts={flicker = {weight = 1.0, band = [0.2, 0.8]}}",
            ],
            "algorithm.options.per_part = false, because more is not always better of a part "
            "with a band or a gate (flicker)",
        ),
        (
            ["reward.parts={flicker = {options = {flow = 'farnback'}}}"],
            "expected flow to be one of auto, dis, dis_fast",
        ),
    ],
)
def test_check_refuses_what_training_would_refuse(capsys, tmp_path, changes, message):
    status, _, err = said(
        capsys, "train", "scripts/recipes/demo.toml", f"run={tmp_path / 'run'}", "--check", *changes
    )
    assert status == 2 and message in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command", ["score {} --reward flicker", "bench {} --dims flicker --jobs 0 --out {}/out"]
)
def test_nothing_that_a_terminal_obeys_is_printed(tmp_path, capsys, command):
    """Names of files hold escape codes, a window title, C1 codes, a return and a mark of
    direction."""
    clips = tmp_path / "clips"
    clips.mkdir()
    rewards.video.write(clips / "red \x1b[31m \x1b]0;title\x07.mp4", torch.rand(4, 3, 32, 32), 8.0)
    (clips / "bad \x1b[2J \x9b31m ok\rforged \u202e.mp4").write_text("no video")
    cli.main([word.replace("{}", str(clips)) for word in command.split()])
    told = "".join(capsys.readouterr())
    assert "forged" in told and not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", told.replace("\r\n", "\n")
    )


def test_pairs_are_shown_and_converted_and_losses_are_counted(tmp_path, capsys):
    rows = [
        {"path_a": "a.mp4", "path_b": "b.mp4", "prompt": "a dog", "choice": "a", "rater": "x"},
        {"path_a": "b.mp4", "path_b": "a.mp4", "prompt": "a dog", "choice": "a", "rater": "x"},
        {"path_a": "b.mp4", "path_b": "c.mp4", "prompt": "a dog", "choice": "a"},
        {"path_a": "a.mp4", "path_b": "c.mp4", "prompt": "a dog", "choice": "b"},
        {"path_a": "a.mp4", "path_b": "d.mp4", "prompt": "a dog", "choice": "tie"},
    ]
    source, out = tmp_path / "own.jsonl", tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["pairs", "show", str(source)]) == 0
    shown = capsys.readouterr().out
    assert "5 choices; 4 clips (4 not found), 1 prompt" in shown
    assert "ties: 1 (0 of two bad clips)" in shown
    assert "contradictions: 1 pair with choices of both clips (1 of one rater); 0 cycles" in shown
    convert = ["pairs", "convert", str(source), "--to", "trl", "--out", str(out)]
    assert cli.main([*convert, "--strict"]) == 1 and not out.exists()
    assert "cannot hold all of it, so nothing is written" in capsys.readouterr().out
    assert cli.main(convert) == 0
    assert capsys.readouterr().out.splitlines() == [
        "not in trl: 1 name of raters is left out",
        "not in trl: 1 answer is joined with others on a pair",
        "not in trl: 2 ties are left out",
        f"2 rows of the format trl in {out}",
    ]
    assert json.loads(out.read_text().splitlines()[0])["chosen"] == "b.mp4"
    assert cli.main([*convert, "--map", "prompt"]) == 2
    assert "expected --map COLUMN=NAME" in capsys.readouterr().err
    assert cli.main(["pairs", "show", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "vidrl"
