"""Each of five hundred mangled video files gets a number or a reason.

Nothing crashes, hangs or leaks.
"""

import functools
import math
import os
import random
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from vidrl.rewards import score_files, video
from vidrl.rewards._files import score_files as clip_scores
from vidrl.rewards._files.workers import map_in_processes
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.synthetic import world

av = pytest.importorskip("av", reason="PyAV writes video; pip install av")
COUNT, LIMIT = 500, 20.0


def sound(folder: Path) -> list[bytes]:
    """Small clips of every container and several codecs, sizes and rates, as bytes."""
    sizes = [(32, 32), (33, 47), (16, 64), (50, 30), (31, 33), (96, 64)]
    made = []
    for i, suffix in enumerate((".mp4", ".mkv", ".mov", ".avi", ".webm", ".mp4", ".mkv", ".avi")):
        clip = world.render(
            world.Scene("circle", "red", "left", "fast", "speckled"), 64, 7, seed=i
        ).video
        height, width = sizes[i % len(sizes)]
        clip = torch.nn.functional.interpolate(clip, (height, width))
        lossless = i > 4 and suffix != ".webm"
        made.append(
            video.write(folder / f"{i}{suffix}", clip, 7.0 + i, lossless=lossless).read_bytes()
        )
    return [*made, gif(folder), uneven(folder), sound_only(folder), raw(folder)]


def gif(folder: Path) -> bytes:
    return encoded(folder / "a.gif", "gif", "rgb8", [i * 12 for i in range(6)])


def uneven(folder: Path) -> bytes:
    """A variable frame rate, with a long gap."""
    return encoded(folder / "uneven.mkv", "libx264", "yuv420p", [0, 1, 2, 9, 10, 400, 401])


def raw(folder: Path) -> bytes:
    """Write a file without compression, where the header alone gives the size of a frame."""
    return encoded(folder / "raw.avi", "rawvideo", "bgr24", list(range(5)))


def encoded(path: Path, codec: str, pixels: str, stamps: list[int]) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
        for i, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(
                np.full((32, 32, 3), i * 30, np.uint8), format="rgb24"
            )
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = stamp, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def sound_only(folder: Path) -> bytes:
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


# --- what is done to them; each (bytes, dice) to bytes


def cut(data, dice):
    return data[: dice.randrange(len(data))]


def beheaded(data, dice):
    return data[dice.randrange(1, len(data)) :]


def flipped(data, dice):
    data = bytearray(data)
    for _ in range(dice.choice([1, 3, 30, 300])):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def flipped_header(data, dice):
    head = dice.choice([64, 256, 1024])
    return flipped(data[:head], dice) + data[head:]


def flipped_tail(data, dice):
    """The tail holds the index of an mp4."""
    return data[:-900] + flipped(data[-900:], dice)


