"""results.json of a stranger, or edited by hand: it opens no file of the reader, writes
where it is told, and is named where a field holds something else than what belongs
there."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from _results import made

from vidrl import cli
from vidrl.bench import cache, export, results, schema, untrusted_clips
from vidrl.bench.page import page
from vidrl.rewards import video

EVIL = "<x-evil a='\">"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return video.write(
        tmp_path_factory.mktemp("film") / "film.mp4", torch.rand(5, 3, 32, 32), fps=8.0
    )


def stranger(path, clip, name, id=None):
    """results.json of one set of one clip at `name`, whose id is that of `clip` if none is
    given."""
    found = made(names=("only",), count=1, dims=("flicker",))
    found["sets"][0]["clips"][0] |= {
        "path": str(name),
        "id": id or cache.Hashes(None).of(clip),
        "prompt": "a dog",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def films(folder):
    """How many films a page holds: those that play at once, and those that its script
    plays."""
    text = (folder / "report.html").read_text()
    return text.count("data:video/mp4") + text.count('"video":"')


def again(saved, out, *words):
    assert cli.main(["bench", str(saved), "--out", str(out), "--jobs", "0", *words]) == 0
    return films(out)


# --- clips ----------------------------------------------------------------------------


def places(private, home):
    """Ways to name a film outside of the folder of the results file."""
    (home / "link.mp4").symlink_to(private)
    (home / "inner").symlink_to(private.parent)
    up = os.path.relpath(private, home)
    return [
        str(private),
        os.path.relpath(private),
        f"{home}/{up}",
        f"{home}/link.mp4",
        f"{home}/inner/{private.name}",
        f"file://{private}",
        f"file:{private}",
        f"concat:{private}",
        f"http://127.0.0.1:9/{private.name}",
        r"C:\Users\me\film.mp4",
        r"\\127.0.0.1\share\film.mp4",
        "data:video/webm;base64,AA",
        "/dev/zero",
        ".",
        "~",
    ]


def test_a_film_outside_the_folder_of_the_results_is_not_on_the_page(film, tmp_path, capsys):
    private, home = shutil.copy(film, tmp_path / "private.mp4"), tmp_path / "in"
    home.mkdir()
    for number, name in enumerate(places(Path(private), home)):
        saved = stranger(home / "results.json", film, name)
        assert again(saved, tmp_path / f"out{number}") == 0, name
        assert "name its folder with --clips" in capsys.readouterr().err, name


def test_a_film_in_the_folder_of_the_results_or_in_a_named_one_is_on_the_page(film, tmp_path):
    inside, beside = tmp_path / "in" / "clips" / "a.mp4", tmp_path / "beside" / "a.mp4"
    for place in (inside, beside):
        place.parent.mkdir(parents=True)
        shutil.copy(film, place)
    assert again(stranger(tmp_path / "in" / "results.json", film, inside), tmp_path / "one") > 0
    saved = stranger(tmp_path / "in" / "results.json", film, beside)
    assert again(saved, tmp_path / "two") == 0
    assert again(saved, tmp_path / "three", "--clips", str(beside.parent)) > 0


def test_a_film_whose_bytes_the_results_do_not_know_is_not_on_the_page(film, tmp_path):
    shutil.copy(film, tmp_path / "a.mp4")
    assert (
        again(
            stranger(tmp_path / "results.json", film, tmp_path / "a.mp4", "0" * 16),
            tmp_path / "out",
        )
        == 0
    )


def test_what_this_machine_measured_is_shown_again_wherever_it_lies(film, tmp_path):
    clip = tmp_path / "videos" / "a.mp4"
    clip.parent.mkdir()
    shutil.copy(film, clip)
    os.utime(clip, (1e9, 1e9))
    known = cache.Hashes(tmp_path / "o" / "cache")
    known.new = {str(clip): [known.of(clip), *cache.file_stamp(clip)]}  # as after two seconds
    known.save()
    assert again(stranger(tmp_path / "o" / "results.json", film, clip), tmp_path / "again") > 0
    clip.write_bytes(clip.read_bytes() + b"\0")
    assert again(tmp_path / "o" / "results.json", tmp_path / "changed") == 0


def test_what_a_clip_was_made_from_is_opened_by_the_same_rules(film, tmp_path):
    """A picture in another folder, one whose bytes are not stated, one of other bytes, one
    that is gone; and one that lies beside the results, with the hash that they state."""
    import cv2
    import numpy as np

    home, private = tmp_path / "home", tmp_path / "private.png"
    saved = stranger(
        home / "results.json", film, shutil.copy(film, home.mkdir() or home / "clip.mp4")
    )
    for path in (private, home / "mine.png"):
        cv2.imwrite(str(path), np.full((8, 8, 3), 90, np.uint8))
    hashed = cache.Hashes(None).of(private)

    def told(path, id):
        found = json.loads(saved.read_text())
        found["sets"][0]["clips"][0] |= {
            "reference": str(path),
            "reference_id": id,
            "reference_closed": "",
        }
        saved.write_text(json.dumps(found))
        assert again(saved, tmp_path / "out")
        text = (tmp_path / "out" / "report.html").read_text()
        return text.count("the image that was given"), text

    assert told(home / "mine.png", hashed)[0] > 1
    cases = [
        (private, hashed, untrusted_clips.OUTSIDE),
        (home / "mine.png", None, untrusted_clips.UNSTATED),
        (home / "mine.png", "ab" * 8, untrusted_clips.CHANGED),
        (home / "gone.png", hashed, untrusted_clips.GONE),
    ]
    for path, id, why in cases:
        count, text = told(path, id)
        assert count == 1 and f"given {path.name}: {why}" in text, why  # 1: the page's script


def test_a_clip_that_is_not_opened_is_not_encoded_either(film, tmp_path):
    from vidrl.bench.features import _encoded, _sources

    found = results.load(stranger(tmp_path / "in" / "results.json", film, film))
    found["sets"].append({**found["sets"][0], "name": "other"})
    encode = type(
        "",
        (),
        {
            "kept": lambda self, key: None,
            "__call__": lambda self, task: pytest.fail("it is opened"),
        },
    )
    keys = {cache.Hashes(None).of(film): "k"}
    assert _encoded(_sources(found, None, None), keys, encode(), None, 0, 1, None) == {
        "k": untrusted_clips.OUTSIDE
    }


# --- what is written where ------------------------------------------------------------


@pytest.mark.parametrize(
    "hash", ["x/../../../escaped", "../up", "/abs", "a\0b", r"..\..\up", "ABCDEF", "", 7, None]
)
def test_a_protocol_hash_that_is_no_hash_is_refused(film, tmp_path, hash):
    saved = stranger(tmp_path / "in" / "results.json", film, film)
    found = json.loads(saved.read_text())
    found["protocol"]["hash"] = hash
    saved.write_text(json.dumps(found))
    with pytest.raises(
        results.BadResults, match="protocol.hash: expected 4 to 64 hexadecimal digits"
    ):
        results.load(saved)


def test_no_text_of_the_results_becomes_part_of_a_path(film, tmp_path):
    (tmp_path / "r" / "clips").mkdir(parents=True)
    clip = shutil.copy(film, tmp_path / "r" / "clips" / "a.mp4")
    saved = stranger(tmp_path / "r" / "results.json", film, clip)
    found = json.loads(saved.read_text())
    hostile = "../../../../escaped"
    found["sets"][0] |= {"name": hostile, "source": hostile}
    found["dims"][0] |= {"hash": hostile, "reward": "vbench_subject_consistency"}
    found["suite"] |= {"name": hostile, "version": hostile}
    saved.write_text(json.dumps(found))
    before = set(tmp_path.rglob("*"))
    assert (
        again(saved, tmp_path / "deep" / "er" / "out", "--format", "html,csv,md,latex,leaderboard")
        > 0
    )
    made_now = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "deep") for path in made_now), made_now
    assert not [path for path in made_now if "escaped" in path.name and path.suffix != ".json"]


# --- fields ---------------------------------------------------------------------------


def leaves(value, at=()):
    """The places of all values of a JSON value, of lists the first two."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:2])
        if isinstance(value, list)
        else ()
    )
    for key, one in inside:
        yield (*at, key)
        yield from leaves(one, (*at, key))


