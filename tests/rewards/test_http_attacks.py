"""`http_scorer` and `judge` against hostile servers: a score, or a reason, by the
deadline."""

import json
import math
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import torch

from vidrl.rewards import Samples, Score
from vidrl.rewards._serving.post import Retryable, RetryPolicy, retry_after
from vidrl.rewards._serving.printable import printable
from vidrl.rewards._serving.wire import pack, pack_score
from vidrl.rewards.http_scorer import HttpScorer
from vidrl.rewards.judge import Judge

VALUE = {"value": torch.tensor([0.1, 0.2])}
GOOD = pack_score(Score(torch.tensor([0.1, 0.2]), torch.full((2, 5), 0.1)))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", "a token of these tests")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def samples(clips=2):
    return Samples(
        torch.rand(clips, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        ["a"] * clips,
        8.0,
    )


class Server:
    """A server that runs one function per connection; `seen` has the first request of each."""

    def __init__(self, answer, read=True):
        self.door, self.seen, self.answer, self.read = (
            socket.create_server(("127.0.0.1", 0)),
            [],
            answer,
            read,
        )
        self.port = self.door.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                caller, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(caller,), daemon=True).start()

    def serve(self, caller):
        try:
            if self.read:
                self.seen.append(taken(caller))
            self.answer(caller)
        except OSError:
            pass
        caller.close()


def received(caller):
    """Return the next bytes; raise OSError where the other side has closed."""
    data = caller.recv(1 << 16)
    if not data:
        raise ConnectionResetError("closed before the request ended")
    return data


