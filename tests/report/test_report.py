"""The report shows what the run folder holds, escaped, and needs nothing from elsewhere."""

import base64
import copy
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from vidrl.report import charts, page, run_folder, run_report
from vidrl.training import guards

PROMPT = 'a <b>"red"</b> circle & a square'
FRAMES = 17


def write_clip(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import av
    except ImportError:
        pytest.skip("needs av to write an mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for t in range(FRAMES):
            image = np.full((64, 64, 3), 40 + 5 * seed, np.uint8)
            cv2.circle(
                image, (8 + 3 * t, 32 + int(6 * math.sin(t))), 9, (220, 60 + 20 * seed, 40), -1
            )
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spread(mean):
    return {"mean": mean, "std": 0.1, "within_group_std": 0.05}


@pytest.fixture
def run(tmp_path):
    return fill(tmp_path / "demo <1>")


def fill(folder):
    """A run folder as training leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        'run = "x"\nseed = 3\n\n[backbone]\nname = "wan"\n\n'
        '[backbone.options]\nmodel = "assets/<tiny>"\n\n[algorithm]\nname = "grpo"\n\n'
        "[guard.bands]\ndynamic_degree = [0.95, 2.0]\nverifier = [0.97, 1.5]\n"
    )
    rise = [0.4 + 0.15 * (1 - math.exp(-r / 10)) + 0.01 * math.sin(3 * r) for r in range(31)]
    lines(
        folder / "metrics.jsonl",
        [
            {
                "round": r,
                "reward": spread(rise[r]),
                "parts": {"flicker": spread(-0.3 + rise[r] / 2), "warp_error": spread(-0.2)},
                "ratio": {"mean": 1.0 + 1e-4 * math.sin(r), "min": 0.998, "max": 1.002},
                "clip_share": 0.1 + 0.005 * r,
                "kl": 1e-3 * r,
                "grad_norm": None if r == 4 else 0.5,
                "unscored_share": 0.0,
                "zero_std_share": 0.0,
                "seconds": {"sample": 1.0},
                "total_seconds": 10.0 * r,
            }
            for r in range(1, 31)
        ],
    )
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"round": 31, "rewa')
    measured = {
        r: {"composite": rise[r], "dynamic_degree": 0.7, "verifier": 0.9 - r / 1000}
        for r in (0, 10, 20, 30)
    }
    lines(
        folder / "evals.jsonl",
        [
            {
                "round": r,
                "n": 256,
                "measures": {name: {"mean": mean, "n_scored": 256} for name, mean in row.items()},
            }
            for r, row in measured.items()
        ],
    )
    lines(
        folder / "events.jsonl",
        [{"round": 20, "kind": "guard", "message": "verifier <left> its band"}],
    )
    held = {
        "composite": (0.41, 0.53, 0.12, 0.10, 0.14),
        "flicker": (-0.10, -0.04, 0.06, 0.05, 0.07),
        "warp_error": (-0.20, -0.201, -0.001, -0.004, 0.002),
        "dynamic_degree": (0.70, 0.71, 0.01, -0.01, 0.03),
        "verifier": (0.91, 0.87, -0.04, -0.06, -0.02),
        "exposure": (0.30, 0.30, 0.0, 0.0, 0.0),
    }
    names = ("before", "after", "difference", "low", "high")
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "held_out": {
                    name: dict(zip(names, row, strict=True)) for name, row in held.items()
                },
                "train_seconds": 312.4,
                "rounds": 30,
                "seed": 3,
                "status": "finished",
                "versions": {"torch": "2.13"},
                "device": "cpu",
            }
        )
    )
    curve = [0.4 + 0.1 * math.sin(t) for t in range(FRAMES)]
    side = {
        "value": 0.41,
        "parts": {"flicker": -0.1},
        "curves": {"composite": curve, "flicker": [None, *curve[1:]], "warp_error": curve},
    }
    (folder / "timelines.json").write_text(
        json.dumps(
            [
                {
                    "prompt": PROMPT,
                    "file": f"{i:04d}.mp4",
                    "fps": 8.0,
                    "before": side,
                    "after": side
                    | {"value": 0.55, "curves": {"composite": [c + 0.1 for c in curve]}},
                }
                for i in range(3)
            ]
        )
    )
    (folder / "credit.json").write_text(
        json.dumps(
            [
                {
                    "prompt": PROMPT,
                    "value": 0.6,
                    "segments": [[0, 5], [5, 9], [9, 13], [13, 17]],
                    "advantage": [0.9, -1.3, 0.2, None],
                    "curve": curve,
                    "file": "clips/train/best.mp4",
                },
                {
                    "prompt": PROMPT,
                    "value": None,
                    "segments": [[0, 17]],
                    "advantage": [-0.4],
                    "curve": curve,
                    "file": None,
                },
            ]
        )
    )
    for i in range(2):  # the third clip is missing
        write_clip(folder / "clips" / "before" / f"{i:04d}.mp4", i)
        write_clip(folder / "clips" / "after" / f"{i:04d}.mp4", i + 3)
    write_clip(folder / "clips" / "train" / "best.mp4", 6)
    return folder


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks for."""

    VOID = {"meta", "img", "wbr", "path", "polygon", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.tags, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(run):
    return Page(run_report.write(run).read_text())


def test_the_page_is_whole_and_self_contained(run):
    page = page_of(run)
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    text = (run / "report.html").read_text()
    assert not re.search(r"https?://|@import|url\(", text)
    for title in (
        "Before and after",
        "Clips",
        "Learning curves",
        "Where the credit went",
        "Events",
        "The run",
    ):
        assert title in page.text


def test_texts_are_escaped(run):
    page = page_of(run)
    assert (
        "demo <1>" in page.text and PROMPT in page.text and "verifier <left> its band" in page.text
    )
    assert ("b", {}) in page.tags  # of the lede, none of the prompt's
    assert '<b>"red"' not in (run / "report.html").read_text()


def test_clips_and_the_missing_one(run):
    page = page_of(run)
    videos = [attributes for tag, attributes in page.tags if tag == "video"]
    assert len(videos) == 5 and all(
        video["src"].startswith("data:video/mp4;base64,") for video in videos
    )
    assert page.text.count("clip missing") == 2
    frames = [attributes for tag, attributes in page.tags if attributes.get("class") == "frame"]
    assert [frame["title"] for frame in frames] == [f"frame {t}" for t in range(FRAMES)]
    assert all(frame["src"].startswith("data:image/jpeg;base64,") for frame in frames)


def test_credit_is_signed_and_placed_on_its_frames(run):
    page = page_of(run)
    credited = [
        attributes
        for tag, attributes in page.tags
        if attributes.get("class", "").startswith("credit ")
    ]
    assert [one["class"].split()[1] for one in credited] == [
        "plus",
        "minus",
        "plus",
        "none",
        "minus",
    ]
    widths = [float(re.search(r"width:([\d.]+)%", one["style"])[1]) for one in credited]
    assert widths == pytest.approx([500 / 17, 400 / 17, 400 / 17, 400 / 17, 100], abs=0.01)
    assert "advantage −1.3" in credited[1]["title"] and "frames 5 to 8" in credited[1]["title"]


def test_guards_say_whether_they_held(run):
    loaded = run_folder.read(run)
    assert (
        loaded.verdict("dynamic_degree") == guards.STAYS
        and loaded.verdict("verifier") == guards.OUTSIDE
    )
    assert loaded.verdict("composite") == "" and loaded.allowed("dynamic_degree") == pytest.approx(
        (-0.035, 0.7)
    )
    text = " ".join(page_of(run).text)
    assert text.count(guards.STAYS) == 1 and text.count(guards.OUTSIDE) == 1
    summary = json.loads((run / "summary.json").read_text())
    # below what the band allows: nothing is shown any more
    summary["held_out"]["dynamic_degree"]["low"] = -0.2
    (run / "summary.json").write_text(json.dumps(summary))
    assert guards.INSIDE in " ".join(page_of(run).text)


def test_the_lede_says_what_happened(run):
    text = "".join(page_of(run).text)
    assert (
        "On 256 held-out prompts the composite reward rose, from 0.410 to 0.530: a paired" in text
    )
    assert "difference of +0.120, 95 % interval +0.100 to +0.140." in text
    summary = json.loads((run / "summary.json").read_text())
    summary["held_out"]["composite"]["low"] = -0.01
    (run / "summary.json").write_text(json.dumps(summary))
    assert "did not move measurably" in "".join(page_of(run).text)


def test_a_difference_without_an_interval_is_shown_with_the_reason(run):
    """Of four held-out clips: no interval, so no verdict, on the page and in the
    terminal."""
    summary = json.loads((run / "summary.json").read_text())
    note = "an interval needs 6 clips, and there are 4"
    for row in summary["held_out"].values():
        row.update(low=None, high=None, n=4, note=note)
    (run / "summary.json").write_text(json.dumps(summary))
    text = "".join(page_of(run).text)
    assert (
        "reward changed, from 0.410 to 0.530: a paired difference of +0.120; nothing is sure: "
        f"{note}." in text
    )
    assert "got worse beyond doubt" not in text and run_folder.read(run).change("composite") == ""
    assert (
        run_report.table(run).splitlines()[2].split(maxsplit=4)[4] == f"none                {note}"
    )


def test_the_table_as_text(run):
    table = run_report.table(run).splitlines()
    assert table[2].split() == [
        "composite",
        "0.4100",
        "0.5300",
        "+0.1200",
        "[+0.1000,",
        "+0.1400]",
        "better",
    ]
    assert table[5].endswith("stays in band") and table[6].endswith(
        "out of band (not beyond doubt), worse"
    )
    assert table[8:] == [
        "note: verifier got worse beyond doubt: −0.040 (−4%), 95 % interval −0.060 to −0.020."
    ]


def test_an_unfinished_run_has_a_page_too(tmp_path):
    (tmp_path / "config.toml").write_text("seed = 0\n")
    assert "no before/after table yet" in run_report.table(tmp_path)
    assert "0 rounds so far" in "".join(page_of(tmp_path).text)
    with pytest.raises(
        run_folder.NoRun, match="expected a run folder with a config.toml, found no such folder"
    ):
        run_report.table(tmp_path / "nowhere")


def test_a_gap_is_not_bridged():
    drawn = charts.chart(
        [charts.Line("a", [0, 1, 2, 3, 4], [1.0, 2.0, None, 2.0, 1.0])], axis="round"
    )
    assert re.search(r'd="M0.00,100.00L25.00,0.00M75.00,0.00L100.00,100.00"', drawn)
    assert 'title="round 2: a –"' in drawn


def test_a_constant_and_an_empty_curve_are_drawn():
    assert "50.00" in charts.chart([charts.Line("a", [1, 2], [3.0, 3.0])])
    assert "<svg" in charts.chart([charts.Line("a", [], [])])


def test_the_forest_row_is_to_scale():
    drawn = charts.interval(-0.5, 1.0, 0.25, zone=(-10.0, 0.0))
    places = {
        name: float(left)
        for name, left in re.findall(r'class="(\w+)" style="left:([\d.]+)%', drawn)
    }
    assert places["dot"] == pytest.approx(50 + 50 * 0.25 / 1.15, abs=0.01)
    assert places["bar"] == pytest.approx(50 - 50 * 0.5 / 1.15, abs=0.01) and places["zone"] == 0


# --- what the head says


def put_back(folder, rounds, to):
    said = (("guard", "verifier: expected more"), ("rollback", f"weights of round {to} put back"))
    rows = [
        {"round": r, "kind": kind, "message": message} for r in rounds for kind, message in said
    ]
    lines(folder / "events.jsonl", rows)


def test_weights_that_were_put_back_stand_in_the_head_of_the_page_and_of_the_terminal(run):
    put_back(run, (10, 20, 30), 0)
    told = [
        "At 3 of 3 evaluations a guard was broken and earlier weights were put back.",
        "The run keeps the weights of round 0, the model that it started from: nothing that it "
        "learned is kept.",
    ]
    text = (run / "report.html").read_text() if run_report.write(run) else ""
    assert all(text.index(sentence) < text.index("<h2>") for sentence in told)
    assert [f"note: {sentence}" for sentence in told] == run_report.table(run).splitlines()[-3:-1]
    put_back(run, (10,), 0)  # and twenty more rounds were trained
    assert "At 1 of 3 evaluations" in run_report.table(
        run
    ) and "The run keeps" not in run_report.table(run)


def test_a_guard_that_fell_beyond_doubt_is_drawn_as_a_fall(run):
    loaded = run_folder.read(run)
    assert [
        loaded.change(name)
        for name in ("composite", "flicker", "warp_error", "dynamic_degree", "verifier")
    ] == ["better", "better", "", "", "worse"]
    text = (run / "report.html").read_text() if run_report.write(run) else ""
    assert "verifier got worse beyond doubt: −0.040 (−4%), 95 % interval −0.060 to −0.020." in text
    row = text[text.index("<span>verifier<span") :]
    assert (
        'class="forest down"' in row[: row.index("</div></div>")]
        and '<span class="chip out">worse</span>' in row
    )
    assert run_report.table(run).splitlines()[6].endswith("out of band (not beyond doubt), worse")


@pytest.mark.parametrize(
    "name, low, high, change",
    [
        ("unscored_share", 0.01, 0.03, "worse"),
        ("unscored_share", -0.03, -0.01, "better"),
        ("exposure", 0.01, 0.03, "rose"),
        ("exposure", -0.03, -0.01, "fell"),
        ("exposure", -0.01, 0.01, ""),
        ("diversity", -0.01, -0.004, "worse"),
        ("a reward of mine", 0.1, 0.2, "better"),
    ],
)
def test_every_measure_has_its_good_side(name, low, high, change):
    assert (
        run_folder.Run(summary={"held_out": {name: {"low": low, "high": high}}}).change(name)
        == change
    )


def test_a_run_that_ended_early_says_why(run):
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text + "\n[train]\nrounds = 60\n")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "guard"}))
    assert "The run ended after 30 of 60 rounds: guard." in run_report.table(run)


