"""The command `vidrl label`: what it refuses before any work, and that it serves and ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

for package in ("starlette", "sqlalchemy", "uvicorn"):
    pytest.importorskip(package)

from tests.feedback.clips_of_colour import two_folders
from vidrl import cli


def refused(capsys, *words):
    assert cli.main(["label", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_a_port_in_use_is_refused_with_the_cure(tmp_path, capsys):
    folders = two_folders(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = refused(capsys, *folders, "--store", tmp_path / "t.db", "--port", port)
    assert f"got {port}" in told and "--port, or 0" in told
    assert not (tmp_path / "t.db").exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("vidrl.cli.label.PACKAGES", ("starlette", "not_installed_here"))
    told = refused(capsys, tmp_path)
    assert "found no not_installed_here" in told and "pip install" in told and "label" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected folders of clips, or a model"),
        (["--model", "m"], "a model and its prompts"),
        (["base", "--model", "m"], "got both"),
        (["base", "ours", "--scale", "videoscore2"], "--mode points"),
        (
            ["base", "--mode", "points", "--scale", "videofeedback", "--axes", "a.toml"],
            "expected --scale or --axes, got both",
        ),
        (["base", "ours", "--mode", "points", "--gold", "g.csv"], "--mode pairs with --gold"),
        (["base", "ours", "--gold", "none.csv"], "file of gold pairs"),
        (["base", "ours", "--random", "1.5"], "share of 0 to 1"),
        (["base", "ours", "--mode", "points", "--reward", "r"], "--mode pairs with --reward"),
        (["base", "nowhere"], "expected a folder of clips, found nothing"),
        (["base", "ours", "--axes", "none.toml"], "none.toml"),
    ],
)
def test_wrong_options_are_refused_before_any_page(tmp_path, capsys, monkeypatch, words, expected):
    two_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *words, "--port", 0)
    assert not list(tmp_path.glob("taste.db*"))  # nothing is left of a start that is refused


def test_the_start_says_that_no_ranking_is_as_large_as_asked(tmp_path, capsys):
    from argparse import Namespace

    from vidrl.cli import label
    from vidrl.feedback.labelling import clip_sets

    found = clip_sets.read(two_folders(tmp_path), "ranking")
    groups = clip_sets.items(found, "ranking", 4)
    desk = Namespace(selection=Namespace(groups=groups), clips=found)
    args = Namespace(mode="ranking", store="t.db", rank=4, public=False, open=False)
    label._print_start(args, desk, "link")
    told = capsys.readouterr().out
    assert "3 rankings of 6 clips" in told and "the largest ranking has 2 clips of --rank 4" in told
    args.rank = 2
    label._print_start(args, desk, "link")
    assert "the largest" not in capsys.readouterr().out


def test_a_store_of_other_questions_is_refused(tmp_path, capsys, monkeypatch):
    from vidrl.feedback.questionnaire import Questionnaire
    from vidrl.feedback.store import Store

    two_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    Store(tmp_path / "taste.db", Questionnaire("ranking")).close()
    told = refused(capsys, "base", "ours", "--port", 0)
    assert Questionnaire("ranking").hash in told and "differs in mode" in told


def test_the_report_of_a_store_needs_no_clips_and_opens_no_page(tmp_path, capsys):
    from vidrl.feedback.questionnaire import Questionnaire
    from vidrl.feedback.store import Answer, Shown, Store

    store = Store(tmp_path / "taste.db", Questionnaire("pairs"))
    sides = (Shown("base/a.mp4"), Shown("ours/a.mp4"))
    store.add(Answer("eva", sides, {"overall": "B"}, prompt="a dog", click="1"))
    store.close()
    html = tmp_path / "raters.html"
    words = ["--store", str(tmp_path / "taste.db"), "--html", str(html)]
    assert cli.main(["label", *words, "--report"]) == 0
    told = capsys.readouterr().out
    assert "eva" in told and "one rater" in told and told.endswith(f"files: {html}\n")
    assert "eva" in html.read_text() and "one rater" in html.read_text()
    assert "expected --report with --html" in refused(capsys, *words)


def test_the_report_of_a_store_that_is_not_there_is_refused(tmp_path, capsys):
    assert "none.db" in refused(capsys, "--store", tmp_path / "none.db", "--report")
    assert not (tmp_path / "none.db").exists()


def test_a_short_token_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", "short")
    assert "at least 16" in refused(capsys, tmp_path)


def test_the_page_is_served_until_ctrl_c(tmp_path):
    folders = two_folders(tmp_path)
    words = ["label", *map(str, folders), "--store", str(tmp_path / "taste.db"), "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "VIDRL_TOKEN"}
    server = subprocess.Popen(
        [sys.executable, "-m", "vidrl", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        lines = [server.stdout.readline() for _ in range(2)]
        link = re.fullmatch(r"open (http://127\.0\.0\.1:\d+)/\?token=([\w-]{32})\n", lines[1])
        assert lines[0] == f"3 pairs of 6 clips, answers in {tmp_path}/taste.db\n"
        assert "Your name" in urlopen(link[0].removeprefix("open ").strip()).read().decode()
        with pytest.raises(HTTPError, match="403"):
            urlopen(link[1])
        time.sleep(0.1)
        server.send_signal(signal.SIGINT)
        assert server.stdout.read() == f"0 answers of 0 raters in {tmp_path}/taste.db\n"
        assert server.wait(30) in (0, 130)
    finally:
        server.kill()
