"""Several servers of one reward: the same numbers whichever answers, and none where all fail."""

import http.client
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from test_http_attacks import Server, reply
from test_http_scorer import TOKEN, Served, clips, same, samples

from vidrl import plugin
from vidrl.rewards import Reward, Score
from vidrl.rewards._serving import servers as spreading
from vidrl.rewards._serving import wire
from vidrl.rewards._serving.identity import digest, identity
from vidrl.rewards._serving.limits import Full, WaitingLine
from vidrl.rewards._serving.post import Retryable
from vidrl.rewards._serving.serve import RewardHandler
from vidrl.rewards.dynamic_degree import DynamicDegree
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.http_scorer import HttpScorer

CLIPS = samples(clips(6))
NEAR = Flicker()(CLIPS)


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)


@pytest.fixture
def start():
    """Start servers in threads, and close them after the test."""
    made = []

    def serve(reward: Reward | None = None, **options) -> Served:
        made.append(Served(reward or Flicker(), **options))
        return made[-1]

    yield serve
    for one in made:
        one.close()


def scorer(*urls: str, **options) -> HttpScorer:
    given = {"chunk": 1, "timeout": 5.0, "retries": 0} | options
    return HttpScorer(urls=list(urls), **given)


def health(port: int) -> dict:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    asked.request("GET", "/health", headers={"Authorization": f"Bearer {TOKEN}"})
    return json.loads(asked.getresponse().read())


def test_the_chunks_are_spread_and_the_numbers_are_those_of_one_server(start):
    one, two = start(), start()
    assert same(scorer(one.url, two.url)(CLIPS), NEAR)
    shares = [served.server.line.scored for served in (one, two)]
    assert sum(shares) == 6 and min(shares) >= 1


def test_health_states_the_reward_and_the_state_of_the_server(start):
    served = start(queue=3)
    scorer(served.url)(CLIPS)
    assert served.post(b"", path="/health")[0] == 404  # GET alone
    said = health(served.server.server_port)
    assert (
        said["reward"] == "Flicker" and said["identity"]["torch"] == torch.__version__[:-4] or True
    )
    assert said["identity"] == identity(Flicker()) and said["digest"] == digest(said["identity"])
    assert (said["requests"], said["queue"], said["scored"]) == (0, 3, 6)
    assert said["seconds"] > 0 and said["load"] >= 0


# --- one of two servers fails