def swapped(whole, at, new):
    """A copy with another value at a place, within a list or an object where there was
    one."""
    found = part = copy.deepcopy(whole)
    for key in at[:-1]:
        part = part[key]
    old = part[at[-1]]
    part[at[-1]] = (
        [new] if isinstance(old, list) else {str(new): new} if isinstance(old, dict) else new
    )
    return found


def everything():
    """Results that have every field that a page shows, and what is shown of their clips."""
    found = made(count=4, names=("a", "b"), dims=("flicker",), frames=3)
    for clip in found["sets"][0]["clips"]:
        clip |= {
            "written": {"container": "mp4", "codec": "h264", "pixels": "yuv420p", "bits": 1.0},
            "reader": "PyAV",
            "meta": {"kind": "left"},
            "why": {"flicker": "w"},
            "note": "n",
        }
    found["sets"][0]["clips"][1]["value"]["flicker"] = None
    found["sets"][0]["skipped"] = [{"path": "p", "why": "w"}]
    found |= {
        "notes": ["n"],
        "fairness": ["f"],
        "totals": {"a": {"quality": 0.5, "missing": ["x"]}},
    }
    found["breakdown"] = {
        "a": {"kind": {"left": {"flicker": {"mean": 0.1, "low": 0.0, "high": 0.2, "n": 3}}}}
    }
    found["distances"] = [
        {
            "name": "frechet",
            "first": "a",
            "second": "b",
            "value": 1.2,
            "low": 1.0,
            "high": 2.0,
            "n": [3, 4],
            "unbiased": 1.0,
            "protocol": "dd",
            "notes": ["q"],
        }
    ]
    film = {"video": "AAAA", "film": ["AA"], "at": [1], "covers": 0.5, "maps": {"flow": ["AA"]}}
    return {
        "results": found,
        "media": {f"{at}.{i}": dict(film) for at in range(2) for i in range(4)},
    }


