"""The page in a real browser: keys, mouse, touch, both widths, and frames in step."""

import random
import re
import threading
from pathlib import Path

import pytest

for package in ("starlette", "sqlalchemy", "uvicorn", "websockets"):
    pytest.importorskip(package)

from tests.feedback import browser
from tests.feedback.clips_of_colour import two_folders, write_clip
from vidrl.feedback.labelling import app, clip_sets, frames, serve
from vidrl.feedback.labelling.desk import Desk
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.selection import Selection, Shares
from vidrl.feedback.store import Store

if browser.CHROMIUM is None:
    pytest.skip("needs the browser chromium", allow_module_level=True)

TOKEN = "a-token-of-the-browser-test"
SHOWN = "document.querySelector('#main:not([hidden]) canvas')?.dataset.frame !== undefined"


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as address:
        yield address


@pytest.fixture
def served(tmp_path):
    """Start the page of two folders in a thread; gives its store and its link."""
    import uvicorn

    servers = []

    def begin(mode="pairs", folders=None, **questions):
        clips = clip_sets.read(folders or two_folders(tmp_path), mode)
        store = Store(tmp_path / f"{mode}.db", Questionnaire(mode, **questions))
        selection = Selection(clip_sets.items(clips, mode), Shares(0, 0, 0), pairs=mode == "pairs")
        folder = frames.FrameFolder(tmp_path / "frames")
        desk = Desk(store, clips, folder, selection, draw=random.Random(0))
        listener = serve.bind(0)
        port = listener.getsockname()[1]
        built = app.build(desk, TOKEN, serve.hosts(port, False))
        server = uvicorn.Server(uvicorn.Config(built, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return store, f"http://127.0.0.1:{port}/?token={TOKEN}"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def opened(chromium, link, name, **size):
    """A tab that shows the first clips to a rater."""
    tab = browser.Tab(chromium, **size)
    tab.open(link)
    tab.until("document.getElementById('name')")
    tab.js(f"document.getElementById('name').value = '{name}'")
    tab.js("document.querySelector('form').requestSubmit()")
    tab.until(SHOWN)
    return tab


def prompt(tab):
    return tab.js("document.getElementById('prompt').textContent")


def shown_frames(tab):
    return tab.js("[...document.querySelectorAll('canvas')].map(c => Number(c.dataset.frame))")


def test_a_rater_judges_by_keys_on_a_desktop(chromium, served, tmp_path):
    store, link = served()
    tab = opened(chromium, link, "Ann <b>", width=1280, height=900)
    assert tab.js("location.search") == ""  # the token has left the address
    first = prompt(tab)
    for key in "1234":
        tab.press(key)
    tab.until(f"document.getElementById('prompt').textContent != {first!r} && {SHOWN}")
    (answer,) = store.answers()
    assert answer.given == {"motion": "A", "picture": "B", "prompt": "tie", "overall": "bad"}
    assert (answer.prompt, answer.rater) == (first, "Ann <b>")
    tab.press("u")
    tab.until(f"document.getElementById('prompt').textContent == {first!r} && {SHOWN}")
    assert store.answers() == []
    for left in (2, 1, 0):
        before = prompt(tab)  # before the key, after which the page may change at once
        tab.press("s")
        tab.until(
            f"document.getElementById('main').hidden || ({SHOWN} && {before!r} != document.getElementById('prompt').textContent)"
        )
        count = tab.js("document.getElementById('count').textContent")
        # a skip is no answer, and leaves one answer less to give; the end counts answers alone
        assert count == (f"0 of {left}" if left else "0 answers")
    tab.until("!document.getElementById('done').hidden")
    told = tab.js("document.getElementById('summary').textContent")
    assert told.startswith("You gave 0 answers and skipped 3 pairs.")
    assert tab.js("document.getElementById('pace').textContent") == ""
    assert [one.skipped for one in store.answers()] == [True] * 3
    assert tab.complaints() == []


def test_a_note_says_that_a_clip_is_shown_smaller(chromium, served, tmp_path):
    for name, width in (("a", 1400), ("b", 1280)):
        write_clip(tmp_path / name / "x.mp4", 1, frames=3, size=(32, width))
    _, link = served(folders=[tmp_path / "a", tmp_path / "b"])
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    notes = "[...document.querySelectorAll('.note:not([hidden])')].map(note => note.textContent)"
    assert tab.js(notes) == ["shown at 1280 x 29 of 1400 x 32 pixels"]
    assert tab.complaints() == []


def test_clips_play_in_step_and_stop_on_exact_frames(chromium, served):
    _, link = served()
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    for _ in range(10):
        assert len(set(shown_frames(tab))) == 1
    tab.press(" ")
    tab.until("document.getElementById('play').getAttribute('aria-label') == 'Play'")
    tab.js(
        "document.getElementById('seek').value = 0; document.getElementById('seek').dispatchEvent(new Event('input'))"
    )
    tab.until("document.querySelector('canvas').dataset.frame == 0")
    for number in (1, 2, 3):
        tab.press("ArrowRight")
        tab.until(
            f"[...document.querySelectorAll('canvas')].every(c => c.dataset.frame == {number})"
        )
    # the bar of the clip stands where frame 3 has it: columns 12 to 15 of 48 are white
    row = tab.js(
        "[...document.querySelector('canvas').getContext('2d').getImageData(0, 16, 48, 1).data]"
        ".filter((_, i) => i % 4 == 0)"
    )
    assert [i for i, red in enumerate(row) if red > 200] == [12, 13, 14, 15]
    tab.press("ArrowLeft")
    tab.until("document.querySelector('canvas').dataset.frame == 2")
    tab.press("ArrowLeft", shift=True)  # ten frames back, in a loop of ten
    tab.until("document.querySelector('canvas').dataset.frame == 2")
    assert tab.js("document.getElementById('time').textContent") == "0.25 s"


@pytest.mark.slow  # with the others of this file, more than ten seconds
def test_a_span_is_marked_with_the_mouse_and_gets_a_tag(chromium, served):
    store, link = served(tags=("flicker", "melts"))
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    tab.drag(".axis", 0.2, 0.6)
    tab.until("document.querySelectorAll('.axis .mark').length == 1")
    tab.js("document.querySelectorAll('.tags:not([hidden]) button')[1].click()")
    for key in "1111":
        tab.press(key)
    tab.until("document.getElementById('count').textContent.startsWith('1 ')")
    (fault,) = store.judgments().faults
    assert fault.clip == store.answers()[0].shown[0].path
    assert fault.begin == pytest.approx(0.25, abs=0.02) and fault.end == pytest.approx(
        0.75, abs=0.02
    )
    assert fault.tags == ("melts",)


@pytest.mark.slow  # with the others of this file, more than ten seconds
def test_a_span_is_marked_with_keys(chromium, served):
    store, link = served()
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    tab.js(
        "document.getElementById('seek').value = 0.125; document.getElementById('seek').dispatchEvent(new Event('input'))"
    )
    tab.press("w")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    tab.press("w")
    tab.until("document.querySelectorAll('.axis .mark').length == 1")
    tab.press("1")
    tab.press("Enter")
    tab.until("document.getElementById('count').textContent.startsWith('1 ')")
    (fault,) = store.judgments().faults
    assert (fault.clip, fault.begin, fault.end) == (store.answers()[0].shown[1].path, 0.125, 0.375)
    assert store.answers()[0].given == {"motion": "A"}


def test_a_rater_judges_by_touch_on_a_phone(chromium, served, tmp_path):
    store, link = served()
    tab = opened(chromium, link, "Ann", width=390, height=844, touch=True)
    assert tab.js("document.documentElement.scrollWidth") == 390  # nothing sticks out
    boxes = tab.js(
        "[...document.querySelectorAll('canvas')].map(c => [c.getBoundingClientRect().x, c.getBoundingClientRect().y])"
    )
    assert boxes[0][0] == boxes[1][0] and boxes[0][1] < boxes[1][1]  # one above the other
    tab.drag(".axis", 0.2, 0.8, touch=True)
    tab.until("document.querySelector('.tags:not([hidden])')")
    first = prompt(tab)
    for number in (2, 3, 4):
        now = f"document.querySelector('fieldset.current').textContent.includes('{number}/4')"
        tab.tap_until("fieldset.current .choices button:nth-child(2)", now)
    other = f"document.getElementById('prompt').textContent != {first!r} && {SHOWN}"
    tab.tap_until("fieldset.current .choices button:nth-child(2)", other)
    (answer,) = store.answers()
    assert set(answer.given.values()) == {"B"} and len(answer.given) == 4
    assert answer.faults[0].end - answer.faults[0].begin == pytest.approx(0.6 * 1.25, abs=0.03)
    tab.tap_until("#undo", f"document.getElementById('prompt').textContent == {first!r}")
    assert store.answers() == []
    small = tab.js(
        "[...document.querySelectorAll('button')].filter(b => b.offsetParent)"
        ".map(b => [b.id, b.getBoundingClientRect().height]).filter(([, h]) => h < 24)"
    )
    assert small == []  # WCAG 2.2, 2.5.8: targets of at least 24 px
    assert tab.complaints() == []


@pytest.mark.slow  # with the others of this file, more than ten seconds
def test_points_and_a_ranking_by_keys(chromium, served, tmp_path):
    for i in range(3):
        write_clip(tmp_path / "more" / f"{i}.mp4", i)
    (tmp_path / "more" / "prompts.csv").write_text("path,prompt\n0.mp4,a\n1.mp4,a\n2.mp4,a\n")
    store, link = served("points", [tmp_path / "more"])
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    for key in "352":
        tab.press(key)
    tab.until("document.getElementById('count').textContent.startsWith('1 ')")
    assert [*store.answers()[0].given.values()] == [3, 5, 2]
    store, link = served("ranking", [tmp_path / "more"])
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    for key in "2t31":  # the second clip is best, the third ties with it, the first is last
        tab.press(key)
    tab.until("!document.getElementById('done').hidden")
    assert store.answers()[0].given == {"overall": [3, 1, 1]}


@pytest.mark.slow  # with the others of this file, more than ten seconds
def test_clips_tie_by_a_button_that_shows_its_state(chromium, served, tmp_path):
    for i in range(3):
        write_clip(tmp_path / "more" / f"{i}.mp4", i)
    (tmp_path / "more" / "prompts.csv").write_text("path,prompt\n0.mp4,a\n1.mp4,a\n2.mp4,a\n")
    store, link = served("ranking", [tmp_path / "more"])
    tab = opened(chromium, link, "Ann", width=390, height=844, touch=True)
    tie = "document.querySelector('.tie')"
    assert tab.js(f"{tie}.disabled")  # nothing to tie with
    choices = "document.querySelectorAll('.choices button')"
    for place in (0, 1, 0):  # the first press of A is taken back: B moves up to the first place
        tab.js(f"{choices}[{place}].click()")
    assert tab.js(f"{choices}[1].textContent").startswith("B: 1")
    tab.tap_until(".tie", f"{tie}.getAttribute('aria-pressed') == 'true'")
    tab.js(f"{choices}[2].click()")
    assert tab.js(f"{tie}.getAttribute('aria-pressed')") == "false"
    tab.js(f"{choices}[0].click()")
    tab.until("!document.getElementById('done').hidden")
    assert store.answers()[0].given == {"overall": [3, 1, 1]}


def test_clips_that_are_not_shown_cannot_be_answered(chromium, served):
    store, link = served()
    tab = opened(chromium, link, "Ann")
    tab.call("Network.enable")
    tab.call("Network.setCacheDisabled", cacheDisabled=True)
    tab.call("Network.setBlockedURLs", urls=["*/clips/*"])
    tab.open(link)
    tab.until("document.querySelector('.wait')?.textContent == 'Not loaded'")
    tab.until("!document.getElementById('trouble').hidden")
    assert "Skip (s)" in tab.js("document.getElementById('trouble').textContent")
    enabled = tab.js(
        "[...document.querySelectorAll('#foot button, #foot input')]"
        ".filter(e => e.offsetParent && !e.matches(':disabled')).map(e => e.id)"
    )
    assert enabled == ["undo", "skip"]
    for key in ("1", "2", "3", "4", "Enter", "q", " "):
        tab.press(key)
    assert store.records() == []
    tab.call("Network.setBlockedURLs", urls=[])
    tab.press("s")  # the next clips, whose loading failed too, are loaded again
    tab.until(SHOWN)
    assert [one.skipped for one in store.records()] == [True]
    assert not tab.js("document.querySelector('.choices button').matches(':disabled')")


@pytest.mark.slow  # with the others of this file, more than ten seconds
def test_an_undo_fills_in_the_answers_and_marks(chromium, served):
    store, link = served()
    tab = opened(chromium, link, "Ann")
    first = prompt(tab)
    tab.drag(".axis", 0.2, 0.6)
    for key in "1213":
        tab.press(key)
    tab.until(f"document.getElementById('prompt').textContent != {first!r} && {SHOWN}")
    before = store.answers()[0]
    tab.press("u")
    tab.until(f"document.getElementById('prompt').textContent == {first!r} && {SHOWN}")
    pressed = (
        "[...document.querySelectorAll('.choices [aria-pressed=true]')].map(b => b.textContent[0])"
    )
    assert tab.js(pressed) == ["A", "B", "A", "T"]
    assert tab.js("document.querySelectorAll('.axis .mark').length") == 1
    tab.press("3")  # the first question is in the frame again
    assert tab.js(pressed) == ["T", "B", "A", "T"] and store.answers() == []
    tab.press("Enter")
    tab.until(f"document.getElementById('prompt').textContent != {first!r} && {SHOWN}")
    (after,) = store.answers()
    assert after.given == {**before.given, "motion": "tie"}
    assert after.faults == before.faults and len(after.faults) == 1


LAYOUT = """(() => {
  const box = (e) => e.getBoundingClientRect();
  const axes = [...document.querySelectorAll('.axis')].map((e) => box(e).bottom);
  const seen = [...document.querySelectorAll('#foot button')].filter((e) => e.offsetParent && !e.closest('.tags'));
  const send = box(document.getElementById('send')).bottom;
  return [Math.max(...axes), box(document.getElementById('foot')).top, Math.max(...seen.map((e) => box(e).bottom)), send];
})()"""


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_all_controls_are_on_the_screen_with_and_without_a_mark(chromium, served, size):
    _, link = served()
    tab = opened(chromium, link, "Ann", width=size[0], height=size[1], touch=size[0] < 700)
    axes, foot, lowest, send = tab.js(LAYOUT)
    assert axes <= foot and lowest <= size[1]  # no axis is covered, no button is below the fold
    tab.drag(".axis", 0.2, 0.6, touch=size[0] < 700)
    tab.until("document.querySelector('.tags:not([hidden])')")
    tab.js("scrollTo(0, 0)")
    marked = tab.js(LAYOUT)
    assert marked[0] <= marked[1] and marked[2] <= size[1]
    assert marked[3] == pytest.approx(send, abs=6)  # the mark does not push the questions


@pytest.mark.slow  # with the others of this file, more than ten seconds
def test_help_and_focus(chromium, served):
    _, link = served()
    tab = opened(chromium, link, "Ann", width=1280, height=900)
    tab.press("?")
    tab.until("document.getElementById('help').open")
    text = tab.js("document.getElementById('help').innerText")
    for key in ("space", "delete", "enter", "z", "q", "w", "s", "u", "1", "4"):
        assert re.search(rf"\b{key}\b", text), key
    for key in ("?", "Escape"):
        tab.press(key)
        tab.until("!document.getElementById('help').open")
        tab.press("?")
        tab.until("document.getElementById('help').open")
    tab.press("?")
    tab.until("!document.getElementById('help').open")
    unnamed = tab.js(
        "[...document.querySelectorAll('button, input, canvas, [role]')].filter(e => e.offsetParent"
        " && !e.textContent.trim() && !e.getAttribute('aria-label')).map(e => e.outerHTML)"
    )
    assert unnamed == []
    tab.press("Tab")
    tab.press("Tab")
    style = tab.js(
        "(s => [s.outlineStyle, s.outlineWidth])(getComputedStyle(document.activeElement))"
    )
    assert style == ["solid", "3px"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_contrast(scheme):
    """WCAG 2.2, 1.4.3: text of at least 4.5 to 1, in the light and in the dark scheme."""
    folder = Path(app.__file__).parent / "templates"
    blocks = re.findall(r":root \{(.*?)\}", (folder / "label.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))
    for ink, ground in [
        ("ink", "page"),
        ("ink", "card"),
        ("soft", "page"),
        ("soft", "card"),
        ("on", "accent"),
        ("mark", "card"),
        ("mark", "page"),
    ]:
        light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
