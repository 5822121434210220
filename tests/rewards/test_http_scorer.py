"""A reward behind HTTP gives the reward's own numbers, and refuses wrong requests.

A failure is NaN with its reason.
"""

import http.client
import http.server
import json
import pickle
import threading
from collections.abc import Iterator

import pytest
import torch

from vidrl.rewards import Reward, Samples, Score, default
from vidrl.rewards._serving import serve as wire
from vidrl.rewards.http_scorer import HttpScorer
from vidrl.rewards.vbench_temporal_flickering import VbenchTemporalFlickering

TOKEN = "a token of these tests"


class Served:
    """A server in a thread."""

    def __init__(self, reward: Reward, **options) -> None:
        self.server = wire.make_server(reward, token=TOKEN, **options)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def post(
        self, body: bytes, token: str | None = TOKEN, path: str = "/score", **headers
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("POST", path, body, bearer | headers)
        said = connection.getresponse()
        return said.status, said.read()


@pytest.fixture
def flicker(monkeypatch) -> Iterator[Served]:
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)
    served = Served(VbenchTemporalFlickering(), largest=200_000)
    yield served
    served.close()


def clips(n: int = 3, frames: int = 5, size: int = 16) -> torch.Tensor:
    return torch.rand(n, frames, 3, size, size, generator=torch.Generator().manual_seed(0))


def samples(video: torch.Tensor, **more) -> Samples:
    return Samples(video, [f"clip {i}" for i in range(len(video))], 8.0, **more)


