"""The page in a real browser: nothing breaks, nothing is fetched, nothing is too wide,
clips play, keys work."""

import pytest
import torch
from _browser import Browser
from _results import NAUGHTY, finish, made

from vidrl.bench.page import write
from vidrl.rewards import video
from vidrl.synthetic import corruptions, world

pytestmark = pytest.mark.slow

WIDE = """[...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > innerWidth + 0.5
          && !one.closest(".scroll, pre, svg, .rules, .labels")).map(one => one.outerHTML.slice(0, 120))"""
UNFOLD = (
    "document.querySelectorAll('details').forEach(f => { f.removeAttribute('name'); f.open "
    "= true; })"
)
CONTRAST = """(() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
    const [r, g, b] = parts.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return Object.fromEntries(["h1", ".note", ".who", ".gap", "pre", "nav a"].map(name => {
    const ink = light(getComputedStyle(document.querySelector(name)).color);
    return [name, (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)];
  }));
})()"""


def write_clip(path, i, noisy):
    scene = world.scenes("train", n=6, seed=1)[i]
    frames = world.render(scene, size=64 if i % 2 else 96, frames=9, seed=i).video
    frames = torch.nn.functional.pad(frames, (0, 40)) if i % 3 else frames
    return video.write(path, corruptions.corrupt(frames, "noise") if noisy else frames, 8.0)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two sets of clips of two shapes, with every string as bad as strings come."""
    folder = tmp_path_factory.mktemp("bench")
    results = made(
        names=("base", '<b>ours</b>"'), count=24, prompts=NAUGHTY, shift=0.05, trained=("flicker",)
    )
    for at, one in enumerate(results["sets"]):
        files = [write_clip(folder / f"{at}-{i} <&> '\".mp4", i, noisy=not at) for i in range(6)]
        for i, clip in enumerate(one["clips"]):
            clip["path"] = str(files[i % 6]) if i else "gone.mp4"
        one["skipped"] = [{"path": "w" * 300 + ".mp4", "why": NAUGHTY[0]}]
    results["sets"][0]["clips"][0]["value"]["flicker"] = None
    results["sets"][0]["clips"][0]["why"]["flicker"] = NAUGHTY[1]
    results["command"] = f"vidrl bench {'x' * 400}"
    return write(finish(results), folder / "out" / "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(params=[1280, 800, 390])
def opened(request, browser, report):
    return browser.open(report, request.param)


def test_nothing_is_complained_of_fetched_or_run(opened, report):
    assert opened.until("document.querySelector('#looked .card') !== null")
    opened.ask(UNFOLD)
    opened.ask(
        "document.querySelector('#order').value = '1'; "
        "document.querySelector('#order').dispatchEvent(new Event('change'))"
    )
    assert opened.ask("[...document.querySelectorAll('#pick option')].length") == 24
    for _ in range(24):
        opened.ask("document.querySelector('#next').click()")
    opened.ask("new Promise(done => setTimeout(done, 500))")
    assert opened.complaints() == []
    assert opened.requests() == [report.resolve().as_uri()]
    assert opened.ask("typeof window.broken") == "undefined"
    assert opened.ask("document.querySelectorAll('img[src=x], script').length") == 2


def test_nothing_is_wider_than_the_window(opened):
    for state in ("1", UNFOLD):
        opened.ask(state)
        assert opened.ask("document.documentElement.scrollWidth") == opened.ask("innerWidth"), (
            opened.ask(WIDE)
        )


def test_the_clips_play_and_those_of_a_fold_when_it_opens(opened):
    def playing(fold):
        found, plays = (
            f"[...document.querySelectorAll('{fold} video')]",
            "c.duration > 1 && !c.paused && c.videoWidth",
        )
        return opened.until(f"{found}.length > 1 && {found}.every(c => {plays} > 60)")

    assert playing("details.fold[open]")
    opened.ask("document.querySelector('details.fold:last-of-type summary').click()")
    assert playing("details.fold:last-of-type")
    assert opened.ask("document.querySelectorAll('details.fold[open]').length") == 1
    opened.ask("document.querySelector('#pause').click()")
    assert opened.until("[...document.querySelectorAll('video')].every(c => c.paused)")


def test_any_clip_can_be_looked_at(opened):
    told = opened.ask("""(() => {
      const pick = document.querySelector("#pick");
      pick.value = pick.options[pick.options.length - 1].value;
      pick.dispatchEvent(new Event("change"));
      return [pick.options.length, document.querySelectorAll("#looked .grid .card").length,
              document.querySelectorAll("#looked path.line").length,
              document.querySelector("#looked .asked").textContent];
    })()""")
    assert told == [24, 4, 8, NAUGHTY[23 % len(NAUGHTY)]]
    opened.ask("document.querySelector('details.fold[open] a.look').click()")
    title = "document.querySelector('details.fold[open] article .asked').textContent"
    assert opened.ask(f"document.querySelector('#looked .asked').textContent === {title}")


def test_keys_reach_what_can_be_pressed(browser, report):
    page = browser.open(report, 1280)
    seen = []
    for _ in range(30):
        page.key("Tab", 9)
        seen.append(page.ask("document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "pause":
            break
    assert "A" in seen and seen[-1] == "pause"
    page.key("Enter", 13)
    assert page.ask("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"


def test_tables_are_copied(browser, report):
    page = browser.open(report, 1280)
    browser.send(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    page.ask("document.querySelector('button[data-copy=markdown]').click()")
    assert page.until(
        "document.querySelector('button[data-copy=markdown]').textContent === 'Copied'"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_in_light_and_dark(browser, report, dark):
    page = browser.open(report, 1280, dark=dark)
    assert (
        page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"
    ) is dark
    contrast = page.ask(CONTRAST)
    assert min(contrast.values()) >= 4.5, contrast


def test_it_prints(browser, report):
    page = browser.open(report, 1280)
    made = browser.send("Page.printToPDF", page.session, printBackground=False)
    assert len(made["data"]) > 10_000


OVERLAPS = """[...document.querySelectorAll(".versus:not(.under)")].flatMap(row => {
  const told = [...row.children].filter(cell => cell.textContent.trim() && !cell.classList.contains("plot"));
  const boxes = told.map(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return [cell.className, range.getBoundingClientRect()];
  }).filter(([, box]) => box.width);
  return boxes.flatMap(([a, x], i) => boxes.slice(i + 1).filter(([, y]) =>
    x.left < y.right - 0.5 && y.left < x.right - 0.5 && x.top < y.bottom - 3 && y.top < x.bottom - 3)
    .map(([b]) => `${a} and ${b}`));
})"""
BROKEN = """[...document.querySelectorAll("#left-out td")].flatMap(cell => {
  const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), words = [];
  while (text.nextNode()) for (const found of text.currentNode.data.matchAll(/[^\\s]+/g)) {
    const range = document.createRange();
    range.setStart(text.currentNode, found.index);
    range.setEnd(text.currentNode, found.index + found[0].length);
    if (range.getClientRects().length > 1 && !found[0].includes("-")) words.push(found[0]);
  }
  return words;
})"""


@pytest.mark.parametrize("width", [1280, 1000, 800, 390])
def test_no_number_touches_another_and_no_name_breaks_within_a_word(browser, tmp_path, width):
    results = made(names=("base", "ours"), count=24)
    folder = "/data/experiments/2026_10/some_rather_long_folder/checkpoint_00001200"
    results["sets"][0]["skipped"] = [
        {
            "path": f"{folder}/a_red_circle_moves_left_slowly_{i}.mp4",
            "why": f"unreadable: {folder}/a_red_circle.mp4: an HTML page",
        }
        for i in range(3)
    ]
    for row in finish(results)["comparisons"]:
        row.update(difference=-0.000029, low=-0.000051, high=-0.000007, p_holm=0.00451)
    page = browser.open(write(results, tmp_path / "report.html"), width)
    assert page.ask(OVERLAPS) == []
    assert page.ask(BROKEN) == []


def hostile_run(folder):
    """The page of a run whose every text is hostile."""
    from vidrl.report.page import page
    from vidrl.report.run_folder import Run

    every = " ".join(NAUGHTY)
    row = {"prompt": every, "value": 0.1, "segments": [[0, 2], [2, 3]], "advantage": [1.0, -1.0]}
    row |= {"curves": {every: [0.1, 0.2, 0.3]}, "parts": {every: 0.1, NAUGHTY[0]: 0.2}}
    side = {"value": 0.1, "curves": {"composite": [0.1, 0.2], every: [0.1, 0.2]}}
    clip = {"prompt": every, "file": every, "before": side, "after": side}
    clip["references"] = {every: every}
    held = {"before": 0.1, "after": 0.2, "difference": 0.1, "low": None, "high": None}
    dims = {every: {"mean": 0.1, "low": 0.0, "high": 0.2}}
    run = Run(
        folder / every.replace("/", "_")[:80],
        config_text=every,
        events=[{"round": 1, "kind": every, "message": every}],
        metrics=[{"round": 1, "parts": {every: {"mean": 0.1, "std": 0.1}}}],
        bench=[{"round": 1, "suite": every, "dims": dims, "trained": [every], "why": every}],
        credit=[row | {"curve": [0.1, 0.2, 0.3], "file": None}],
        timelines=[clip],
        influence={"parts": {every: [[1.0] * 3] * 2}, "segments": [[0, 2], [2, 3]], "steps": every},
        summary={"held_out": {every: held | {"note": every}}, "versions": {every: every}},
    )
    return page(run)


def hostile_audit(folder):
    """The page of an audit whose every name is hostile."""
    from vidrl import audit
    from vidrl.audit.page import page

    every = " ".join(NAUGHTY)
    clips = [audit.Clip(f"{every} {i}", clip.video) for i, clip in enumerate(audit.world_clips(2))]
    left = [audit.Left(every, every)]
    return page(
        audit.run(lambda v, p, fps: v.mean((1, 2, 3, 4)), clips, ["dim"], name=every, left=left)
    )


@pytest.mark.parametrize("write_page", [hostile_run, hostile_audit])
def test_nothing_hostile_runs_on_the_pages_of_runs_and_audits(browser, tmp_path, write_page):
    path = tmp_path / "page.html"
    path.write_text(write_page(tmp_path), encoding="utf-8")
    page = browser.open(path, 1280)
    page.ask(UNFOLD)
    assert page.ask("typeof window.broken") == "undefined"
    assert page.ask("document.querySelectorAll('img[src=x], [onerror], [onload]').length") == 0
    assert page.ask("document.querySelectorAll('script').length") == (write_page is hostile_run)
    assert NAUGHTY[0] in page.ask("document.body.textContent")
    assert page.complaints() == [] and page.requests() == [path.resolve().as_uri()]