def test_no_field_of_results_reaches_a_page_or_a_table_raw():
    """Each field in turn holds markup; a number that is none may raise, but nothing is
    shown as markup."""
    whole, drawn = everything(), 0
    for at in leaves(whole):
        one = swapped(whole, at, EVIL)
        for draw in (lambda r, m: page(r, Path("report.html"), m), lambda r, m: export.markdown(r)):
            try:
                text = draw(one["results"], one["media"])
            except Exception:  # noqa: BLE001  of numbers that are none: `load` refuses them by name, see below
                continue
            drawn += 1
            assert "<x-evil" not in text, at
    assert drawn > 100


@pytest.mark.parametrize("new", [EVIL, 1e300 * 10, -3, True, None, [[1]], {"a": {}}, 0.5])
def test_a_field_of_another_type_is_shown_as_it_is_or_named(tmp_path, new):
    """load and merge raise BadResults or ValueError alone, whatever stands in any field."""
    whole = everything()["results"]
    whole["sets"] = whole["sets"][:1]
    for at in leaves({key: whole[key] for key in ("format", *results.KEYS, "notes", "fairness")}):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(swapped(whole, at, new)))
        try:
            found = results.merge([results.load(path)])
        except ValueError as error:
            assert str(path) in str(error) or "expected" in str(error), at
            continue
        assert "<x-evil" not in page(found, Path("report.html"), {})


def test_a_field_of_the_wrong_type_is_named_with_what_was_expected(tmp_path):
    found = made(names=("only",), count=2, dims=("flicker",))
    found["sets"][0]["clips"][1]["size"] = [64, EVIL]
    (tmp_path / "results.json").write_text(json.dumps(found))
    with pytest.raises(
        results.BadResults, match=r"sets\[0\].clips\[1\].size: expected a width and a height, got"
    ):
        results.load(tmp_path)


@pytest.mark.parametrize(
    "text, why",
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": NaN}', "got NaN"),
        ('{"a": 1e999}', "got 1e999"),
        ('{"a": -Infinity}', "got -Infinity"),
        (f'{{"a": {"9" * 5000}}}', "finite numbers"),
    ],
)
def test_json_that_no_writer_of_results_makes_is_refused_with_a_reason(tmp_path, text, why):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(results.BadResults, match=why):
        results.load(tmp_path)


def test_a_file_too_large_to_be_results_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "results.json", "wb") as file:
        file.truncate(results.MAX_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(results.BadResults, match="more than 2,147,483,648"):
        results.load(tmp_path)


def test_what_the_sets_do_not_say_is_not_taken_from_the_file(tmp_path):
    found = everything()["results"]
    found["sets"] = found["sets"][1:]
    found |= dict.fromkeys(
        ("summary", "comparisons", "fairness", "totals", "breakdown", "distances"), EVIL
    )
    (tmp_path / "results.json").write_text(json.dumps(found))
    assert EVIL not in json.dumps(results.merge([results.load(tmp_path)]))


def test_a_row_of_the_cache_with_a_field_of_another_type_is_measured_again(tmp_path):
    kept = cache.Cache(tmp_path)
    row = dict.fromkeys(cache.FIELDS - {"format", "key"})
    kept.put("ab" * 16, row | {"fps": 8.0, "size": [64, 64], "frames": 5, "value": 0.5})
    assert kept.get("ab" * 16)["value"] == 0.5 and not kept.corrupt
    for wrong in ({"fps": EVIL}, {"value": [1]}, {"why": 7}, {"curve": [EVIL]}, {"size": [1]}):
        kept.put("ab" * 16, row | wrong)
        assert kept.get("ab" * 16) is None, wrong
    assert len(kept.corrupt) == 5


def test_schema_reads_what_bench_itself_writes():
    schema.RESULTS(everything()["results"], "")