def same(one: Score, other: Score) -> bool:
    alike = torch.equal(one.value.nan_to_num(7), other.value.nan_to_num(7))
    alike &= torch.equal(one.frames.nan_to_num(7), other.frames.nan_to_num(7))
    alike &= (
        list(one.why) == list(other.why)
        and one.support == other.support
        and one.weights == other.weights
    )
    alike &= list(one.slopes) == list(other.slopes)
    alike &= all(
        torch.equal(one.slopes[k].nan_to_num(7), other.slopes[k].nan_to_num(7)) for k in one.slopes
    )
    return (
        alike
        and list(one.parts) == list(other.parts)
        and all(same(one.parts[k], other.parts[k]) for k in one.parts)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_the_far_score_is_the_near_score_bit_for_bit(flicker, dtype):
    video = (clips() * 255).to(torch.uint8) if dtype == torch.uint8 else clips().to(dtype)
    far = HttpScorer(flicker.url, chunk=2)
    assert same(far(samples(video)), VbenchTemporalFlickering()(samples(video)))
    assert far.time_support == "pair"


def test_a_clip_of_nan_stays_nan_with_its_reason_and_the_others_are_scored(flicker):
    video = clips()
    video[1, 2] = torch.nan
    score = HttpScorer(flicker.url)(samples(video))
    assert same(score, VbenchTemporalFlickering()(samples(video)))
    assert score.value.isnan().tolist() == [False, True, False] and "frame 2" in score.why[1]


def test_parts_weights_and_slopes_survive(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)
    near, served = default(), Served(default())
    far, here = (
        HttpScorer(served.url, chunk=3)(samples(clips(frames=6))),
        near(samples(clips(frames=6))),
    )
    served.close()
    assert same(far, here) and len(far.parts) > 3 and far.weights == here.weights


def test_the_reward_is_told_prompts_rate_reference_and_meta(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)
    received = []

    class Listens(Reward):
        def terms(self, samples):
            received.append(
                (samples.prompts, samples.fps, samples.reference, samples.meta, samples.video.dtype)
            )
            return samples.frames.mean((2, 3, 4))

    served, image = Served(Listens()), clips(2, 1)
    HttpScorer(served.url)(
        Samples(clips(2), ["ä cat", 'a "dog"'], 23.976, image, [{"seed": 1}, {"seed": [2]}])
    )
    served.close()
    prompts, fps, reference, meta, dtype = received[0]
    assert list(prompts) == ["ä cat", 'a "dog"'] and fps == 23.976 and dtype == torch.float32
    assert torch.equal(reference, image) and list(meta) == [{"seed": 1}, {"seed": [2]}]


def test_two_clients_at_once_are_served_one_at_a_time(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)
    busy, most = [], []

    class Slow(Reward):
        def terms(self, samples):
            busy.append(1)
            most.append(len(busy))
            threading.Event().wait(0.05)
            busy.pop()
            return samples.frames.mean((2, 3, 4))

    served, got = Served(Slow()), {}

    def ask(i: int) -> None:
        got[i] = HttpScorer(served.url, chunk=1)(samples(clips(2) * (i + 1) / 4)).value

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served.close()
    assert max(most) == 1 and len(most) == 6
    for i in range(3):
        torch.testing.assert_close(got[i], (clips(2) * (i + 1) / 4).mean((1, 2, 3, 4)))


# --- what is refused


@pytest.mark.parametrize(
    "token", [None, "", "another token altogether", TOKEN[:-1], TOKEN + "x", "ÿ"]
)
def test_a_wrong_token_is_refused(flicker, token):
    status, said = flicker.post(wire.pack_samples(samples(clips())), token)
    assert status == 401 and json.loads(said)["status"] == 401 and TOKEN not in said.decode()


def test_a_wrong_token_at_the_client_is_nan_with_the_reason(flicker, monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", "another token altogether")
    score = HttpScorer(flicker.url)(samples(clips()))
    assert score.value.isnan().all() and score.frames.shape == (3, 5)
    assert score.why[0].startswith("unscored") and "401" in score.why[0]


def test_no_token_at_the_client_is_an_error(flicker, monkeypatch):
    monkeypatch.delenv("VIDRL_TOKEN")
    with pytest.raises(RuntimeError, match="VIDRL_TOKEN"):
        HttpScorer(flicker.url)(samples(clips()))


@pytest.mark.parametrize("size", [200_001, 3_000_000])
def test_too_large_a_request_is_refused(flicker, size):
    status, said = flicker.post(bytes(size))
    assert status == 413 and "200000" in json.loads(said)["error"]


def test_too_large_at_the_client_is_nan_with_the_cure(flicker):
    score = HttpScorer(flicker.url)(samples(clips(2, 9, 64)))
    assert score.value.isnan().all() and "fewer clips" in score.why[0]


def header(**entries) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


VIDEO = {"dtype": "U8", "shape": [1, 2, 3, 8, 8], "data_offsets": [0, 384]}
MALFORMED = {
    "empty": b"",
    "words": b"not a video",
    "a pickle": pickle.dumps({"video": [1, 2, 3]}),
    "a pickle of torch": b"PK\x03\x04" + bytes(60),
    "a header longer than the body": (1 << 62).to_bytes(8, "little") + b"{}",
    "not JSON": (4).to_bytes(8, "little") + b"abcd",
    "deep JSON": (40_000).to_bytes(8, "little") + b"[" * 40_000,
    "no object": (2).to_bytes(8, "little") + b"[]",
    "no video": header(),
    "short of data": header(video=VIDEO) + bytes(100),
    "offsets outside": header(video=VIDEO | {"data_offsets": [384, 768]}) + bytes(384),
    "offsets below zero": header(video=VIDEO | {"data_offsets": [-384, 0]}) + bytes(384),
    "a shape of another size": header(video=VIDEO | {"shape": [1, 2, 3, 8, 9]}) + bytes(384),
    "a shape of nothing": header(video=VIDEO | {"shape": [0, 1 << 62], "data_offsets": [0, 0]}),
    "a shape of fractions": header(video=VIDEO | {"shape": [1, 2, 3, 8, 8.0]}) + bytes(384),
    "a type of objects": header(video=VIDEO | {"dtype": "O"}) + bytes(384),
    "no fps": header(video=VIDEO) + bytes(384),
    "a number": header(video={"dtype": "U8", "shape": [], "data_offsets": [0, 1]}) + bytes(1),
    "facts of another kind": header(video=VIDEO, __metadata__={"vidrl": "[1]"}) + bytes(384),
    "prompts of another kind": header(
        video=VIDEO, __metadata__={"vidrl": '{"prompts": [3], "fps": 8}'}
    )
    + bytes(384),
    "fps of another kind": header(
        video=VIDEO, __metadata__={"vidrl": '{"prompts": [""], "fps": "8"}'}
    )
    + bytes(384),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body_is_refused(flicker, name):
    status, said = flicker.post(MALFORMED[name])
    assert status == 400 and json.loads(said)["error"].startswith("expected")


def test_a_pickle_is_never_run(flicker):
    class Evil:
        def __reduce__(self):
            return (ran.append, (1,))

    ran: list[int] = []
    body = b"cbuiltins\nlist\n(tR."
    assert flicker.post(body)[0] == 400 and not ran


def test_after_refusals_it_still_serves(flicker):
    flicker.post(b"junk")
    flicker.post(b"junk", "no token at all")
    assert flicker.post(b"", path="/other")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", flicker.server.server_port, timeout=20)
    connection.putrequest("POST", "/score")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Length", "-5")
    connection.endheaders()
    assert connection.getresponse().status == 411
    assert torch.isfinite(HttpScorer(flicker.url)(samples(clips())).value).all()


def test_what_a_reward_raises_is_told(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)

    class Breaks(Reward):
        def terms(self, samples):
            raise RuntimeError("out of memory, say")

    served = Served(Breaks())
    score = HttpScorer(served.url)(samples(clips(1)))
    served.close()
    assert (
        score.value.isnan().all() and "500" in score.why[0] and "out of memory, say" in score.why[0]
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.0.2.7", "example.org"])
def test_other_hosts_must_be_asked_for(host):
    with pytest.raises(ValueError, match="expose=True"):
        wire.make_server(VbenchTemporalFlickering(), host=host, token=TOKEN)


def test_tokens(monkeypatch):
    monkeypatch.delenv("VIDRL_TOKEN", raising=False)
    with pytest.raises(ValueError, match="at least 16 ASCII .*got one of 5: export VIDRL_TOKEN"):
        wire.make_server(VbenchTemporalFlickering(), token="short")
    made = [wire.make_server(VbenchTemporalFlickering()) for _ in range(2)]
    assert made[0].token != made[1].token and min(len(server.token) for server in made) >= 32
    for server in made:
        server.server_close()


# --- what fails


def test_a_server_that_is_down_is_nan_with_the_reason(flicker):
    flicker.close()
    score = HttpScorer(flicker.url, retries=1)(samples(clips()))
    assert score.value.isnan().all() and score.frames.isnan().all() and score.frames.shape == (3, 5)
    assert all(
        reason.startswith("unscored: no answer from http://127.0.0.1") for reason in score.why
    )


def test_what_a_moment_cures_is_asked_again_and_what_does_not_is_not(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: waited.append(seconds))
    handler, waited = wire.RewardHandler(VbenchTemporalFlickering()), []

    def after(failures):
        def transport(body):
            fault = failures.pop(0) if failures else None
            if isinstance(fault, Exception):
                raise fault
            return (fault, b"{}") if fault else handler.respond(body)

        return transport

    cured = HttpScorer(transport=after([503, ConnectionResetError("gone")]), retries=2)(
        samples(clips(1))
    )
    assert torch.isfinite(cured.value).all() and waited == [0.5, 1.0]
    given_up = HttpScorer(transport=after([503] * 3), retries=2)(samples(clips(1)))
    assert given_up.value.isnan().all() and "503" in given_up.why[0]
    waited.clear()
    refused = HttpScorer(transport=after([400]), retries=2)(samples(clips(1)))
    assert refused.value.isnan().all() and waited == []


def test_one_failed_request_leaves_the_other_clips_their_scores():
    handler, calls = wire.RewardHandler(default()), []

    def transport(body):
        calls.append(1)
        return (500, b'{"error": "no"}') if len(calls) == 2 else handler.respond(body)

    score = HttpScorer(transport=transport, chunk=1)(samples(clips(3, 6)))
    assert score.value.isnan().tolist() == [False, True, False]
    assert "500: no" in score.why[1] and score.why[0] is None
    assert score.parts["drift"].value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("said", [b"", b"nothing of the kind", header(), pickle.dumps([1])])
def test_an_answer_that_cannot_be_read_is_nan(said):
    score = HttpScorer(transport=lambda body: (200, said))(samples(clips()))
    assert score.value.isnan().all() and score.why[0].startswith(
        "unscored: the answer cannot be read"
    )


def test_an_answer_about_other_clips_is_nan():
    other = wire.pack_score(Score(torch.zeros(2), torch.zeros(2, 5)))
    score = HttpScorer(transport=lambda body: (200, other))(samples(clips()))
    assert score.value.isnan().all() and "not of 3 clips" in score.why[0]


def test_redirects_are_not_followed(monkeypatch):
    monkeypatch.setenv("VIDRL_TOKEN", TOKEN)
    asked = []

    class Redirects(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    score = HttpScorer(f"http://127.0.0.1:{server.server_port}/v1/")(samples(clips(1)))
    server.shutdown()
    server.server_close()
    assert asked == ["/v1/score"] and score.value.isnan().all() and "redirect" in score.why[0]


@pytest.mark.parametrize(
    "url",
    ["", "ftp://127.0.0.1", "file:///etc/passwd", "127.0.0.1:8300", "http://", "http://a:b@c"],
)
def test_only_addresses_of_http(url):
    with pytest.raises(ValueError, match="expected url"):
        HttpScorer(url)


@pytest.mark.parametrize("dtype", list(wire.CODES))
def test_any_tensor_survives_the_way(dtype):
    numbers = torch.rand(4, 3, 2)
    for tensor in (numbers, numbers[:, 0].T, numbers[:1, 0, :1], numbers[::2, 1]):
        there = (tensor * 100).to(dtype)
        back, facts = wire.unpack(
            wire.pack({"x": there, "y": there.double()}, {"why": [None, "ä"]})
        )
        assert (
            torch.equal(back["x"], there)
            and back["y"].dtype == torch.float64
            and facts == {"why": [None, "ä"]}
        )


def test_the_format_is_that_of_safetensors():
    """Requests can be written, and answers read, by any library of safetensors."""
    library = pytest.importorskip("safetensors.torch")
    video = clips(2)
    body = library.save({"video": video}, {"vidrl": json.dumps({"prompts": ["", ""], "fps": 8.0})})
    got = wire.unpack_samples(body)
    assert torch.equal(got.video, video) and got.fps == 8.0
    status, said = wire.RewardHandler(VbenchTemporalFlickering()).respond(body)
    assert status == 200
    assert torch.equal(library.load(said)["value"], VbenchTemporalFlickering()(got).value)


def test_a_port_that_is_none_or_taken_says_so():
    with pytest.raises(ValueError, match="expected a free port"):
        wire.make_server(VbenchTemporalFlickering(), port=99999)
    free = wire.make_server(VbenchTemporalFlickering())
    with free as server, pytest.raises(ValueError, match="expected a free port"):
        wire.make_server(VbenchTemporalFlickering(), port=server.server_port)