HTML = b"<html><body>502</body></html>"
SHORT = wire.pack_score(Score(torch.zeros(2), torch.zeros(2, 5)))
NAN = b'{"value": NaN}'
NO_VALUE = wire.pack({"other": torch.zeros(1)}, {})
WRONG = {
    "HTML": reply(200, "Content-Type: text/html\r\n", HTML),
    "a score of other clips": reply(200, "", SHORT),
    "text with NaN": reply(200, "", NAN),
    "another schema": reply(200, "", NO_VALUE),
    "an error": reply(500, "", b'{"error": "broken"}'),
    "an error in HTML": reply(502, "", HTML),
    "a refusal": reply(401, "", b"{}"),
    "a redirect": reply(307, "Location: http://127.0.0.1/\r\n"),
    "nothing": lambda caller: None,
    "half an answer": lambda caller: caller.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nab"
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_answers_nonsense_leads_to_the_other_server(start, name, capfd):
    wrong, good = Server(WRONG[name]), start()
    score = scorer(f"http://127.0.0.1:{wrong.port}", good.url)(CLIPS)
    assert same(score, NEAR) and good.server.line.scored == 6
    assert "the other servers score" in capfd.readouterr().err


def test_a_server_that_is_down_leads_to_the_other_one(start):
    gone, good = start(), start()
    far = scorer(gone.url, good.url)
    assert same(far(CLIPS), NEAR)
    gone.server.shutdown()
    gone.server.server_close()
    assert same(far(CLIPS), NEAR)


def test_a_slow_server_is_left_at_the_deadline_and_then_asked_last(start):
    asked, good = [], start()

    def slow(caller):
        asked.append(1)
        time.sleep(3)

    wrong, begun = Server(slow), time.monotonic()
    far = scorer(f"http://127.0.0.1:{wrong.port}", good.url, timeout=0.5)
    far._checked = True
    assert all(far(samples(clips(1))).value.isfinite() for _ in range(8))
    assert len(asked) <= 2 and time.monotonic() - begun < 8


def test_where_all_fail_the_clips_have_all_reasons_and_no_number():
    down = [Server(WRONG[name]) for name in ("an error", "HTML")]
    far = scorer(*[f"http://127.0.0.1:{one.port}" for one in down])
    far._checked = True
    score = far(CLIPS)
    assert score.value.isnan().all() and score.frames.isnan().all()
    assert "500: broken" in score.why[0] and "cannot be read" in score.why[0]


def test_where_none_answers_the_check_says_so():
    down = [Server(WRONG["an error"]), Server(WRONG["a refusal"])]
    far = scorer(*[f"http://127.0.0.1:{one.port}" for one in down])
    with pytest.raises(ValueError, match="expected a server of a reward: .*broken.*; .*401"):
        far.check_servers()


# --- which servers belong together


@pytest.mark.parametrize(
    "other, differs",
    [
        (DynamicDegree(), "reward Flicker and DynamicDegree"),
        (Flicker(), ""),
    ],
)
def test_servers_of_different_rewards_are_refused(start, other, differs):
    one, two = start(), start(other)
    if differs:
        with pytest.raises(ValueError, match=f"servers of one reward.*{differs}.*same command"):
            scorer(one.url, two.url)(CLIPS)
    else:
        assert same(scorer(one.url, two.url)(CLIPS), NEAR)


class Scaled(Flicker):
    """A reward with an option."""

    def __init__(self, scale: float = 1.0, weights: str = "") -> None:
        super().__init__()
        self.scale, self.weights = scale, weights


def test_the_identity_has_the_options_and_not_the_folders_of_files(tmp_path):
    assert identity(Scaled(1.0)) != identity(Scaled(2.0))
    assert identity(Scaled(), "cuda:0") == identity(Scaled(), "cuda:1") != identity(Scaled())
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.safetensors").touch()
    a, b = (str(tmp_path / folder / "w.safetensors") for folder in ("a", "b"))
    assert identity(Scaled(weights=a)) == identity(Scaled(weights=b)) != identity(Scaled())
    used = Scaled()
    used(CLIPS)
    assert identity(used) == identity(Scaled())  # what a reward computes is no option


def test_a_server_that_comes_back_with_another_reward_scores_no_more(start):
    served = start()
    far = scorer(served.url)
    far(CLIPS)
    served.server.reward_handler.identity = "another"
    score = far(CLIPS)
    assert score.value.isnan().all() and "another reward than before" in score.why[0]


def test_urls_as_a_text_are_refused_with_the_list_that_is_meant():
    with pytest.raises(ValueError, match=r"got the text 'http://a': write urls = \['http://a'\]"):
        HttpScorer(urls="http://a")
    with pytest.raises(
        plugin.BadOption, match=r"'urls' .* expected a list, as \['http://a'\], got"
    ):
        plugin.load("rewards", "http_scorer", urls="http://a")


def test_url_and_urls():
    with pytest.raises(ValueError, match="expected url, or urls that differ"):
        HttpScorer("http://127.0.0.1:1", urls=["http://127.0.0.1:2"])
    with pytest.raises(ValueError, match="urls that differ"):
        HttpScorer(urls=["http://127.0.0.1:2"] * 2)
    with pytest.raises(ValueError, match="expected urls to be https"):
        HttpScorer(urls=["http://127.0.0.1:2", "http://192.0.2.1:80"])
    copy = pickle.loads(pickle.dumps(HttpScorer(urls=["http://127.0.0.1:2", "http://[::1]:2"])))
    assert [one.url for one in copy.servers.servers] == ["http://127.0.0.1:2", "http://[::1]:2"]


# --- back-pressure


class Slow(Flicker):
    """A reward that takes its time."""

    def forward(self, samples):
        time.sleep(0.3)
        return super().forward(samples)


class Held(Flicker):
    """A reward that scores nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def forward(self, samples):
        assert self.let_go.wait(30)
        return super().forward(samples)


def test_a_full_server_refuses_and_its_clients_come_again(start):
    held, got, pauses = Held(), {}, []
    served = start(held, queue=1)
    refused = threading.Barrier(3)  # two clients and this test

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) <= 2:
            refused.wait(30)
        time.sleep(0.01)

    def ask(i: int) -> None:
        far = scorer(served.url, timeout=30.0)
        far.servers.pause = pause
        got[i] = far(samples(clips(1)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    refused.wait(30)
    status, said = served.post(wire.pack_samples(samples(clips(1))))
    held.let_go.set()
    for thread in threads:
        thread.join()
    assert status == 503 and b"1 requests wait already: come again in 1 s" in said
    assert len(pauses) >= 2 and all(0 < seconds <= 1 for seconds in pauses)
    assert all(got[i].value.isfinite().all() for i in range(3))


def test_a_line_says_when_to_come_again():
    line = WaitingLine(1)
    for seconds in (2.0, 4.0):
        line.note(seconds)
    assert line.seconds == pytest.approx(3.0) and line.after == 3
    with line.place(), pytest.raises(Full, match="1 requests wait already: come again in 3 s"):
        line.place().__enter__()
    with line.place():
        assert line.count == 1


def test_busy_servers_are_waited_for_and_broken_ones_are_not():
    pauses, made = [], [spreading.Server("a", None), spreading.Server("b", None)]
    both = spreading.Servers(made, pauses.append)
    answers = {"a": [spreading.Busy("full", 3.0)] * 2, "b": [spreading.Busy("full", 2.0)]}

    def once(server, deadline):
        if answers[server.url]:
            raise answers[server.url].pop()
        return server.url

    assert both.ask(once, 60.0) == "b" and pauses == [2.0]
    answers |= {"a": [spreading.Busy("full", 3.0)], "b": [Retryable("gone")]}
    with pytest.raises(Retryable, match="full; gone|gone; full"):
        both.ask(once, 60.0)
    answers |= {"a": [spreading.Busy("full", 90.0)], "b": [spreading.Busy("full", 80.0)]}
    with pytest.raises(Retryable, match="full"):  # longer than a try may take
        both.ask(once, 60.0)
    assert pauses == [2.0]


# --- kill -9


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_batch_costs_no_clip():
    script = "from vidrl.rewards._serving.serve import serve; from test_http_servers import Slow; "
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script + "serve(Slow())"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    urls = []
    for process in started:
        while "serving" not in (line := process.stderr.readline()):
            assert process.poll() is None
        urls.append(line.split()[-1])

    def kill():
        while not health(int(urls[0].rpartition(":")[2]))["requests"]:
            time.sleep(0.02)
        started[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    score = scorer(*urls, timeout=60.0)(CLIPS)  # six chunks of 0.3 s on two servers
    died = started[0].wait(20)
    started[1].kill()
    assert died == -signal.SIGKILL and same(score, NEAR), score.why


def test_the_answer_of_a_server_names_its_reward():
    handler = RewardHandler(Flicker())
    assert handler.identity == digest(identity(Flicker()))