def zeroed(data, dice):
    start = dice.randrange(len(data))
    length = min(dice.choice([8, 100, 2000]), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def shuffled(data, dice):
    size = dice.choice([16, 128, 512])
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    dice.shuffle(blocks)
    return b"".join(blocks)


def doubled(data, dice):
    return data + data[: dice.randrange(len(data))]


def padded(data, dice):
    return dice.randbytes(dice.choice([1, 7, 5000])) + data


def gigantic(data, dice):
    """Set the sizes and counts of the header to their largest values."""
    big = dice.choice([b"\xff\xff", b"\x7f\xff", b"\x40\x00", b"\x20\x00"])
    for mark, skip in (
        (b"avc1", 28),
        (b"tkhd", 80),
        (b"mp4v", 28),
        (b"\xb0\x81", 1),
        (b"\xb0\x82", 2),
        (b"GIF89a", 6),
    ):
        found = data.find(mark)
        if found >= 0:
            at = found + skip
            data = data[:at] + big * 2 + data[at + 4 :]
    if (found := data.find(b"strf")) >= 0:  # AVI: little endian
        at = found + 12
        data = (
            data[:at]
            + struct.pack("<ii", *[dice.choice([16384, 32767, 2**30])] * 2)
            + data[at + 8 :]
        )
    return data


def broken_boxes(data, dice):
    """Lengths, counts and rates of an mp4's boxes that cannot be."""
    for mark in dice.sample(
        [b"moov", b"trak", b"stts", b"stsz", b"stsc", b"stco", b"mvhd", b"mdhd", b"elst"], 2
    ):
        found = data.find(mark)
        if found >= 4:
            value = dice.choice([0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFF])
            at = found + dice.choice([-4, 4, 8, 12, 16])
            data = data[:at] + struct.pack(">I", value) + data[at + 4 :]
    return data


def other(data, dice):
    """No video at all."""
    return dice.choice(
        [
            b"",
            b"\0" * 5000,
            b"just words\n" * 50,
            dice.randbytes(3000),
            picture(".png"),
            picture(".jpg"),
            b"\x1aE\xdf\xa3",
            b"RIFF",
            b"GIF89a",
            data[:4],
        ]
    )


def picture(suffix):
    import cv2

    return cv2.imencode(suffix, np.full((20, 30, 3), 90, np.uint8))[1].tobytes()


def kept(data, dice):
    return data


FAULTS = [
    cut,
    beheaded,
    flipped,
    flipped_header,
    flipped_tail,
    zeroed,
    shuffled,
    doubled,
    padded,
    gigantic,
    broken_boxes,
    other,
    kept,
]


def mangled(folder: Path, count: int) -> list[Path]:
    """`count` files, the same ones each time, half of them with the suffix of another
    container."""
    sources, dice = sound(folder), random.Random(1)  # a seed that crashes decord 0.6 once
    where = folder / "mangled"
    where.mkdir()
    paths = []
    for i in range(count):
        fault = FAULTS[i % len(FAULTS)]
        paths.append(where / f"{i:03d}_{fault.__name__}{dice.choice(video.SUFFIXES)}")
        paths[-1].write_bytes(fault(dice.choice(sources), dice))
    return paths


# --- what comes of it


def probed(path, rewards):
    """Return a row, and the memory and files that the process holds after it."""
    row = clip_scores._score_file((path, ""), rewards)
    process = psutil.Process()
    return row, process.pid, process.num_fds(), process.memory_info().rss / 2**20


def is_a_result_or_a_reason(row):
    value = row["value"]["q"]
    return (value is None) == bool(row["why"]) and (value is None or math.isfinite(value))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_five_hundred_mangled_files(tmp_path):
    paths = mangled(tmp_path, COUNT)
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it to read waits forever
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "none")
    paths += [tmp_path / "pipe.mp4", tmp_path / "folder.mp4", tmp_path / "nowhere.mp4"]
    fds = psutil.Process().num_fds()
    done = list(
        map_in_processes(
            functools.partial(probed, rewards={"q": FrameQuality()}), paths, jobs=2, timeout=LIMIT
        )
    )
    assert [one.task for one in done] == paths and psutil.Process().num_fds() <= fds + 2
    ended = [(one.task.name, one.why) for one in done if one.why]
    assert len(ended) <= 5, ended  # the decoders' own faults, survived
    rows = [one.result for one in done if one.result]
    assert all(is_a_result_or_a_reason(row) for row, *_ in rows)
    whole = [
        row
        for row, *_ in rows
        if "_kept" in row["path"] and "no video stream" not in (row["why"] or "")
    ]
    assert len(whole) > 20 and all(row["why"] is None for row in whole)
    for pid in {pid for _, pid, *_ in rows}:
        held = [(fds, memory) for _, by, fds, memory in rows if by == pid]
        early, late = held[len(held) // 4], held[-1]
        assert late[0] <= early[0] + 3 and late[1] <= early[1] + 150, (early, late)


def test_a_few_mangled_files_in_this_process(tmp_path):
    """Safe files give the same without workers: shortened files and files without video."""
    paths = [
        path
        for path in mangled(tmp_path, 60)
        if path.stem.split("_")[1] in ("cut", "other", "kept")
    ]
    rows = list(score_files(paths, {"q": FrameQuality()}))
    assert len(rows) == len(paths) >= 12 and all(map(is_a_result_or_a_reason, rows))