def test_clips_come_before_the_tables(run):
    text = (run / "report.html").read_text() if run_report.write(run) else ""
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[:3] == ["Clips", "Before and after", "Learning curves"]


def test_a_run_that_goes_on_shows_its_last_evaluation(run):
    (run / "summary.json").rename(run / "progress.json")
    told = json.loads((run / "progress.json").read_text()) | {"status": "running", "rounds": 20}
    (run / "progress.json").write_text(json.dumps(told))
    text = "".join(page_of(run).text)
    assert "After 20 rounds so far: on 256 held-out prompts the composite reward rose" in text
    assert "The run ended" not in text


@pytest.mark.parametrize("n, change", [(19, ""), (20, "worse")])
def test_few_clips_carry_no_claim(n, change):
    row = {"low": -0.2, "high": -0.1, "n": n}
    assert run_folder.Run(summary={"held_out": {"diversity": row}}).change("diversity") == change


# --- run folders of strangers


def test_a_run_folder_of_a_stranger_puts_no_file_of_the_reader_on_the_page(run, tmp_path):
    """Neither by a name nor by a link, be it a text or a film."""
    secret, film = tmp_path / "id_rsa", tmp_path / "private.mp4"
    secret.write_text("PRIVATE KEY")
    write_clip(film, 9)
    (run / "clips" / "before" / "link.mp4").symlink_to(film)
    (run / "clips" / "before" / "key.mp4").write_text("PRIVATE KEY")
    held = [base64.b64encode(path.read_bytes()).decode() for path in (secret, film)]
    rows, credit = (
        json.loads((run / name).read_text()) for name in ("timelines.json", "credit.json")
    )
    for name in (
        str(secret),
        str(film),
        "../../../private.mp4",
        "link.mp4",
        "key.mp4",
        "a\0b",
        "x" * 5000,
        7,
        None,
        ".",
        f"file://{film}",
        f"concat:{film}",
    ):
        rows[0]["file"], credit[0]["file"] = name, name
        (run / "timelines.json").write_text(json.dumps(rows))
        (run / "credit.json").write_text(json.dumps(credit))
        text = run_report.write(run).read_text()
        assert not [one for one in held if one in text] and "clip missing" in text, name


