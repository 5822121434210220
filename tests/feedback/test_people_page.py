"""The commands of docs/people.md run in the order of the page, and its pages are answered."""

import contextlib
import csv
import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest

for package in ("starlette", "sqlalchemy", "uvicorn", "pyarrow"):
    pytest.importorskip(package)

from tests import pages
from tests.feedback import browser
from tests.feedback.simulated_browser import Rater
from vidrl.feedback.store import Store

PAGE = "people.md"
PROMPTS = 12
RATERS = ("Ann", "Bob", "Eve")
SHORTER = {  # the same commands, with fewer clips and a smaller model
    "--model assets/tiny-wan ": "--model assets/tiny-wan-32 --steps 2 ",
    "--run runs/demo ": "--model assets/tiny-wan-32 --steps 2 --seed 100 ",
    "--prompts assets/prompts/world_held_out.txt": "--prompts few.txt",
    "pip install": "true",
    "people_train.py label": "people_train.py label --prompts 6 --labels 40",
    "vidrl train scripts/recipes/tiny_taste.toml": "vidrl train scripts/recipes/tiny_taste.toml "
    "train.rounds=1 train.prompts_per_round=2 train.group=2 data.held_out_n=4 "
    "algorithm.options.noises=1 algorithm.options.updates=4",
    # `vidrl audit` has a command of its own
    "vidrl fit taste.db": "vidrl fit taste.db --no-audit",
    "vidrl fit runs/labels/taste.db": "vidrl fit runs/labels/taste.db --no-audit",
    # a taste may be open to hacks, which is the exit status 1 or 3
    "vidrl audit fitted --option model=taste/": "vidrl audit fitted --option model=taste/ "
    "--clips-count 2 --hacks freeze,blur --strengths 1 || test $? -ne 2",
}
SHOWN = "document.querySelector('#main:not([hidden]) canvas')?.dataset.frame !== undefined"