def taken(caller):
    """Return the header of a request, after reading the request to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(caller)
    head, _, rest = data.partition(b"\r\n\r\n")
    length = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    ]
    while len(rest) < (length or [0])[0]:
        rest += received(caller)
    return head


def reply(status, headers="", body=b""):
    text = (
        f"HTTP/1.1 {status} said\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        + body
    )
    return lambda caller: caller.sendall(text)


def dripping(start, piece=b"a"):
    def answer(caller):
        caller.sendall(start)
        for _ in range(200):
            caller.sendall(piece)
            time.sleep(0.05)

    return answer


def scorer(port, **options):
    return HttpScorer(f"http://127.0.0.1:{port}", **{"timeout": 0.4, "retries": 0, **options})


def judge(port, **options):
    return Judge(
        f"http://127.0.0.1:{port}/v1",
        "eye",
        **{"timeout": 0.4, "retries": 0, "wait": 0.01, **options},
    )


DRIPS = {
    "first line": dripping(b"HTTP/1.1 "),
    "header": dripping(b"HTTP/1.1 200 OK\r\nX: "),
    "body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "body without length": dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
    "chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "a chunk's size": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"
    ),
    "100 Continue": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an error": dripping(b"HTTP/1.1 400 x\r\nContent-Length: 1000\r\n\r\n"),
    "nothing": dripping(b"", b""),
}


@pytest.mark.parametrize("name", DRIPS)
@pytest.mark.parametrize("client", [scorer, judge])
def test_an_answer_that_drips_ends_at_the_deadline(name, client):
    server, begun = Server(DRIPS[name]), time.monotonic()
    score = client(server.port)(samples(1))
    assert time.monotonic() - begun < 1.5
    assert (
        score.value.isnan().all() and "no answer" in score.why[0] and "within 0.4 s" in score.why[0]
    )


def test_a_server_that_never_reads_ends_at_the_deadline():
    server, begun = Server(lambda caller: time.sleep(5), read=False), time.monotonic()
    big = Samples(torch.zeros(1, 20, 3, 400, 400), ["a"], 8.0)
    assert "within 0.4 s" in scorer(server.port)(big).why[0] and time.monotonic() - begun < 2.0


def test_all_tries_of_a_dripping_server_end_by_timeout_times_tries():
    server, begun = Server(DRIPS["header"]), time.monotonic()
    score = judge(server.port, retries=2)(samples(1))
    assert "(3 tries)" in score.why[0] and len(server.seen) == 3 and time.monotonic() - begun < 2.4


# --- Retry-After


def test_retry_after_is_a_whole_number_or_a_date():
    for odd in (
        "",
        "-7",
        "+7",
        "7.5",
        "1e3",
        "inf",
        "nan",
        "\xb2",
        "٧",
        "7 s",
        "soon",
        "0x7",
        "Wed, 99 Oct 2015 07:28:00 GMT",
    ):
        assert retry_after(odd) is None, odd
    assert retry_after(" 007 ") == 7 and retry_after("9" * 5000) == math.inf
    assert retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60))) == pytest.approx(
        60, abs=2
    )
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


ODD = [
    "\xb2",
    "9" * 400,
    "9" * 5000,
    "-5",
    "inf",
    "nan",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "3600",
    "Mon, 99 Foo 99999 99:99:99 +9999",
    "\x00",
]


@pytest.mark.parametrize("client", [scorer, judge])
@pytest.mark.parametrize("after", ODD)
def test_odd_retry_after_neither_raises_nor_keeps_the_client(after, client):
    server, begun = Server(reply(429, f"Retry-After: {after}\r\n")), time.monotonic()
    score = client(server.port, retries=1)(samples(1))
    assert time.monotonic() - begun < 2.5 and "429" in score.why[0]


def test_a_wait_that_the_server_asks_for_is_kept():
    waits, answers = [], [Retryable("busy", 3.0), Retryable("busy", 100.0)]

    def once(deadline):
        raise answers.pop(0)

    with pytest.raises(Retryable, match="asks to wait 100 s, which is longer"):
        RetryPolicy(timeout=5.0, retries=2, wait=0.5).call(once, waits.append)
    assert waits == [3.0]


# --- what is said


def facts(**more):
    return {
        "support": "frame",
        "why": [None, None],
        "weights": {},
        "slopes": [],
        "parts": {},
        **more,
    }


def nested(depth):
    return facts() if not depth else facts(parts={"a": nested(depth - 1)})


WRONG = {
    "a scalar": pack({"value": torch.tensor(1.0)}, facts()),
    "2d": pack({"value": torch.ones(2, 1)}, facts()),
    "bytes": pack({"value": torch.ones(2, dtype=torch.uint8)}, facts()),
    "frames of bytes": pack(VALUE | {"frames": torch.ones(2, 5, dtype=torch.uint8)}, facts()),
    "frames of another length": pack(VALUE | {"frames": torch.ones(2, 4)}, facts()),
    "why a word": pack(VALUE, facts(why="ab")),
    "why an object": pack(VALUE, facts(why={"0": None, "1": None})),
    "why of numbers": pack(VALUE, facts(why=[1, 2])),
    "why of one": pack(VALUE, facts(why=[None])),
    "slopes of 3": pack(VALUE | {"slopes/a": torch.ones(3)}, facts(slopes=["a"])),
    "slopes 2d": pack(VALUE | {"slopes/a": torch.ones(2, 2)}, facts(slopes=["a"])),
    "slopes nowhere": pack(VALUE, facts(slopes=["a"])),
    "slopes a word": pack(VALUE, facts(slopes="a")),
    "slopes of lists": pack(VALUE, facts(slopes=[["a"]])),
    "adds 1d": pack(VALUE | {"adds/a": torch.ones(2)}, facts(adds=["a"])),
    "weights of words": pack(VALUE, facts(weights={"a": "x"})),
    "weights true": pack(VALUE, facts(weights={"a": True})),
    "weights NaN": pack(VALUE, facts(weights={"a": math.nan})),
    "weights inf": pack(VALUE, facts(weights={"a": math.inf})),
    "weights huge": pack(VALUE, facts(weights={"a": 10**400})),
    "weights a list": pack(VALUE, facts(weights=[["a", 1]])),
    "parts a list": pack(VALUE, facts(parts=[1])),
    "parts null": pack(VALUE, facts(parts=None)),
    "a part null": pack(VALUE, facts(parts={"a": None})),
    "a part nowhere": pack(VALUE, facts(parts={"a": facts()})),
    "parts of 3": pack(
        VALUE | {"parts/a/value": torch.ones(3)}, facts(parts={"a": facts(why=[None] * 3)})
    ),
    "deep parts": pack({"parts/a/" * i + "value": torch.ones(2) for i in range(60)}, nested(59)),
    "escape codes in a name": pack(
        VALUE | {"parts/\x1b[2J/value": torch.ones(2)}, facts(parts={"\x1b[2J": facts()})
    ),
    "support a number": pack(VALUE, facts(support=3)),
    "support null": pack(VALUE, facts(support=None)),
    "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "empty": b"",
    "html": b"<html>" * 50,
    "cut": GOOD[:-4],
}


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_of_a_wrong_shape_is_a_reason(name):
    score = HttpScorer(transport=lambda body: (200, WRONG[name]), retries=0)(samples())
    assert score.value.isnan().all() and all(
        why.startswith("unscored: the answer") for why in score.why
    )
    assert all(why.isprintable() for why in score.why)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["value", "frames", "slopes/a", "adds/a"])
def test_a_number_that_is_not_finite_loses_its_clip_alone(number, where):
    tensors = {
        "value": torch.ones(2),
        "frames": torch.ones(2, 5),
        "slopes/a": torch.ones(2),
        "adds/a": torch.ones(2, 2),
    }
    tensors[where].view(2, -1)[1, -1] = number
    said = pack(tensors, facts(slopes=["a"], adds=["a"]))
    score = HttpScorer(transport=lambda body: (200, said), retries=0)(samples())
    assert (
        score.value.isnan().tolist() == [False, True]
        and score.why[0] is None
        and "not finite" in score.why[1]
    )


def test_answers_of_two_rewards_in_one_batch():
    """The first clip has a score, the answer of another reward has a reason, nothing raises."""
    one = pack({"value": torch.ones(1)}, facts(why=[None]))
    others = {
        "weights": pack({"value": torch.ones(1)}, facts(why=[None], weights={"a": 2.0})),
        "support": pack({"value": torch.ones(1)}, facts(why=[None], support="clip")),
        "parts": pack(
            {"value": torch.ones(1), "parts/a/value": torch.ones(1)},
            facts(why=[None], parts={"a": facts(why=[None])}),
        ),
    }
    for differs, other in others.items():
        said = [one, other]
        score = HttpScorer(
            transport=lambda body, said=said: (200, said.pop(0)), retries=0, chunk=1
        )(samples())
        assert (
            score.value.isnan().tolist() == [False, True]
            and f"their {differs} differ" in score.why[1]
        )


def test_chunks_without_any_score_do_not_lose_the_others():
    """A reward may give the clips that it refuses another shape than the scored ones."""
    said = [
        pack_score(
            Score(torch.tensor([math.nan]), torch.full((1, 5), math.nan), why=["unscored: dark"])
        ),
        pack_score(Score(torch.ones(1), support="clip")),
    ]
    score = HttpScorer(transport=lambda body: (200, said.pop(0)), retries=0, chunk=1)(samples())
    assert score.value.isnan().tolist() == [True, False] and score.why == ["unscored: dark", None]


ERRORS = {
    "deep": b"[" * 200_000,
    "not UTF-8": b'{"error": "\xff"}',
    "a number": b'{"error": 3}',
    "a list": b"[]",
    "long": b'{"error": "' + b"x" * 300_000 + b'"}',
    "escape codes": json.dumps({"error": "\x1b[2J\x1b[31mrun\ncurl \u202e"}).encode(),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("status", [400, 500, 503])
def test_an_error_of_any_kind_is_one_printable_line(name, status):
    score = HttpScorer(transport=lambda body: (status, ERRORS[name]), retries=0)(samples())
    assert score.value.isnan().all() and str(status) in score.why[0]
    assert score.why[0].isprintable() and len(score.why[0]) < 700


def test_reasons_of_a_server_are_printable():
    said = pack(VALUE, facts(why=["unscored: \x1b[2J\r\nfine", None]))
    score = HttpScorer(transport=lambda body: (200, said))(samples())
    assert score.why == ["unscored: \\x1b[2J fine", None]
    assert printable("\ud800\u200b").isprintable() and len(printable("x" * 10_000)) < 510


@pytest.mark.parametrize(
    "answer",
    [
        b"\x1b[31mlol\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
@pytest.mark.parametrize("client", [scorer, judge])
def test_what_is_not_http_is_a_reason(answer, client):
    score = client(Server(lambda caller: caller.sendall(answer)).port)(samples(1))
    assert (
        score.value.isnan().all()
        and score.why[0].startswith("unscored")
        and score.why[0].isprintable()
    )


@pytest.mark.parametrize("client", [scorer, judge])
def test_a_compressed_answer_is_not_unpacked(client):
    score = client(Server(reply(200, "Content-Encoding: gzip\r\n", b"\x1f\x8b" + bytes(100))).port)(
        samples(1)
    )
    assert "compressed" in score.why[0]


# --- keys

FAR = [
    "http://judge.example/v1",
    "http://192.0.2.1:8000",
    "http://127.0.0.1.example.org",
    "http://0.0.0.0:8000",
]


@pytest.mark.parametrize("url", FAR)
def test_a_key_goes_over_plain_http_to_this_machine_alone(url, monkeypatch):
    for make in (lambda **more: Judge(url, "eye", **more), lambda **more: HttpScorer(url, **more)):
        with pytest.raises(ValueError, match="insecure=True") as error:
            make()
        assert "sk-secret" not in str(error.value)
        make(insecure=True)
    Judge(url, "eye", key_from="")
    monkeypatch.delenv("OPENAI_API_KEY")
    late = Judge(url, "eye", retries=0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")  # after the judge was made
    assert "plain http would show the key" in late(samples(1)).why[0]


def test_plain_http_goes_through_no_proxy(monkeypatch):
    proxy, server = Server(reply(502)), Server(reply(404))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    judge(server.port)(samples(1))
    assert not proxy.seen and b"Authorization: Bearer sk-secret" in server.seen[0]


def test_an_https_proxy_sees_the_name_of_the_host_alone(monkeypatch):
    proxy = Server(reply(200))
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass%20word@127.0.0.1:{proxy.port}")
    score = Judge("https://judge.example/v1", "eye", timeout=2.0, retries=0)(samples(1))
    assert score.value.isnan().all() and proxy.seen[0].startswith(
        b"CONNECT judge.example:443 HTTP/1.1"
    )
    assert b"sk-secret" not in proxy.seen[0] and b"Basic bWU6cGFzcyB3b3Jk" in proxy.seen[0]
    proxy.seen.clear()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Judge(f"https://127.0.0.1:{Server(reply(200)).port}", "eye", timeout=1.0, retries=0)(samples(1))
    HttpScorer("https://scorer.invalid", timeout=1.0, retries=0)(samples(1))
    assert not proxy.seen


def test_a_proxy_that_refuses_or_drips_is_a_reason(monkeypatch):
    for answer in (reply(407), DRIPS["header"]):
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{Server(answer).port}")
        begun = time.monotonic()
        score = Judge("https://judge.example/v1", "eye", timeout=0.4, retries=0)(samples(1))
        assert score.why[0].startswith("unscored: judge: no ") and time.monotonic() - begun < 1.5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("client", [scorer, judge])
def test_a_key_follows_no_redirect(status, client):
    other = Server(reply(200))
    score = client(Server(reply(status, f"Location: http://127.0.0.1:{other.port}/\r\n")).port)(
        samples(1)
    )
    assert str(status) in score.why[0] and not other.seen


@pytest.mark.parametrize("token", ["ключ", "a\nb", "a\x1b"])
def test_a_token_that_no_header_can_hold_is_not_shown(token, monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", token)
    with pytest.raises(RuntimeError, match="printable ASCII") as error:
        scorer(9)(samples(1))
    assert token not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:99999",
        "http://h:0",
        "http://h:x",
        "http://[::1",
        "http://h /",
        "http://ä.example",
        "http://h?x=1",
        "http://me:pw@h",
    ],
)
def test_odd_addresses_are_refused_at_once(url):
    for make in (lambda: Judge(url, "eye"), lambda: HttpScorer(url)):
        with pytest.raises(ValueError, match="^expected") as error:
            make()
        assert "pw" not in str(error.value)