def swapped(whole, at, new):
    """A copy with another value at a place."""
    found = part = copy.deepcopy(whole)
    for key in at[:-1]:
        part = part[key]
    old = part[at[-1]]
    part[at[-1]] = [new] if isinstance(old, list) else {new: new} if isinstance(old, dict) else new
    return found


def leaves(value, at=()):
    """The places of all values, of lists the last two."""
    listed = list(enumerate(value))[-2:] if isinstance(value, list) else ()
    inside = value.items() if isinstance(value, dict) else listed
    for key, one in inside:
        yield (*at, key)
        yield from leaves(one, (*at, key))


def test_no_field_of_a_run_folder_reaches_the_page_raw(run):
    """Each field in turn holds markup; a number that is none may raise, but nothing is
    shown as markup."""
    found, drawn = run_folder.read(run), 0
    dims = {"flicker": {"mean": 0.1, "low": 0.0, "high": 0.2, "n": 3}}
    bench = [
        {"round": i, "suite": "s", "n": 3, "dims": dims, "trained": ["flicker"], "why": "w"}
        for i in (1, 2)
    ]
    influence = {
        "parts": {"flicker": [[0.1] * 17] * 2},
        "segments": [[0, 1], [1, 17]],
        "steps": "s",
    }
    whole = {
        name: getattr(found, name)
        for name in ("config", "metrics", "evals", "events", "timelines", "credit", "summary")
    } | {"bench": bench, "influence": influence}
    for at in leaves(json.loads(json.dumps(whole))):
        try:
            text = page.page(replace(found, **swapped(whole, at, "<x-evil a='\">")))
        except Exception:  # noqa: BLE001
            continue
        drawn += 1
        assert "<x-evil" not in text, at
    assert drawn > 100
