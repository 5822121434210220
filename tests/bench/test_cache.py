"""Nothing is measured twice, nothing that is measured is lost, and nothing stale is
believed."""

import json
import multiprocessing
import os
import time

import pytest
from _clips import write

from vidrl.bench import cache
from vidrl.bench.cache import Cache, Hashes, key

ROW = {
    "dim": "flicker",
    "fps": 8.0,
    "size": [4, 4],
    "frames": 2,
    "reader": "decord",
    "note": None,
    "written": {},
    "value": -0.5,
    "curve": [-0.5, None],
    "why": None,
}


def test_what_is_put_is_got_and_nothing_else(tmp_path):
    kept = Cache(tmp_path)
    kept.put("ab" * 16, ROW)
    assert (
        kept.get("ab" * 16) == {"format": 1, "key": "ab" * 16, **ROW}
        and kept.get("cd" * 16) is None
    )
    # no part is left
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ab" * 16 + ".json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[1]",
        lambda text: text.replace("ab", "cd"),
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda text: "{}",
        lambda text: "\x00" * 30,
    ],
)
def test_a_corrupt_file_is_no_row_and_is_told(tmp_path, spoil):
    kept = Cache(tmp_path)
    kept.put("ab" * 16, ROW)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(spoil(path.read_text()))
    assert kept.get("ab" * 16) is None and kept.corrupt == [path]
    kept.put("ab" * 16, ROW)
    assert kept.get("ab" * 16)["value"] == -0.5


def test_a_key_names_all_that_numbers_depend_on(monkeypatch):
    one = key("clip", "dim", "protocol", prompt="a", device="cpu")
    others = [
        key("Clip", "dim", "protocol", prompt="a", device="cpu"),
        key("clip", "Dim", "protocol", prompt="a", device="cpu"),
        key("clip", "dim", "Protocol", prompt="a", device="cpu"),
        key("clip", "dim", "protocol", prompt="A", device="cpu"),
        key("clip", "dim", "protocol", prompt="a", device="cuda"),
    ]
    monkeypatch.setattr(cache, "code_version", lambda: "another version")
    others.append(key("clip", "dim", "protocol", prompt="a", device="cpu"))
    assert len({one, *others}) == 7


def fill(folder, mine):
    kept = Cache(folder)
    for i in range(60):
        kept.put(f"{i:032x}", ROW | {"frames": i})  # all write the same rows
        kept.put(f"{1000 * (mine + 1) + i:032x}", ROW)  # and their own


def test_several_processes_write_at_once_and_lose_nothing(tmp_path):
    several = [
        multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path, mine))
        for mine in range(3)
    ]
    for one in several:
        one.start()
    for one in several:
        one.join()
    kept = Cache(tmp_path)
    assert [kept.get(f"{i:032x}")["frames"] for i in range(60)] == list(range(60))
    assert (
        all(kept.get(f"{1000 * m + i:032x}") for m in (1, 2, 3) for i in range(60))
        and kept.corrupt == []
    )
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 60 + 3 * 60


# --- hashes ---------------------------------------------------------------------------


def old(path):
    long_ago = time.time() - 60
    os.utime(path, (long_ago, long_ago))
    return path


def hashed(folder, path, monkeypatch, later=60.0):
    """The hash of a file by a new process, `later` seconds from now, and whether it read
    the file."""
    read, real = [], cache.hashlib.file_digest
    monkeypatch.setattr(cache.hashlib, "file_digest", lambda *a: read.append(1) or real(*a))
    monkeypatch.setattr(cache.time, "time", lambda now=time.time: now() + later)
    hashes = Hashes(folder)
    found = hashes.of(path)
    hashes.save()
    monkeypatch.undo()
    return found, bool(read)


def test_an_unchanged_file_is_read_once(tmp_path, monkeypatch):
    path = old(write(tmp_path / "v" / "a.mkv"))
    first, read = hashed(tmp_path / "c", path, monkeypatch)
    assert read and len(first) == 16
    assert hashed(tmp_path / "c", path, monkeypatch) == (first, False)
    path.write_bytes(path.read_bytes() + b"x")
    old(path)
    second, read = hashed(tmp_path / "c", path, monkeypatch)
    assert read and second != first


def test_a_file_that_just_changed_is_not_trusted(tmp_path, monkeypatch):
    """A second change within the tick of the clock would keep size and time."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    first = hashed(tmp_path / "c", path, monkeypatch, later=0.0)
    assert hashed(tmp_path / "c", path, monkeypatch, later=0.0) == (first[0], True)
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    second = hashed(tmp_path / "c", path, monkeypatch)
    assert second[1] and second[0] != first[0]


def _in_place(path, text):
    path.write_bytes(text)


def _renamed(path, text):
    (path.parent / "b").write_bytes(text)
    old(path.parent / "b").rename(path)


@pytest.mark.parametrize("change", [_in_place, _renamed])
def test_other_bytes_of_the_same_size_and_time_are_read_again(tmp_path, monkeypatch, change):
    """As `rsync -t`, `tar x`, `cp -p` and a download that restores the server's time leave
    files."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    stamp = old(path).stat().st_mtime_ns
    first = hashed(tmp_path / "c", path, monkeypatch)
    assert hashed(tmp_path / "c", path, monkeypatch) == (first[0], False)
    change(path, b"two")
    os.utime(path, ns=(stamp, stamp))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (3, stamp)
    second = hashed(tmp_path / "c", path, monkeypatch)
    assert second[1] and second[0] != first[0]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}'])
def test_a_spoiled_index_costs_a_reading_and_no_more(tmp_path, monkeypatch, text):
    path = old(write(tmp_path / "v" / "a.mkv"))
    first = hashed(tmp_path / "c", path, monkeypatch)[0]
    (tmp_path / "c" / cache.INDEX).write_text(text)
    assert hashed(tmp_path / "c", path, monkeypatch) == (first, True)
    assert json.loads((tmp_path / "c" / cache.INDEX).read_text())[str(path)][0] == first


def test_what_others_remembered_meanwhile_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.time, "time", lambda now=time.time: now() + 60)
    a, b = (old(write(tmp_path / f"{name}.mkv", seed=i)) for i, name in enumerate("ab"))
    one, two = Hashes(tmp_path / "c"), Hashes(tmp_path / "c")
    one.of(a), two.of(b)
    one.save(), two.save()
    assert set(Hashes(tmp_path / "c").known) == {str(a), str(b)}