@contextlib.contextmanager
def served(place, line):
    """The server of a command `vidrl label`: its port and its token."""
    words = [*shlex.split(line)[1:], "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "vidrl", *words],
        cwd=place,
        env={key: value for key, value in pages.environment().items() if key != "VIDRL_TOKEN"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        shown = iter(server.stdout.readline, "")
        link = next(line for line in shown if line.startswith("open "))
        yield re.search(r":(\d+)/\?token=(\S+)", link).groups()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)
    finally:
        server.kill()
        server.wait()


def better(receipts):
    """The clip of the larger receipt is better: raters agree, and no pair is a tie."""
    answer = "A" if receipts[0] > receipts[1] else "B"
    return dict.fromkeys(("motion", "picture", "prompt", "overall"), answer)


def answered_by_raters(place, line):
    with served(place, line) as (port, token):
        for name in RATERS:
            Rater(name, int(port), token, better, time.monotonic() + 300).run()
    answers = Store(place / "taste.db").answers()
    assert {one.rater for one in answers} == {*RATERS}
    assert len([one for one in answers if one.reason != "repeat"]) == len(RATERS) * PROMPTS


def answered_by_keys(place, line, store):
    """A person in a browser answers all pairs by the keyboard: A for each question."""
    with served(place, line) as (port, token), browser.chromium() as address:
        tab = browser.Tab(address)
        tab.open(f"http://127.0.0.1:{port}/?token={token}")
        tab.until("document.getElementById('name')")
        tab.js("document.getElementById('name').value = 'Kim'")
        tab.js("document.querySelector('form').requestSubmit()")
        tab.until(SHOWN)
        questions = len(tab.js("JSON.parse(document.getElementById('data').textContent).axes"))
        for number in range(1, 100):
            for _ in range(questions):
                tab.press("1")
            count = f"document.getElementById('count').textContent.startsWith('{number} ')"
            tab.until(f"{count} && (!document.getElementById('done').hidden || {SHOWN})")
            if not tab.js("document.getElementById('done').hidden"):
                break
        assert tab.complaints() == []
    answers = Store(store).answers()
    assert len(answers) == number
    assert all(one.given == {"hands": "A", "overall": "A"} for one in answers)
    assert {one.prompt for one in answers if one.reason != "gold"} == {
        *(place / "few.txt").read_text().splitlines()
    }
    return answers


@pytest.fixture
def place(tmp_path):
    return pages.link(tmp_path, PROMPTS)


def files_of_others(place):
    """The files that the section on files of others converts."""
    import pyarrow
    import pyarrow.parquet

    pages.here(place, "vidrl pairs convert taste.db --to vidrl --out answers.csv", {})
    (place / "clips").symlink_to("base")
    pictures = {"jpg_0": [b"one", b"two"], "jpg_1": [b"three", b"four"], "label_0": [1.0, 0.0]}
    table = pictures | {"caption": ["a dog", "a cat"], "label_1": [0.0, 1.0]}
    pyarrow.parquet.write_table(pyarrow.table(table), place / "part.parquet")
    with open(place / "mine.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["caption", "winner", "loser"])
        rows.writerow(["a dog", "base/0000.mp4", "ours/0000.mp4"])


def test_no_other_command_writes_into_the_folder_of_a_recipes_run():
    """`vidrl train` refuses a folder that holds other files."""
    recipes = list((pages.ROOT / "scripts" / "recipes").glob("*.toml"))
    runs = {tomllib.loads(file.read_text())["run"] for file in recipes}
    files = [*recipes, *pages.ROOT.glob("docs/**/*.md"), pages.ROOT / "README.md"]
    files += [*pages.ROOT.glob("benchmarks/**/*.py"), *pages.ROOT.glob("scripts/*")]
    texts = {file: file.read_text() for file in files if file.is_file()}
    named = {file: set(re.findall(r"--out (runs/[\w/]+)", text)) for file, text in texts.items()}
    assert "runs/tiny_taste" in runs and any(named.values())
    assert {file: folders & runs for file, folders in named.items() if folders & runs} == {}


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_order(place):
    ran = []
    for language, text in pages.blocks(PAGE):
        if language in ("", "bash") and "vidrl pairs show" in text:
            files_of_others(place)
        if language == "python":
            pages.run(place, text, sys.executable, "-c")
        elif language == "toml" and "[reward]" in text:
            scores_by_the_recipe(place, text)
        elif language == "toml":
            (place / "hands.toml").write_text(text)
            assert tomllib.loads(text)["axes"].keys() == {"hands", "overall"}
        elif text.startswith("first,second"):
            gold_pairs(place, text)
        else:
            # `vidrl loop` asks people in each round: tests/feedback/test_feedback_rounds.py answers
            for line in (line for line in text.splitlines() if not line.startswith("vidrl loop")):
                ran.append(line)
                (answered_by_raters if line.startswith("vidrl label") else run)(place, line)
    page = (pages.ROOT / "docs" / PAGE).read_text()
    for line in re.findall(r"`(vidrl (?:pairs|label) [^`]*taste\.db[^`]*)`", page):
        ran.append(line)
        run(place, line)
    assert sum(line.startswith("vidrl ") for line in ran) >= 13
    assert "Ann" in (place / "runs/raters/raters.md").read_text()
    assert (place / "taste/card.html").is_file()
    assert len(list((place / "pictures").iterdir())) == 4


def run(place, line):
    pages.here(place, line, SHORTER)


def scores_by_the_recipe(place, text):
    """The options of the recipe's reward score a clip."""
    options = tomllib.loads(text)["reward"]
    words = " ".join(f"--option {key}={value}" for key, value in options["options"].items())
    scored = pages.here(place, f"vidrl score clips/ --reward {options['name']} {words}", {})
    rows = [json.loads(line) for line in scored.splitlines() if line.startswith("{")]
    assert len(rows) == PROMPTS
    assert all(math.isfinite(row["value"]["fitted"]) for row in rows)


def gold_pairs(place, text):
    (place / "gold.csv").write_text(text)
    for name, clip in (("good.mp4", "0000.mp4"), ("frozen.mp4", "0001.mp4")):
        shutil.copy(place / "base" / clip, place / name)


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs the browser chromium")
def test_the_questions_of_the_page_are_answered_by_the_keyboard(place):
    pytest.importorskip("websockets")
    blocks = pages.blocks(PAGE)
    for line in blocks[0][1].splitlines():
        if line.startswith("vidrl sample"):
            run(place, line)
    axes = next(text for language, text in blocks if "[axes.hands]" in text)
    (place / "hands.toml").write_text(axes)
    gold_pairs(place, next(text for _, text in blocks if text.startswith("first,second")))
    line = next(line for line in axes.splitlines() if line.startswith("# vidrl label"))
    gold = "--gold gold.csv --gold-share 0.5 --repeats 0"
    answers = answered_by_keys(place, f"{line[2:]} {gold}", place / "hands.db")
    checks = [one for one in answers if one.reason == "gold"]
    assert len(answers) == PROMPTS + len(checks) and len(checks) <= 1
    run(place, "vidrl pairs report hands.db --out runs/hands")
    assert "Kim" in (place / "runs/hands/raters.md").read_text()
