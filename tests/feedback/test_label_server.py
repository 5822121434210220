"""The page's server: who is let in, what is kept, what is hidden, and what happens to bad input."""

import json
import random
import shutil

import pytest

for package in ("starlette", "sqlalchemy", "uvicorn", "httpx2"):
    pytest.importorskip(package)

from starlette.testclient import TestClient

from tests.feedback.clips_of_colour import PROMPTS, two_folders, write_clip
from vidrl.feedback.labelling import app, clip_sets, frames, gold
from vidrl.feedback.labelling.desk import Desk
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.selection import Selection, Shares
from vidrl.feedback.store import Shown, Store

TOKEN = "a-token-of-a-test-1234"
HOST = "127.0.0.1:8321"
ORIGIN = {"origin": f"http://{HOST}"}
FEW = Shares(0.2, 0, 0)


def desk_of(home, mode="pairs", folders=None, shares=FEW, known=(), count=60):
    clips = clip_sets.read(folders or [home / "base", home / "ours"], mode)
    store = Store(home / "taste.db", Questionnaire(mode))
    groups = clip_sets.items(clips, mode)
    selection = Selection(groups, shares, tuple(range(len(known))), "seed", mode == "pairs")
    folder = frames.FrameFolder(home / "taste.db.frames")
    return Desk(store, clips, folder, selection, known, count, random.Random(0))


@pytest.fixture
def home(tmp_path):
    two_folders(tmp_path)
    return tmp_path


@pytest.fixture
def desk(home):
    return desk_of(home)


def client_of(desk, name=None, token=TOKEN):
    client = TestClient(app.build(desk, TOKEN, [HOST]), base_url=f"http://{HOST}")
    if token:
        client.get(f"/?token={token}")
    if name:
        assert client.post("/name", data={"name": name}, headers=ORIGIN).status_code == 200
    return client


def receipts(client, task):
    return [client.get(f"/clips/{clip}").headers.get("x-receipt") for clip in task["clips"]]


def send(client, task, shown_by=None, **given):
    sent = {"task": task["task"], "given": given, "seconds": 3.0}
    sent["receipts"] = receipts(shown_by or client, task)
    return client.post("/api/answer", json=sent, headers=ORIGIN)


# --- judging


def test_a_rater_judges_all_pairs_and_the_store_has_what_was_said(desk):
    client = client_of(desk, "Ann")
    state = client.get("/api/state").json()
    seen = []
    while state["tasks"]:
        seen.append(state["tasks"][0])
        state = send(client, seen[-1], motion="A", overall="B").json()
    assert state["progress"]["done"] == 3
    answers = desk.store.answers()
    assert [one.given for one in answers] == [{"motion": "A", "overall": "B"}] * 3
    assert {one.prompt for one in answers} == {*PROMPTS}
    assert {one.rater for one in answers} == {"Ann"}
    assert all(
        len(clip.sha256) == 64 and clip.seconds == 1.25 for one in answers for clip in one.shown
    )
    chosen = desk.store.judgments().choices
    assert {(one.first, one.choice) for one in chosen if one.aspect == "overall"} == {
        (one.shown[0].path, -1) for one in answers
    }


def test_sides_are_drawn_at_random(home):
    desk = desk_of(home)
    left = {
        task.shown[0].path.split("/")[-2]
        for rater in map(str, range(12))
        for task in desk.tasks(rater, 2)
    }
    assert left == {"base", "ours"}


def test_neither_names_nor_folders_nor_reasons_reach_the_page(desk):
    client = client_of(desk, "Ann")
    texts = [client.get("/").text.partition("<dialog")[0], client.get("/api/state").text]
    for task in client.get("/api/state").json()["tasks"]:
        assert set(task) == {"task", "clips", "prompt", "given", "marks"}
        assert (task["given"], task["marks"]) == ({}, [])
        texts += [client.get(f"/clips/{clip}").content.decode("latin-1") for clip in task["clips"]]
        texts += [str(client.get(f"/clips/{clip}").headers) for clip in task["clips"]]
    for text in texts:
        assert not [
            word for word in ("base/", "ours/", ".mp4", "informative", "reason") if word in text
        ]


def test_a_reloaded_page_shows_the_same_clips(desk):
    client = client_of(desk, "Ann")
    assert client.get("/api/state").json()["tasks"] == client.get("/api/state").json()["tasks"]


