"""A score server bounds memory, threads and time against hostile clients.

Each client gets the reason as text.
"""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vidrl.rewards import Reward, Samples
from vidrl.rewards._serving import handler, limits, serve, wire
from vidrl.rewards._serving.limits import ByteBudget
from vidrl.rewards.flicker import Flicker

TOKEN = "a token of these tests"
BEARER = f"Authorization: Bearer {TOKEN}\r\n".encode()


class Light(Reward):
    """The mean light of each frame."""

    def terms(self, samples):
        return samples.frames.mean((2, 3, 4))


class Waits(Light):
    """Light, as soon as the test says so."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def terms(self, samples):
        self.go.wait(20)
        return super().terms(samples)


@pytest.fixture
def served(request):
    """A server of Light in a thread; options by indirect parameters."""
    options = getattr(request, "param", {})
    server = serve.make_server(options.pop("reward", Light)(), token=TOKEN, **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def request(clips=1, **facts):
    video = torch.full((clips, 3, 3, 8, 8), 51, dtype=torch.uint8)
    return wire.pack({"video": video}, {"prompts": [""] * clips, "fps": 8.0, **facts})


def opened(server, data=b""):
    sock = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
    sock.sendall(data)
    return sock


def server_output(sock):
    """Return everything that the server sends until it closes the connection."""
    said = b""
    try:
        while part := sock.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass
    sock.close()
    return said


def post(server, data, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("POST", "/score", data, {"Authorization": f"Bearer {TOKEN}", **headers})
    said = connection.getresponse()
    found = said.status, said.read(), said.headers
    connection.close()
    return found


def head(length, more=b""):
    return (
        b"POST /score HTTP/1.1\r\n" + BEARER + more + f"Content-Length: {length}\r\n\r\n".encode()
    )


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def quiet(server, capfd):
    """Check that the server still answers and has written nothing."""
    assert post(server, request())[0] == 200
    assert capfd.readouterr().err == ""


# --- memory


def test_memory_follows_the_bytes_that_came_and_not_those_announced(served):
    """Five clients announce 300 MB each and send two bytes: no memory is reserved.

    Before the limit the server took 1.5 GB.
    """
    assert post(served, request())[0] == 200
    tracemalloc.start()
    socks = [opened(served, head(300_000_000) + b"ab") for _ in range(5)]
    until(lambda: served.budget.free <= 2 * served.largest - 5 * 300_000_000)
    time.sleep(0.2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for sock in socks:
        sock.close()
    assert peak < 30_000_000
    until(lambda: served.budget.free == 2 * served.largest)


@pytest.mark.parametrize("served", [{"largest": 1_000_000, "reward": Waits}], indirect=True)
def test_all_requests_together_hold_twice_the_largest(served):
    """Forty clients send 1 MB each at once: 40 MB before; now 2 MB are read, and the others
    wait their turn."""
    video = torch.zeros(1, 3, 3, 330, 330, dtype=torch.uint8)
    body = wire.pack({"video": video}, {"fps": 8.0})
    tracemalloc.start()
    with ThreadPoolExecutor(40) as pool:
        found = [pool.submit(post, served, body) for _ in range(40)]
        until(lambda: served.budget.free < len(body))
        time.sleep(0.5)
        held = tracemalloc.get_traced_memory()[1]
        assert 0 <= served.budget.free < len(body)
        served.reward_handler.reward.go.set()
        assert [one.result()[0] for one in found] == [200] * 40
    tracemalloc.stop()
    assert held < 15_000_000


def test_room_is_never_more_than_there_is():
    budget, most, taken = ByteBudget(100), [], [0]
    lock = threading.Lock()

    def take(i):
        size = random.Random(i).randint(1, 100)
        with budget.reserve(size):
            with lock:
                taken[0] += size
                most.append(taken[0])
            time.sleep(0.001)
            with lock:
                taken[0] -= size

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(take, range(200)))
    assert len(most) == 200 and max(most) <= 100 and budget.free == 100


def test_a_header_is_bounded(served):
    for line in (
        b"GET /" + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (i, b"b" * 60_000) for i in range(3)),
    ):
        said = server_output(opened(served, line + b"\r\n\r\n"))
        assert said.startswith(b"HTTP/1.1 4") and b"expected a" in said
    many = b"".join(b"X%d: b\r\n" % i for i in range(150))
    assert b" 431 " in server_output(opened(served, b"GET / HTTP/1.1\r\n" + many + b"\r\n"))


# --- time


def drip(sock, seconds):
    """Send a byte every 50 ms, and return how long the server accepted them."""
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < seconds:
            sock.sendall(b"a")
            time.sleep(0.05)
    except OSError:
        pass
    return time.monotonic() - begun


@pytest.mark.parametrize(
    "start", [b"GET /health HTTP/1.1\r\nX: ", head(100_000)], ids=["header", "body"]
)
def test_slow_headers_and_slow_bodies_are_given_up_with_a_reason(served, monkeypatch, start, capfd):
    monkeypatch.setattr(handler, "PATIENCE", 0.4)
    monkeypatch.setattr(handler, "LINGER", 0.1)
    sock = opened(served, start)
    assert drip(sock, 5.0) < 3.0
    assert b" 408 " in server_output(sock)
    quiet(served, capfd)


def test_a_slow_line_that_keeps_the_pace_is_served(served, monkeypatch):
    monkeypatch.setattr(handler, "PATIENCE", 0.3)
    monkeypatch.setattr(handler, "SLOWEST", 1000)
    body = request()
    sock = opened(served, head(len(body), b"Connection: close\r\n"))
    for start in range(0, len(body), 100):  # for longer than PATIENCE
        sock.sendall(body[start : start + 100])
        time.sleep(0.06)
    assert server_output(sock).startswith(b"HTTP/1.1 200 ")


# --- places


def test_128_clients_at_once_lose_nothing(served):
    with ThreadPoolExecutor(128) as pool:
        found = [one[0] for one in pool.map(lambda _: post(served, request()), range(512))]
    assert found == [200] * 512


def test_more_connections_than_places_are_told_503_and_when_to_come_again(served, monkeypatch):
    served.connections = limits.ConnectionLimit(3)
    monkeypatch.setattr(limits, "YOUNG", 60.0)
    before = threading.active_count()
    socks = [opened(served, head(1000)) for _ in range(3)]
    until(lambda: served.budget.free <= 2 * served.largest - 3000)
    for size in (1, 30_000_000):  # the larger one is still being sent when it is refused
        with socket.create_connection(("127.0.0.1", served.server_port), timeout=20) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(head(size) + bytes(size))
            said = sock.recv(1 << 16)
        assert (
            said.startswith(b"HTTP/1.1 503 ")
            and b"Retry-After: 2" in said
            and b"come again" in said
        )
    assert threading.active_count() <= before + 3
    for sock in socks:
        sock.close()
    until(lambda: served.connections.slots._value == 3)
    assert post(served, request())[0] == 200


def test_connections_without_the_token_give_way(served, monkeypatch):
    served.connections = limits.ConnectionLimit(4)
    monkeypatch.setattr(limits, "YOUNG", 0.1)
    socks = [opened(served, b"POST /score HT") for _ in range(4)]
    until(lambda: len(served.connections.unauthenticated) == 4)
    time.sleep(0.2)
    assert post(served, request())[0] == 200
    for sock in socks:
        sock.close()


# --- words


ODD = {
    "no length": (b"", 411),
    "a negative length": (b"Content-Length: -5\r\n", 411),
    "a signed length": (b"Content-Length: +5\r\n", 411),
    "a list": (b"Content-Length: 5, 5\r\n", 411),
    "a power": (b"Content-Length: \xb2\r\n", 411),
    "hexadecimal": (b"Content-Length: 0x5\r\n", 411),
    "two": (b"Content-Length: 5\r\nContent-Length: 50\r\n", 400),
    "nothing": (b"Content-Length: 0\r\n", 400),
    "huge": (b"Content-Length: " + b"9" * 5000 + b"\r\n", 413),
    "past the limit": (b"Content-Length: 1073741825\r\n", 413),
    "chunks": (b"Transfer-Encoding: chunked\r\n", 411),
    "chunks and a length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
    "compressed": (b"Content-Encoding: gzip\r\nContent-Length: 5\r\n", 415),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_lengths_have_a_status_and_a_reason(served, name, capfd):
    lines, status = ODD[name]
    said = server_output(
        opened(served, b"POST /score HTTP/1.1\r\n" + BEARER + lines + b"\r\nhello")
    )
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(said.split(b"\r\n\r\n", 1)[1])["error"].startswith("expected")
    quiet(served, capfd)


@pytest.mark.parametrize(
    "line",
    [
        b"PUT /score HTTP/1.1",
        b"<b>\x1b[31m / HTTP/1.1",
        b"GET /health",
        b"\x00\xff",
        b"GET /health HTTP/9.9",
        b"GET /health HTTP/x",
        b"a b c d",
    ],
)
def test_odd_first_lines_are_answered_in_the_servers_own_words(served, line, capfd):
    said = server_output(opened(served, line + b"\r\n\r\n"))
    assert said.startswith(b"HTTP/1.1 ") and b'"error": "expected' in said
    assert b"<b>" not in said and b"\x1b" not in said and b"u001b" not in said
    quiet(served, capfd)


def test_a_body_behind_a_get_is_no_second_request(served):
    hidden = b"GET /health HTTP/1.1\r\n" + BEARER + b"\r\n"
    said = server_output(
        opened(
            served,
            b"GET /health HTTP/1.1\r\n"
            + BEARER
            + f"Content-Length: {len(hidden)}\r\n\r\n".encode()
            + hidden,
        )
    )
    assert said.count(b"HTTP/1.1") == 2 - 1 and b" 400 " in said


@pytest.mark.parametrize("fps", ["8", True, None, [8], float("nan"), float("inf"), -1, 0, 10**400])
def test_a_frame_rate_that_is_no_positive_number_is_refused(served, fps, capfd):
    status, said, _ = post(served, request(fps=fps))
    assert status == 400 and "expected fps" in json.loads(said)["error"]
    quiet(served, capfd)


def test_many_small_frames_do_not_become_many_numbers():
    video = torch.zeros(1, (1 << 20) + 1, 1, 1, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at most 1048576 frames"):
        wire.unpack_samples(bytearray(wire.pack({"video": video}, {"fps": 8.0})))


def test_a_tensor_of_another_name_is_refused(served):
    body = wire.pack({"video": torch.zeros(1, 2, 3, 8, 8), "x": torch.zeros(3)}, {"fps": 8.0})
    assert post(served, body)[0] == 400


# --- clients that break off


def test_clients_that_break_off_leave_no_trace(served, capfd):
    """At any byte of a request, by closing or by a reset, and before the answer is read."""
    body = request()
    whole = head(len(body)) + body
    for end in [0, 1, 20, len(whole) - len(body), len(whole) - 1, len(whole)]:
        for reset in (False, True):
            sock = opened(served, whole[:end])
            if reset:
                sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
                )
            sock.close()
    sock = opened(
        served, b"POST /score HTTP/1.1\r\n" + BEARER + b"Content-Length: 99999999999\r\n\r\n"
    )
    sock.close()
    until(lambda: served.connections.slots._value == serve.CONNECTIONS)
    quiet(served, capfd)


def test_a_fault_of_the_server_itself_is_told_and_traced(served, capfd, monkeypatch):
    monkeypatch.setattr(served.reward_handler, "answer", lambda body: 1 / 0)
    status, said, _ = post(served, request())
    assert status == 500 and "ZeroDivisionError" in json.loads(said)["error"]
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_curl_waits_for_100_continue(served):
    body = request()
    sock = opened(served, head(len(body), b"Expect: 100-continue\r\nConnection: close\r\n"))
    assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
    sock.sendall(body)
    assert server_output(sock).startswith(b"HTTP/1.1 200 ")


def test_the_served_numbers_are_those_of_the_reward(served):
    status, said, _ = post(served, request(2))
    assert status == 200 and wire.unpack_score(said).value.tolist() == pytest.approx([0.2, 0.2])
    samples = Samples(torch.rand(1, 5, 3, 16, 16), [""], 8.0)
    status, said = serve.RewardHandler(Flicker()).respond(bytearray(wire.pack_samples(samples)))
    assert status == 200 and torch.equal(wire.unpack_score(said).value, Flicker()(samples).value)
