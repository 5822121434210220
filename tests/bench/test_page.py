"""The page holds all it shows, escapes what it is given, is never large, and says no more
than the numbers do."""

import base64
import copy
import hashlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from _results import NAUGHTY, finish, made

from vidrl.bench.page import LARGEST, cases, facts, page, write
from vidrl.bench.page.cases import Case, examples, opened
from vidrl.bench.page.clips import link
from vidrl.bench.page.media import maps, media, spaced, thumbnails
from vidrl.bench.page.summary import axis
from vidrl.rewards import Samples, video
from vidrl.rewards.warp_error import WarpError
from vidrl.synthetic import world

PROTOCOL = {"fps": 0, "side": 0, "frames": 0, "decoder": "decord 0.6.0", "hash": "3f2a"}


class Parsed(HTMLParser):
    """The tags of a page with their attributes, its text, and what stands in scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self._script = [], "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self._script = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append(self._script)
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.text += data
        else:
            self._script += data


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    scene = world.scenes("train", n=1, seed=0)[0]
    return video.write(path, world.render(scene, size=48, frames=17, seed=0).video, fps=8.0)


def with_clips(results, clip):
    """The same results, every clip of them the one file."""
    for at, one in enumerate(results["sets"]):
        for i, row in enumerate(one["clips"]):
            row |= {"path": str(clip), "id": f"{at:04d}{i:012d}"}
    return results


def shown(results, **more):
    return page(results, Path("report.html"), more.get("media", {}))


# --- words ----------------------------------------------------------------------------


def test_the_headline_says_what_is_beyond_doubt():
    text = re.sub(r"\s+", " ", Parsed(shown(made(shift=0.1, dims=("flicker", "freeze")))).text)
    assert "24 clips of each of 2 sets, from 12 prompts, measured on 2 dimensions." in text
    assert "ours is better than base beyond doubt on 2 of 2: flicker and freeze." in text


def test_the_headline_claims_nothing_where_nothing_is():
    text = Parsed(shown(made(shift=0.0, seed=3))).text
    assert "no difference is beyond doubt on any of 4 dimensions" in text
    assert "better than" not in text.split("Every")[0]


def test_the_headline_tells_both_ways_and_what_is_open():
    results = made(shift=0.0, seed=3)
    for i, (a, b) in enumerate(zip(*(one["clips"] for one in results["sets"]))):
        b["value"]["flicker"] = a["value"]["flicker"] + 0.1 + 0.001 * i
        b["value"]["warp_error"] = a["value"]["warp_error"] - 0.1 - 0.001 * i
    text = re.sub(r"\s+", " ", Parsed(shown(finish(results))).text)
    assert (
        "ours is better than base beyond doubt on 1 of 4: flicker; and worse on 1 of 4: "
        "warp_error. On the other 2 "
        "the clips do not decide."
    ) in text


def test_few_clips_claim_nothing_however_small_p_is():
    results = made(count=10, shift=0.1)
    assert all(facts.verdict(results, row) == 0 for row in results["comparisons"])
    text = Parsed(shown(results)).text
    assert "Fewer than 20 scored clips" in text and "n = 10 is few" in text


def test_real_statistics_and_their_notes_are_shown():
    """Rows as vidrl.bench.statistics makes them, of clips of one prompt."""
    from vidrl.bench.statistics import summary

    results = made(names=("only",), dims=("flicker",), prompts=["one"])
    values = [clip["value"]["flicker"] for clip in results["sets"][0]["clips"]]
    row = results["summary"]["only"]["flicker"] = summary(values, ["one"] * len(values))
    text = Parsed(shown(results)).text
    assert not row["enough"] and "one prompt" in text and row["notes"][0] in text
    assert facts.mean(results, "only", "flicker")[1] in text and "std within a prompt" in text


def test_marks_for_trained_saturated_unscored_and_skipped():
    results = made(trained=("flicker",))
    results["sets"][0]["clips"][0]["value"]["warp_error"] = None
    results["sets"][0]["clips"][0]["why"]["warp_error"] = "unscored: the generator diverged"
    results["sets"][1]["skipped"] = [
        {"path": "b/broken.mp4", "why": "unreadable: moov atom not found"}
    ]
    finish(results)
    results["summary"]["base"]["motion_consistency"]["saturated"] = True
    text = Parsed(shown(results)).text
    for words in (
        "† flicker was trained on",
        "Saturated: motion_consistency",
        "1 unscored",
        "moov atom not found",
        "unscored: the generator diverged",
        "b/broken.mp4",
        "1 of 24: videos_base/0.mp4",
    ):
        assert words in text, words


def test_a_dimension_without_meaning_for_a_clip_is_listed_apart_and_is_no_loss():
    results = made()
    for number, why in enumerate(
        ("unscored: the generator diverged", "inapplicable: the prompt asks for no path")
    ):
        results["sets"][0]["clips"][number]["value"]["warp_error"] = None
        results["sets"][0]["clips"][number]["why"]["warp_error"] = why
    finish(results)
    text = Parsed(shown(results)).text
    assert "1 value of clips could not be scored" in text
    lost, outside = (
        text.index("Values that could not be scored"),
        text.index("Values that have no meaning"),
    )
    assert lost < text.index("diverged", lost) < outside < text.index("asks for no path", outside)


def test_one_set_has_no_differences_and_three_have_two_tables():
    one, three = shown(made(names=("only",))), shown(made(names=("a", "b", "c")))
    assert 'id="differences"' not in one and 'id="summary"' in one
    assert three.count('class="compare"') == 2


def test_all_that_it_takes_to_measure_again_is_there():
    results = made()
    results["notes"] = ["duplicate prompts that differ by case: A cat"]
    results["totals"] = {
        "base": {"quality": 0.8125, "semantic": None, "total": None, "missing": ["color"]}
    }
    results["distances"] = [
        {
            "name": "frechet",
            "first": "base",
            "second": "reference",
            "value": 1.25,
            "low": 0.9,
            "high": 1.1,
            "n": [64, 64],
            "unbiased": 0.9,
            "protocol": "dd44",
            "notes": [],
        }
    ]
    text = Parsed(shown(results)).text
    for words in (
        results["command"],
        "3f2a3f2a3f2a",
        "torch 2.6",
        "What flicker sees.",
        "ab12cd34ef56",
        "0.812",
        "color",
        "frechet",
        "1.25",
        "dd44",
        "differ by case",
    ):
        assert words in text, words


def test_the_page_is_the_same_for_the_same_results():
    assert shown(made()) == shown(json.loads(json.dumps(made())))


# --- escaping and self-containment ----------------------------------------------------


def naughty():
    results = made(
        names=tuple(NAUGHTY[:2]),
        count=len(NAUGHTY),
        prompts=NAUGHTY,
        dims=("flicker", "warp_error"),
    )
    for one in results["sets"]:
        one["source"] = NAUGHTY[3]
        one["skipped"] = [{"path": word, "why": word} for word in NAUGHTY]
        for clip, word in zip(one["clips"], NAUGHTY):
            clip["path"] = f"videos/{word}.mp4"
        one["clips"][0]["value"]["warp_error"] = None
        one["clips"][0]["why"]["warp_error"] = NAUGHTY[0]
    finish(results)
    results |= {"notes": NAUGHTY, "command": " ".join(NAUGHTY)}
    for row in results["comparisons"]:
        row["notes"], row["paired_by"] = NAUGHTY[:2], NAUGHTY[1]
    results["dims"][0] |= {
        "about": NAUGHTY[0],
        "blind": NAUGHTY[1],
        "options": {NAUGHTY[0]: NAUGHTY[1]},
    }
    results["suite"] |= {"name": NAUGHTY[0], "about": NAUGHTY[1]}
    results["protocol"] |= {"decoder": NAUGHTY[0], "hash": NAUGHTY[1]}
    results["versions"] = {NAUGHTY[0]: NAUGHTY[1]}
    results["totals"] = {NAUGHTY[0]: {"quality": 0.5, "missing": [NAUGHTY[0]]}}
    return results


def test_no_string_becomes_markup():
    plain, found = Parsed(shown(made())), Parsed(shown(naughty()))
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags} | {"ul", "li", "ol"}
    assert [about.get("type") for tag, about in found.tags if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [name for _, about in found.tags for name in about if name.startswith("on")]
    assert not [
        tag
        for tag, about in found.tags
        if tag == "a" and not re.match(r"#|\./|\.\./", about["href"])
    ]
    for word in NAUGHTY:
        assert word in found.text.replace("\n", " ") or " ".join(word.split()) in " ".join(
            found.text.split()
        ), word


def test_the_data_comes_back_as_it_went_in_and_ends_no_element():
    results = naughty()
    text = shown(results)
    data, script = Parsed(text).scripts
    assert "<" not in data and {row["prompt"] for row in json.loads(data)["cases"]} == set(NAUGHTY)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text.replace("&#39;", "'")


def test_nothing_comes_from_elsewhere(clip):
    results = with_clips(made(count=4), clip)
    text = shown(results, media=media(results))
    addresses = [
        value
        for _, about in Parsed(text).tags
        for name, value in about.items()
        if name in ("src", "href", "poster", "srcset", "action", "data")
    ]
    assert addresses and all(
        re.match(r"data:(video/mp4|image/jpeg);base64,|#|\./|\.\./", value) for value in addresses
    )
    assert not re.search(r"@import|url\(|<link|<iframe|<object|<embed", text)
    outside = set(re.findall(r"https?://[^\s\"'<>`]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    policy = text.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src &#39;none&#39;") and "http" not in policy


def test_links_lead_to_files_only():
    out = Path("runs/x/report.html")
    for path in (
        *NAUGHTY,
        "https://evil.example/a.mp4",
        "//evil.example/a.mp4",
        "data:text/html,x",
    ):
        assert re.match(r"(\./|\.\./)", link(path, out)) and ":" not in link(path, out), path


def test_the_page_without_scripts_plays_the_first_clips(clip):
    """Those of the open fold hold their film; the curves of the first case are drawn."""
    results = with_clips(made(count=4), clip)
    text = shown(results, media=media(results))
    fold = re.search(
        r'<details class="fold" name="dimension" open>(.*?)</details>', text, re.S
    ).group(1)
    films = [about for tag, about in Parsed(fold).tags if tag == "video"]
    assert len(films) == 4 and all(about["src"].startswith("data:video/mp4") for about in films)
    assert text.count('<details class="fold"') == 4
    looked = text.split('id="looked"')[1].split("</section>")[0]
    assert looked.count('class="plot"') == 4 and looked.count('class="frames"') == 8


# --- media ----------------------------------------------------------------------------


def test_thumbnails_are_small_films_of_the_clip(clip):
    import av

    found = thumbnails(clip, PROTOCOL)
    assert found["at"] == spaced(17) and len(found["film"]) == 8 and found["covers"] == 1.0
    with av.open(io.BytesIO(base64.b64decode(found["video"]))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == 8.0
    whole = video.read(clip)[0].permute(0, 2, 3, 1).numpy()
    assert len(frames) == 17 and np.abs(np.stack(frames).astype(float) - whole).mean() < 6


def test_thumbnails_follow_the_protocol(clip):
    assert thumbnails(clip, PROTOCOL | {"fps": 4.0})["at"] == spaced(9)
    assert thumbnails(clip, PROTOCOL | {"frames": 5})["at"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fps", [8.0, 24.0])
def test_maps_of_some_frames_are_those_of_the_whole_clip(fps):
    scene = world.scenes("train", n=1, seed=2)[0]
    frames = world.render(scene, size=48, frames=13, seed=0).video
    whole = WarpError()(Samples(frames[None], [""], fps), maps=True).maps
    found = maps(dict(enumerate(frames)), [0, 4, 11, 12], 13, fps)
    assert set(found["flow"]) == ({0, 4, 11} if fps == 8.0 else {0, 4})
    for name, by_frame in found.items():
        for t, drawn in by_frame.items():
            torch.testing.assert_close(drawn, whole[name][0, t])


def test_a_long_clip_plays_its_first_seconds_and_shows_frames_of_all(tmp_path):
    path = video.write(tmp_path / "long.mp4", torch.rand(300, 3, 16, 16), fps=24.0)
    found = thumbnails(path, PROTOCOL)
    assert (
        found["covers"] == pytest.approx(240 / 300)
        and found["at"][-1] == 281
        and len(found["film"]) == 8
    )


def test_an_image_is_shown_as_one(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 30, 3), 200, np.uint8))
    assert set(thumbnails(tmp_path / "a.png", PROTOCOL)) == {"image"}


def test_odd_sides_and_single_pixels_become_films(tmp_path):
    path = video.write(tmp_path / "odd.mkv", torch.rand(3, 3, 17, 33), fps=8.0, lossless=True)
    assert thumbnails(path, PROTOCOL)["video"]


def test_a_clip_that_is_gone_is_told_and_linked():
    results = made(count=4)
    found = media(results)
    assert all("found none at" in one["why"] for one in found.values())
    text = shown(results, media=found)
    assert "found none at" in text and 'href="./videos_base/' in text


def test_only_shown_clips_are_read_and_what_was_made_is_kept(clip, tmp_path, monkeypatch):
    results = with_clips(made(count=20), clip)
    read = []
    module = sys.modules["vidrl.bench.page.media"]  # the package's `media` is its function
    original = module.thumbnails
    monkeypatch.setattr(module, "thumbnails", lambda *args: read.append(args) or original(*args))
    first = media(results, tmp_path, limit=6)
    assert len(read) == len(first) == 6
    assert media(results, tmp_path, limit=6) == first and len(read) == 6
    for kept in list(tmp_path.iterdir())[:2]:
        kept.write_text("{")  # as a full disk leaves it
    assert media(results, tmp_path, limit=6) == first and len(read) == 8


def test_clips_of_other_processes_are_the_same(clip, monkeypatch):
    module = sys.modules["vidrl.bench.page.media"]
    monkeypatch.setattr(module, "MANY", 2)
    results = with_clips(made(count=20), clip)
    results["sets"][0]["clips"][0]["path"] = "gone.mp4"
    assert media(results, limit=4, jobs=2) == media(results, limit=4)


def test_bytes_are_spent_on_the_first_and_the_rest_is_left_to_files(clip):
    results = with_clips(made(count=20), clip)
    found = media(results, limit=6, budget=60_000)
    kinds = ["video" in one for one in found.values()]
    assert kinds[0] and not kinds[-1] and kinds == sorted(kinds, reverse=True)


# --- what clips were made from --------------------------------------------------------


def with_references(results, path):
    for one in results["sets"]:
        for row in one["clips"]:
            row["reference"] = str(path)
    return results


def pictures(text):
    """The pictures that clips were made from, decoded, and the words on each, in the order
    of the page."""
    import cv2

    figures = re.findall(r'<figure class="given">(.*?)</figure>', text, re.S)
    coded = [re.findall(r'src="data:image/jpeg;base64,([^"]+)"', one) for one in figures]
    made = [
        cv2.imdecode(np.frombuffer(base64.b64decode(one[0]), np.uint8), 1) if one else None
        for one in coded
    ]
    return made, [Parsed(one).text for one in figures]


def test_the_picture_that_clips_were_made_from_is_small_and_once_a_card(clip, tmp_path):
    import cv2

    picture = tmp_path / "<b>cat & dog.png"
    cv2.imwrite(str(picture), np.full((300, 800, 3), (200, 100, 50), np.uint8))
    results = with_references(with_clips(made(count=4, dims=("flicker",)), clip), picture)
    text = shown(results, media=media(results))
    found, words = pictures(text)
    # each card has it once for both sets, and the clip looked at
    assert len(found) == text.count("<article") + 1 == 3
    assert words == ["given <b>cat & dog.png"] * 3 and "<b>cat" not in text
    for one in found:
        assert one.shape == (60, 160, 3) and np.abs(one.astype(int) - (200, 100, 50)).max() <= 3
    cases = json.loads(Parsed(text).scripts[0])["cases"]
    name = "<b>cat & dog.png"  # two of the four cases are shown
    assert (
        sorted(row["given"][0][1] for row in cases)
        == [name] * 2 + [f"{name}: not kept on this page"] * 2
    )


def test_a_film_that_clips_were_made_from_is_shown_by_its_first_frame(clip):
    results = with_references(with_clips(made(count=2, dims=("flicker",)), clip), clip)
    (one, *_), (words, *_) = pictures(shown(results, media=media(results)))
    first = video.read(clip)[0][0].permute(1, 2, 0).numpy()[..., ::-1].astype(float)
    assert one.shape == first.shape and np.abs(one - first).mean() < 6 and words == "given clip.mp4"


def test_pictures_of_two_sets_that_differ_are_both_shown(clip, tmp_path):
    import cv2

    results = with_clips(made(count=2, dims=("flicker",)), clip)
    for at, one in enumerate(results["sets"]):
        cv2.imwrite(str(tmp_path / f"{at}.png"), np.full((9, 7, 3), 100 * at + 50, np.uint8))
        for row in one["clips"]:
            row["reference"] = str(tmp_path / f"{at}.png")
    _, words = pictures(shown(results, media=media(results)))
    assert words[:2] == ["given 0.png", "given 1.png"]
    for row in (row for one in results["sets"] for row in one["clips"]):
        row["reference_id"] = "ab12"  # the same bytes in two places are one picture
    assert pictures(shown(results, media=media(results)))[1][:2] == ["given 0.png"] * 2


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda path: path.unlink(), "expected an image, found none at"),
        (lambda path: path.write_bytes(b"no picture"), "expected an image, could not read"),
    ],
)
def test_a_picture_that_cannot_be_read_is_told_in_words(clip, tmp_path, spoil, why):
    (tmp_path / "cat.png").touch()
    spoil(tmp_path / "cat.png")
    results = with_references(
        with_clips(made(count=2, dims=("flicker",)), clip), tmp_path / "cat.png"
    )
    found, words = pictures(shown(results, media=media(results)))
    assert found == [None] * len(words) and all(
        one.startswith(f"given cat.png: {why}") for one in words
    )


def test_a_clip_of_text_alone_has_no_picture_and_one_that_is_left_out_has_words(clip, tmp_path):
    results = with_clips(made(count=2, dims=("flicker",)), clip)
    assert pictures(shown(results, media=media(results))) == ([], [])
    with_references(results, tmp_path / "cat.png")
    assert set(pictures(shown(results))[1]) == {"given cat.png: not kept on this page"}


# --- size -----------------------------------------------------------------------------


def test_the_page_stays_below_its_size_however_much_there_is(tmp_path, monkeypatch):
    """Long prompts, long curves, thousands of skipped files and films of megabytes."""
    results = made(count=150, frames=400, prompts=["long " * 2000 + str(i) for i in range(150)])
    for one in results["sets"]:
        one["skipped"] = [
            {"path": f"{i}.mp4", "why": "unreadable: " + "x" * 400} for i in range(5000)
        ]
    import vidrl.bench.page as package

    big = {"video": "A" * 1_100_000, "film": [], "at": [], "maps": {}, "covers": 1.0}
    monkeypatch.setattr(
        package, "_shown", lambda *_, **__: {f"{i % 2}.{i // 2}": big for i in range(40)}
    )
    path = write(results, tmp_path)
    assert path.name == "report.html" and 10_000_000 < path.stat().st_size < LARGEST
    data = json.loads(Parsed(path.read_text(encoding="utf-8")).scripts[0])
    assert 0 < len(data["cases"]) < 150
    assert f"The curves of {len(data['cases'])} of 150 cases are on this page" in path.read_text(
        encoding="utf-8"
    )


def test_a_page_that_cannot_be_small_says_so(tmp_path, monkeypatch):
    import vidrl.bench.page as package

    monkeypatch.setattr(package, "LARGEST", 1000)
    with pytest.raises(ValueError, match="expected a page below 1000 bytes"):
        write(made(count=2), tmp_path)


# --- which clips ----------------------------------------------------------------------


def test_cases_pair_by_prompt_and_seed_whatever_the_order():
    results = made(count=6)
    results["sets"][1]["clips"].reverse()
    assert [case.clips for case in cases(results)] == [{0: i, 1: 5 - i} for i in range(6)]


def test_cases_without_prompts_pair_by_file_name_and_what_has_no_partner_stands_alone():
    results = made(count=3)
    for one in results["sets"]:
        for clip in one["clips"]:
            clip["prompt"] = ""
    results["sets"][1]["clips"][2]["path"] = "videos_ours/other.mp4"
    assert [dict(case.clips) for case in cases(results)] == [
        {0: 0, 1: 0},
        {0: 1, 1: 1},
        {0: 2},
        {1: 2},
    ]


def test_examples_are_the_ends():
    results = made(count=6, dims=("flicker",))
    first, second = ([clip["value"]["flicker"] for clip in one["clips"]] for one in results["sets"])
    gaps = [b - a for a, b in zip(first, second)]
    best, worst = examples(results, cases(results))["flicker"]
    assert best.case.clips[0] == gaps.index(max(gaps)) and worst.case.clips[0] == gaps.index(
        min(gaps)
    )
    one = made(names=("only",), count=6, dims=("flicker",))
    values = [clip["value"]["flicker"] for clip in one["sets"][0]["clips"]]
    ranked = [example.case.clips[0] for example in examples(one, cases(one))["flicker"]]
    assert ranked == [*np.argsort(values)[:2], *np.argsort(values)[:-3:-1]]


def test_a_dimension_without_values_has_no_examples_and_the_surest_is_open():
    results = made(count=24, shift=0.0, seed=3)
    for i, (a, b) in enumerate(zip(*(one["clips"] for one in results["sets"]))):
        a["value"]["flicker"] = b["value"]["flicker"] = None
        b["value"]["motion_consistency"] = a["value"]["motion_consistency"] + 0.1 + 0.001 * i
    finish(results)
    found = examples(results, cases(results))
    assert "flicker" not in found and opened(results, found) == "motion_consistency"


def test_one_clip_alone_is_enough_for_a_page():
    results = made(names=("only",), count=1, frames=1)
    for clip in results["sets"][0]["clips"]:
        clip["curve"] = {"flicker": None}
    text = Parsed(shown(results)).text
    assert (
        "1 clip, from 1 prompt, measured on 4 dimensions" in text and "One number a clip." in text
    )


def test_a_case_names_its_clips():
    assert Case("a cat", {0: 3, 1: 5}).keys == ["0.3", "1.5"]


def test_an_axis_is_not_squashed_by_one_clip():
    assert axis([*np.linspace(0, 1, 20), 1000.0])[1] < 4


def test_results_are_only_read():
    results = made()
    before = copy.deepcopy(results)
    shown(results)
    assert results == before


# --- by kind --------------------------------------------------------------------------


def test_dims_by_kind_of_prompt_are_tables_and_their_words_are_escaped(tmp_path):
    results = made()
    assert 'id="kinds"' not in page(results, tmp_path / "report.html", {})
    over = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 7}
    results["breakdown"] = {"base": {"kind": {"<b>left": {results["dims"][0]["name"]: over}}}}
    text = page(results, tmp_path / "report.html", {})
    assert "&lt;b&gt;left" in text and "<b>left" not in text
    assert (
        '<td title="0.25 to 0.75">0.5 <small>(7)</small></td>' in text and 'href="#kinds"' in text
    )


def test_the_table_of_effect_sizes_has_a_cell_for_each_column():
    results = made(shift=0.1, dims=("flicker",))
    results["comparisons"][0].update(win_rate=0.75, win_low=0.5, win_high=0.9)
    results["comparisons"][0].update(all_low=0.08, all_high=0.12, spread=0.05, groups=12)
    table = shown(results).split('<table class="sizes">')[1].split("</table>")[0]
    assert table.count("<th ") == table.count("<td>") == 12
    for cell in ("0.08 to 0.12", "75 % (50 to 90)", "about "):
        assert cell in table
