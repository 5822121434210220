"""Twenty raters click at once, and the server is killed in the middle: no click is lost."""

import os
import random
import re
import subprocess
import sys
import threading
import time

import pytest

for package in ("starlette", "sqlalchemy", "uvicorn"):
    pytest.importorskip(package)

from tests.feedback.clips_of_colour import write_clip
from tests.feedback.simulated_browser import Rater
from vidrl.feedback.store import Store

RATERS, CLICKS = 20, 100
TOKEN = "a-token-of-the-load-test"
LIMIT = 420.0  # seconds for all


def start(home, port=0):
    words = ["label", str(home / "clips"), "--store", str(home / "taste.db"), "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "vidrl", *words, "--count", str(CLICKS), "--repeats", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"VIDRL_TOKEN": TOKEN},
    )
    server.stdout.readline()
    return server, int(re.search(r":(\d+)/", server.stdout.readline())[1])


def answer(name):
    """A rater's answers: one of four, drawn at random."""
    draw = random.Random(name)
    return lambda receipts: {"overall": draw.choice(["A", "B", "tie", "bad"])}


@pytest.mark.slow
def test_no_click_is_lost_when_the_server_is_killed_under_load(tmp_path):
    for i in range(15):  # 105 pairs of one prompt
        write_clip(tmp_path / "clips" / f"{i}.mp4", i, frames=4)
    rows = "".join(f"{i}.mp4,a dog\n" for i in range(15))
    (tmp_path / "clips" / "prompts.csv").write_text(f"path,prompt\n{rows}")
    server, port = start(tmp_path)
    end = time.monotonic() + LIMIT
    names = [f"rater{i}" for i in range(RATERS)]
    raters = [Rater(name, port, TOKEN, answer(name), end) for name in names]
    threads = [threading.Thread(target=rater.run, daemon=True) for rater in raters]
    begun = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        while sum(len(rater.taken) for rater in raters) < RATERS * CLICKS / 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        server.kill()  # kill -9, with clicks under way
        server.wait()
        taken = {task: value for rater in raters for task, value in list(rater.taken.items())}
        kept = {one.click: one.given for one in Store(tmp_path / "taste.db").answers()}
        assert {task: kept.get(task) for task in taken} == taken
        assert len(kept) - len(taken) <= RATERS  # written, but the browser was not yet answered
        server, _ = start(tmp_path, port)
        for thread in threads:
            thread.join(max(0.1, end - time.monotonic()))
    finally:
        server.kill()
        server.wait()
    taken = {task: value for rater in raters for task, value in rater.taken.items()}
    answers = Store(tmp_path / "taste.db").answers()
    assert len(taken) == RATERS * CLICKS
    assert {one.click: one.given for one in answers} == taken
    assert len(answers) == len(taken)
    by_rater = {rater.name: [one for one in answers if one.rater == rater.name] for rater in raters}
    for rater in raters:  # nobody judged a pair twice
        pairs = [frozenset(clip.path for clip in one.shown) for one in by_rater[rater.name]]
        assert len(set(pairs)) == len(pairs) == CLICKS
    spent = sorted(second for rater in raters for second in rater.seconds)
    print(
        f"{len(taken)} clicks in {time.monotonic() - begun:.0f} s, half of the requests within "
        f"{1e3 * spent[len(spent) // 2]:.0f} ms, 99 % within {1e3 * spent[int(0.99 * len(spent))]:.0f} ms"
    )