def test_a_restarted_server_takes_the_answers_to_its_old_tasks(home):
    desk = desk_of(home)
    before = client_of(desk, "Ann")
    task = before.get("/api/state").json()["tasks"][0]
    after = client_of(desk_of(home))
    after.cookies.update(before.cookies)
    assert after.get("/api/state").json()["tasks"][0]["task"] == task["task"]
    assert send(after, task, shown_by=before, overall="A").status_code == 200
    assert [one.click for one in desk.store.answers()] == [task["task"]]


def test_undo_shows_the_same_clips_again(desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    send(client, task, overall="A")
    click = {"click": "click-0001"}
    state = client.post("/api/undo", json=click, headers=ORIGIN).json()
    assert state["tasks"][0]["clips"] == task["clips"]
    assert state["progress"]["done"] == 0
    assert state["tasks"][0]["given"] == {"overall": "A"}
    again = client.post("/api/undo", json=click, headers=ORIGIN).json()
    assert again["tasks"] == state["tasks"]
    send(client, state["tasks"][0], overall="B")
    assert [one.given for one in desk.store.answers()] == [{"overall": "B"}]
    assert len(desk.store.records()) == 3


def test_an_answer_that_is_sent_twice_is_kept_once(desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    assert [send(client, task, overall="A").status_code for _ in range(3)] == [200] * 3
    assert len(desk.store.records()) == 1


def test_an_undo_with_the_name_of_an_answer_is_refused_with_words(desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    send(client, task, overall="A")
    undo = client.post("/api/undo", json={"click": task["task"]}, headers=ORIGIN)
    assert undo.status_code == 400 and undo.json()["error"].startswith("Expected")
    assert len(desk.store.answers()) == 1


def test_marked_spans_become_faults_of_the_right_clip(desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    marks = [{"clip": 1, "begin": 0.5, "end": 9.0, "tags": ["flicker"]}]
    sent = {"task": task["task"], "given": {"overall": "A"}, "faults": marks}
    sent["receipts"] = receipts(client, task)
    assert client.post("/api/answer", json=sent, headers=ORIGIN).status_code == 200
    (fault,) = desk.store.judgments().faults
    (answer,) = desk.store.answers()
    assert (fault.clip, fault.begin, fault.end) == (answer.shown[1].path, 0.5, 1.25)
    assert fault.tags == ("flicker",)
    undone = client.post("/api/undo", json={"click": "click-0001"}, headers=ORIGIN).json()
    back = {"clip": 1, "begin": 0.5, "end": 1.25, "tags": ["flicker"]}
    assert undone["tasks"][0]["marks"] == [back]
    after = client_of(desk_of(desk.clips.clips[0].home.parent))  # a restarted server keeps them
    after.cookies.update(client.cookies)
    again = after.get("/api/state").json()["tasks"][0]  # its clips have other opaque names
    assert again | {"clips": 0} == undone["tasks"][0] | {"clips": 0}


def test_an_undo_keeps_why_its_clips_were_shown(desk):
    client = client_of(desk, "Ann")
    send(client, client.get("/api/state").json()["tasks"][0], overall="A")
    client.post("/api/undo", json={"click": "click-0001"}, headers=ORIGIN)
    answer, undo = desk.store.records()
    assert undo.revokes == answer.number and answer.prompt
    assert (undo.reason, undo.prompt) == (answer.reason, answer.prompt)
    assert (undo.given, undo.faults) == ({}, ())


@pytest.mark.parametrize("change", [lambda sent: [], lambda sent: sent[::-1], lambda sent: None])
def test_an_answer_to_clips_that_were_not_delivered_is_refused(desk, change):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    sent = {"task": task["task"], "given": {"overall": "A"}}
    sent["receipts"] = change(receipts(client, task))
    answer = client.post("/api/answer", json=sent, headers=ORIGIN)
    assert answer.status_code == 409 and "this page has shown" in answer.json()["error"]
    assert desk.store.records() == []
    skip = {"task": task["task"], "given": {}, "skip": True}  # a skip needs no clips
    state = client.post("/api/answer", json=skip, headers=ORIGIN).json()
    assert (state["progress"]["done"], state["progress"]["skipped"]) == (0, 1)


def test_frames_that_were_deleted_are_made_again(home, desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    before = [client.get(f"/clips/{clip}").content for clip in task["clips"]]
    shutil.rmtree(home / "taste.db.frames")
    assert [client.get(f"/clips/{clip}").content for clip in task["clips"]] == before
    assert send(client, task, overall="A").status_code == 200
    shutil.rmtree(home / "taste.db.frames")
    task = client.get("/api/state").json()["tasks"][0]
    (home / "base").rename(home / "gone")  # and where the clips are gone too, words say so
    answers = [client.get(f"/clips/{clip}") for clip in task["clips"]]
    assert sorted(one.status_code for one in answers) == [200, 410]
    assert send(client, task, overall="A").status_code == 409
    state = client.get("/api/state").json()  # and the page goes on without these clips
    assert (state["tasks"], state["vanished"]) == ([], 2)


@pytest.mark.parametrize(
    "change",
    [
        {"given": {"overall": "C"}},
        {"given": {"colour": "A"}},
        {"given": {}},
        {"given": "A"},
        {"task": "another-task"},
        {"task": 3},
        {"task": "\ud800-half-of-a-pair"},
        {"given": {"overall": ["A"]}},
        {"given": {"overall": {"A": 1}}},
        {"given": {"\ud800": "A"}},
        {"seconds": "3"},
        {"seconds": -1},
        {"seconds": 10**400},
        {"faults": [{"clip": 1.0, "begin": 0, "end": 1}]},
        {"faults": [{"clip": True, "begin": 0, "end": 1}]},
        {"faults": [{"clip": [], "begin": 0, "end": 1}]},
        {"faults": [{"clip": 0, "begin": 0, "end": 10**400}]},
        {"faults": [{"clip": 0, "begin": 0, "end": 1, "tags": [{}]}]},
        {"faults": ["\ud800"]},
        {"faults": [{"clip": 2, "begin": 0, "end": 1}]},
        {"faults": [{"clip": 0, "begin": 1, "end": 0}]},
        {"faults": [{"clip": 0, "begin": 0, "end": float("inf")}]},
        {"faults": [{"clip": 0, "begin": 0, "end": 1, "tags": ["<b>"]}]},
        {"faults": [{"clip": 0, "begin": 0, "end": 1}] * 51},
        {"faults": {"clip": 0}},
    ],
)
def test_answers_of_another_kind_are_refused_with_words(desk, change):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    sent = {"task": task["task"], "given": {"overall": "A"}} | change
    sent["receipts"] = receipts(client, task)
    body = json.dumps(sent)
    answer = client.post("/api/answer", content=body, headers=ORIGIN)
    assert answer.status_code == (409 if change == {"task": "another-task"} else 400)
    assert answer.json()["error"].startswith("Expected")
    assert desk.store.records() == []


@pytest.mark.parametrize("path", ["/api/answer", "/api/undo"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 60000, b"9" * 5000, b"{}"]
)
def test_bodies_that_are_no_answer_are_refused_with_words(desk, path, body):
    answer = client_of(desk, "Ann").post(path, content=body, headers=ORIGIN)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Expected")


def test_points_and_rankings_are_judged_too(home):
    for i in range(3):
        write_clip(home / "more" / f"{i}.mp4", i)
    (home / "more" / "prompts.csv").write_text("path,prompt\n0.mp4,a\n1.mp4,a\n2.mp4,a\n")
    points = client_of(desk := desk_of(home, "points", [home / "more"]), "Ann")
    state = points.get("/api/state").json()
    send(points, state["tasks"][0], **{"visual quality": 4})
    assert [one.points for one in desk.store.judgments().points] == [4]
    (home / "taste.db").unlink()
    ranking = client_of(desk := desk_of(home, "ranking", [home / "more"]), "Ann")
    (task,) = ranking.get("/api/state").json()["tasks"]
    assert len(task["clips"]) == 3
    assert send(ranking, task, overall=[1, 3, 2]).json()["tasks"] == []
    assert desk.store.judgments().rankings[0].places == (1, 3, 2)


def test_gold_and_repeated_pairs_are_recorded_with_what_is_known(home):
    write_clip(home / "gold" / "good.mp4", 1)
    write_clip(home / "gold" / "bad.mp4", 2)
    (home / "gold" / "gold.toml").write_text(
        '[[pair]]\nfirst = "good.mp4"\nsecond = "bad.mp4"\nanswer = "A"\n'
    )
    known = gold.read(home / "gold" / "gold.toml")
    desk = desk_of(home, known=known, shares=Shares(0, 0, 0.5))
    for rater in map(str, range(12)):
        client = client_of(desk, rater)
        state = client.get("/api/state").json()
        while state["tasks"]:
            state = send(client, state["tasks"][0], overall="A").json()
    checks = [one for one in desk.store.answers() if one.reason == "gold"]
    assert len(checks) >= 6
    for one in checks:
        assert one.expected == ("A" if one.shown[0].path.endswith("good.mp4") else "B")
    assert {one.expected for one in checks} == {"A", "B"}
    assert len(desk.store.judgments().choices) == len(desk.store.answers()) - len(checks)


def test_a_store_of_two_sets_counts_and_undoes_the_answers_of_each_set_alone(home):
    shutil.copytree(home / "base", home / "third")
    shutil.copytree(home / "ours", home / "fourth")
    first = client_of(desk_of(home), "Ann")
    send(first, first.get("/api/state").json()["tasks"][0], overall="A")
    other = desk_of(home, folders=[home / "third", home / "fourth"], count=2)
    second = client_of(other)
    second.cookies.update(first.cookies)
    state = second.get("/api/state").json()
    assert (state["progress"]["done"], state["progress"]["goal"]) == (0, 2)
    undone = second.post("/api/undo", json={"click": "click-0001"}, headers=ORIGIN).json()
    assert undone["tasks"] == state["tasks"]
    assert [one.given for one in other.store.answers()] == [{"overall": "A"}]
    send(second, state["tasks"][0], overall="B")
    second.post("/api/undo", json={"click": "click-0002"}, headers=ORIGIN)
    assert [one.given for one in other.store.answers()] == [{"overall": "A"}]
    assert first.get("/api/state").json()["progress"]["done"] == 1


@pytest.mark.parametrize("count, seen", [(60, 9), (4, 4)])
def test_repeated_pairs_take_no_place_of_a_pair_that_was_not_shown(tmp_path, count, seen):
    """Where there are fewer pairs than --count, each of them is shown, beside the repeats."""
    home = tmp_path
    two_folders(home, [f"prompt {i}" for i in range(9)])
    desk = desk_of(home, shares=Shares(0, 0.5, 0), count=count)
    client = client_of(desk, "Ann")
    state, answers, goals = client.get("/api/state").json(), 0, []
    while state["tasks"]:
        goals.append(state["progress"]["goal"])
        state, answers = send(client, state["tasks"][0], overall="A").json(), answers + 1
    found = desk.store.answers()
    assert len({one.prompt for one in found}) == seen
    assert state["progress"]["done"] == state["progress"]["goal"] == len(found) == answers
    if count > 9:
        repeats = [one for one in found if one.reason == "repeat"]
        assert len(repeats) > 0 and len(found) == 9 + len(repeats)
    assert goals == sorted(goals)


def test_nobody_is_asked_when_all_raters_together_have_given_enough(home):
    desk = desk_of(home)
    desk.until = 3
    ann, bob = client_of(desk, "Ann"), client_of(desk, "Bob")
    for client in (ann, bob, ann):
        send(client, client.get("/api/state").json()["tasks"][0], overall="A")
    for client in (ann, bob):
        found = client.get("/api/state").json()
        assert found["tasks"] == []
        assert found["progress"]["goal"] == found["progress"]["done"]
    ann.post("/api/undo", json={"click": "click-0001"}, headers=ORIGIN)
    assert bob.get("/api/state").json()["tasks"], "an answer was taken back"


def test_skipped_pairs_leave_the_goal_that_can_be_reached(desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    skip = {"task": task["task"], "given": {}, "skip": True}
    progress = client.post("/api/answer", json=skip, headers=ORIGIN).json()["progress"]
    assert (progress["done"], progress["skipped"], progress["goal"]) == (0, 1, 2)


def test_a_skip_with_marks_needs_the_receipts_of_the_clips(desk):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    skip = {"task": task["task"], "given": {}, "skip": True}
    skip["faults"] = [{"clip": 0, "begin": 0, "end": 1, "tags": []}]
    refused = client.post("/api/answer", json=skip, headers=ORIGIN)
    assert refused.status_code == 409 and "skip without marks" in refused.json()["error"]
    assert desk.store.records() == []
    skip["receipts"] = receipts(client, task)
    assert client.post("/api/answer", json=skip, headers=ORIGIN).status_code == 200
    assert len(desk.store.judgments().faults) == 1


@pytest.mark.parametrize("restarted", [True, False])
def test_a_task_whose_clip_changed_is_put_aside_and_the_rest_goes_on(home, restarted):
    desk = desk_of(home, shares=Shares(0, 0, 0))
    client = client_of(desk, "Ann")
    before = client.get("/api/state").json()["tasks"]
    clip = desk.clip_of(before[0]["clips"][0])
    write_clip(clip.path, 5, frames=6)
    if restarted:
        desk, old = desk_of(home, shares=Shares(0, 0, 0)), client
        client = client_of(desk)
        client.cookies.update(old.cookies)
    notes = []
    desk.note = notes.append
    state = client.get("/api/state").json()
    assert before[0]["task"] not in [task["task"] for task in state["tasks"]]
    (note,) = notes
    assert "put aside, a task of Ann" in note and str(clip.path) in note
    while state["tasks"]:
        answer = send(client, state["tasks"][0], overall="A")
        assert answer.status_code == 200
        state = answer.json()
    answers = desk.store.answers()
    assert {one.prompt for one in answers} == {*PROMPTS}  # the changed clip too, as it is now
    (now,) = [s for one in answers for s in one.shown if s.path == str(clip.path)]
    assert now.sha256 == frames.content_hash(clip.path)


# --- several raters


def test_a_name_is_one_browsers_alone(desk):
    first = client_of(desk, "Ann")
    second = client_of(desk)
    refused = second.post("/name", data={"name": "ann"}, headers=ORIGIN)
    assert refused.status_code == 409
    assert "choose another name" in refused.text
    assert "Your name" in second.get("/").text
    assert second.post("/name", data={"name": "Bob"}, headers=ORIGIN).status_code == 200
    assert "You are" in first.get("/").text
    task = first.get("/api/state").json()["tasks"][0]
    assert send(second, task, overall="A").status_code == 409  # the task of another rater
    assert desk.store.answers() == []


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, "a\x07b"])
def test_names_of_another_kind_are_refused_with_words(desk, name):
    answer = client_of(desk).post("/name", data={"name": name}, headers=ORIGIN)
    assert answer.status_code == 400
    assert "1 to 40 characters" in answer.text


def test_raters_at_the_same_time_are_shown_different_pairs(home):
    desk = desk_of(home, shares=Shares(0, 0, 0))
    items = [{desk._past_of(task).item for task in desk.tasks(rater, 1)} for rater in "abc"]
    assert len(set.union(*items)) == 3


# --- who is let in


@pytest.mark.parametrize(
    "path", ["/", "/?token=wrong", "/api/state", "/clips/x", "/static/label.js"]
)
def test_without_the_token_nothing_is_shown(desk, path):
    answer = client_of(desk, token=None).get(path)
    assert answer.status_code == 403
    assert "link that `vidrl label` printed" in answer.text


def test_the_token_moves_from_the_link_into_a_cookie(desk):
    client = client_of(desk, token=None)
    header = client.get(f"/?token={TOKEN}").headers["set-cookie"]
    assert "HttpOnly" in header and "samesite=strict" in header.lower()
    assert client.get("/").status_code == 200
    header = client.post(
        "/name", data={"name": "Ann"}, headers=ORIGIN, follow_redirects=False
    ).headers["set-cookie"]
    assert "HttpOnly" in header and "samesite=strict" in header.lower()


def test_an_odd_cookie_of_another_page_does_not_hide_the_token(desk):
    client = client_of(desk, "Ann")
    own = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
    for odd in ('a[1]={"x": 1}', "no value", "x=\u00e9", 'b="', "=;;", "c=[]"):
        headers = {"cookie": f"{odd}; {own}".encode("latin-1")}
        plain = client_of(desk, token=None)
        assert plain.get("/api/state", headers=headers).status_code == 200, odd


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"ftp://{HOST}"},
        {"origin": "http://["},
        {"origin": f"http://ann@{HOST}"},
        ORIGIN | {"sec-fetch-site": "cross-site"},
    ],
)
def test_changes_from_other_sites_are_refused(desk, headers):
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    sent = {"task": task["task"], "given": {"overall": "A"}}
    answer = client.post("/api/answer", json=sent, headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.json()["error"]
    assert desk.store.records() == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:9", "127.0.0.1", ""])
def test_other_host_names_are_refused(desk, host):
    answer = client_of(desk).get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "--allow-host" in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused_with_words(desk, method):
    answer = client_of(desk, "Ann").request(method, "/clips/new.mp4", content=b"x", headers=ORIGIN)
    assert answer.status_code == 405
    assert "no uploads" in answer.text


def test_uploads_are_refused_with_words(desk):
    client = client_of(desk, "Ann")
    form = client.post("/name", files={"file": b"x"}, headers=ORIGIN)
    assert (form.status_code, "no uploads" in form.text) == (413, True)
    assert client.post("/", content=b"x", headers=ORIGIN).status_code == 405


@pytest.mark.parametrize("stated", [True, False])
def test_long_bodies_are_refused(desk, stated):
    body = b"x" * (1 << 16) + b"x"
    sent = body if stated else iter([body])  # an iterator is sent in chunks, without a length
    answer = client_of(desk, "Ann").post("/api/answer", content=sent, headers=ORIGIN)
    assert answer.status_code == 413
    assert "at most 65536 bytes" in answer.json()["error"]


def test_each_answer_has_the_headers_of_safety(desk):
    client = client_of(desk, "Ann")
    for path in ("/", "/api/state", "/static/label.css", "/nothing", "/clips/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src 'self';" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/state").headers["cache-control"] == "no-store"


def test_names_and_prompts_are_text_on_the_page(home):
    desk = desk_of(home)
    client = client_of(desk, "<script>alert(2)</script>")
    page = client.get("/").text
    assert "alert(2)" in page and "<script>alert" not in page
    assert "&lt;script&gt;alert(2)" in page
    again = client_of(desk).post(
        "/name", data={"name": "<script>alert(2)</script>"}, headers=ORIGIN
    )
    assert again.status_code == 409 and "<script>alert" not in again.text


@pytest.mark.parametrize(
    "path",
    [
        "/clips/..%2f..%2fetc%2fpasswd",
        "/clips/../taste.db",
        "/static/..%2fapp.py",
        "/static/name.html",
    ],
)
def test_nothing_else_is_served(desk, path):
    answer = client_of(desk, "Ann").get(path)
    assert answer.status_code == 404


# --- bad input


def test_a_clip_that_vanished_is_left_out_and_listed(home):
    notes = []
    desk = desk_of(home)
    desk.note = notes.append
    (home / "ours" / "1.mp4").unlink()
    client = client_of(desk, "Ann")
    state = client.get("/api/state").json()
    while state["tasks"]:
        state = send(client, state["tasks"][0], overall="A").json()
    assert {one.prompt for one in desk.store.answers()} == {PROMPTS[0], PROMPTS[2]}
    assert state["vanished"] == 1
    assert len(notes) == 1 and "ours/1.mp4" in notes[0]


def test_a_clip_that_vanishes_while_it_is_shown_says_so(home):
    desk = desk_of(home)
    client = client_of(desk, "Ann")
    task = client.get("/api/state").json()["tasks"][0]
    clip = desk.clip_of(task["clips"][0])
    clip.path.unlink()
    assert client.get(f"/clips/{task['clips'][0]}").status_code == 410


def test_a_link_that_leads_out_of_the_folder_is_not_served(home):
    (home / "secret.mp4").write_bytes((home / "base" / "0.mp4").read_bytes())
    (home / "base" / "1.mp4").unlink()
    (home / "base" / "1.mp4").symlink_to(home / "secret.mp4")
    found = clip_sets.read([home / "base", home / "ours"])
    assert [clip.path.name for clip in found.clips if clip.home.name == "base"] == [
        "0.mp4",
        "2.mp4",
    ]
    assert any("leads out" in note for note in found.notes)
    desk = desk_of(home)  # and a link that appears later
    clip = next(clip for clip in desk.clips.clips if clip.path.name == "0.mp4")
    clip.path.unlink()
    clip.path.symlink_to(home / "secret.mp4")
    client = client_of(desk, "Ann")
    assert client.get(f"/clips/{desk.clip_id(Shown(str(clip.path)))}").status_code == 410


def test_folders_without_a_pair_are_refused_with_the_cure(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    write_clip(one / "a.mp4", 1)
    with pytest.raises(clip_sets.NothingToCompare, match="got one.*second folder"):
        clip_sets.read([one])
    write_clip(two / "b.mp4", 2)
    with pytest.raises(
        clip_sets.NothingToCompare, match="share a prompt or a file name.*prompts.csv"
    ):
        clip_sets.read([one, two])
    with pytest.raises(clip_sets.NothingToCompare, match="one of them twice"):
        clip_sets.read([one, one])
    (tmp_path / "empty").mkdir()
    with pytest.raises(clip_sets.NothingToCompare, match="expected clips in"):
        clip_sets.read([one, tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="found nothing"):
        clip_sets.read([one, tmp_path / "none"])
    write_clip(one / "b.mp4", 3)
    assert len(clip_sets.read([one, two]).pairs) == 1
    with pytest.raises(clip_sets.NothingToCompare, match="share a prompt in"):
        clip_sets.read([one])


def test_clips_that_are_in_no_pair_are_named(tmp_path):
    for i in range(5):
        write_clip(tmp_path / f"{i}.mp4", i)
    rows = "path,prompt\n0.mp4,a\n1.mp4,a\n2.mp4,b\n"
    (tmp_path / "prompts.csv").write_text(rows)
    pairs = clip_sets.read([tmp_path])
    assert pairs.pairs == ((0, 1),)
    no_prompt, alone = pairs.notes[-2:]
    assert no_prompt.startswith("2 clips without a prompt are not shown, such as")
    assert "3.mp4: write each prompt to the column prompt of prompts.csv" in no_prompt
    assert alone.startswith("1 clip that no other clip can be compared with is not shown, such as")
    assert alone.endswith("2.mp4")
    assert [note[:23] for note in clip_sets.read([tmp_path], "points").notes] == [no_prompt[:23]]
    two_folders(tmp_path / "two")
    write_clip(tmp_path / "two" / "ours" / "3.mp4", 3)
    (note,) = clip_sets.read([tmp_path / "two" / "base", tmp_path / "two" / "ours"]).notes
    assert note.startswith("1 clip without a prompt is not shown") and "ours/3.mp4" in note


def test_the_pairs_that_are_drawn_at_random_stay_when_a_clip_is_added(home):
    apart = []
    for _ in range(2):
        desk = desk_of(home)
        clips = [clip.path.name for clip in desk.clips.clips]
        apart.append(
            {
                tuple(sorted(clips[place] for place in item)): desk.selection.drawn("Ann", item)
                for group in desk.selection.groups
                for item in group
            }
        )
        for folder in ("base", "ours"):  # a clip that comes first
            write_clip(home / folder / "00.mp4", 1)
            with open(home / folder / "prompts.csv", "a") as file:
                file.write("00.mp4,a new prompt\n")
    assert len(apart[1]) == len(apart[0]) + 1 and apart[0].items() <= apart[1].items()


def test_one_folder_is_compared_within_each_prompt(tmp_path):
    for i in range(4):
        write_clip(tmp_path / f"{i}.mp4", i)
    (tmp_path / "prompts.csv").write_text("path,prompt\n0.mp4,a\n1.mp4,a\n2.mp4,a\n3.mp4,b\n")
    assert clip_sets.read([tmp_path]).pairs == ((0, 1), (0, 2), (1, 2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("first,second\na.mp4,b.mp4\n", "answer missing"),
        ("one,two,ans\na.mp4,b.mp4,A\n", "columns first, second, answer, found one, two, ans"),
        ("first,second,answer\na.mp4,b.mp4,C\n", "answer of A, B, tie, bad"),
        ("first,second,answer\na.mp4,a.mp4,A\n", "twice"),
        ("first,second,answer\na.mp4,../c.mp4,A\n", "found none at"),
        ("first,second,answer\n", "found none"),
    ],
)
def test_gold_pairs_of_another_kind_are_refused(tmp_path, text, expected):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gold.csv").write_text(text)
    with pytest.raises((ValueError, OSError), match=expected):
        gold.read(tmp_path / "gold.csv")
