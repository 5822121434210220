"""Twenty raters click at once, and the server is killed in the middle: no click is lost."""

import http.client
import json
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


class Rater:
    """A browser without a picture: keeps cookies, and sends an answer until it is taken."""

    def __init__(self, name, port, end):
        self.name, self.port, self.end = name, port, end
        self.cookies, self.taken, self.connection = {}, {}, None
        self.receipt, self.receipts = None, {}
        self.seconds = []  # of each request that was answered

    def ask(self, method, path, body=None, kind="application/json"):
        while time.monotonic() < self.end:
            try:
                return self._ask(method, path, body, kind)
            except (OSError, http.client.HTTPException):
                self.connection = None  # the server is gone: again, until it is back
                time.sleep(0.1)
        raise TimeoutError(self.name)

    def _ask(self, method, path, body, kind):
        self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, 30)
        host = f"127.0.0.1:{self.port}"
        headers = {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        headers |= {"origin": f"http://{host}", "content-type": kind}
        begun = time.monotonic()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        self.receipt = answer.headers.get("x-receipt")
        self.seconds.append(time.monotonic() - begun)
        for line in answer.headers.get_all("set-cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        assert answer.status in (200, 303, 404), (answer.status, text[:200])
        return text

    def run(self):
        draw = random.Random(self.name)
        self.ask("GET", f"/?token={TOKEN}")
        self.ask("POST", "/name", f"name={self.name}", "application/x-www-form-urlencoded")
        state = json.loads(self.ask("GET", "/api/state"))
        while state["tasks"]:
            task, value = state["tasks"][0]["task"], draw.choice(["A", "B", "tie", "bad"])
            sent = {"task": task, "given": {"overall": value}, "seconds": 2.0}
            sent["receipts"] = [self._receipt(clip) for clip in state["tasks"][0]["clips"]]
            if None in sent["receipts"]:  # a restarted server has other names of clips
                state = json.loads(self.ask("GET", "/api/state"))
                continue
            state = json.loads(self.ask("POST", "/api/answer", json.dumps(sent)))
            self.taken[task] = value

    def _receipt(self, clip):
        """The receipt of a clip, whose frames are loaded once, as a browser does."""
        if clip not in self.receipts:
            self.ask("GET", f"/clips/{clip}")
            if self.receipt is None:
                return None
            self.receipts[clip] = self.receipt
        return self.receipts[clip]


@pytest.mark.slow
def test_no_click_is_lost_when_the_server_is_killed_under_load(tmp_path):
    for i in range(15):  # 105 pairs of one prompt
        write_clip(tmp_path / "clips" / f"{i}.mp4", i, frames=4)
    rows = "".join(f"{i}.mp4,a dog\n" for i in range(15))
    (tmp_path / "clips" / "prompts.csv").write_text(f"path,prompt\n{rows}")
    server, port = start(tmp_path)
    end = time.monotonic() + LIMIT
    raters = [Rater(f"rater{i}", port, end) for i in range(RATERS)]
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
        kept = {one.click: one.given["overall"] for one in Store(tmp_path / "taste.db").answers()}
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
    assert {one.click: one.given["overall"] for one in answers} == taken
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
