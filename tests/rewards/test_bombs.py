"""Files that need far more memory than their size get a row with the reason.

The other files of the folder are scored.
"""

import re
import struct
import subprocess
import sys

import pytest
import torch

from vidrl.rewards import score_files, video
from vidrl.rewards._scoring import long_clips
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.jerk import Jerk

pytest.importorskip("av", reason="PyAV reads .gif")


def gif(width, height, frames):
    """A film of one changing pixel on a canvas of any size: about 23 bytes a frame."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    one = (
        b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c"
        + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
        + b"\x02\x02\x44\x01\x00"
    )
    return head + one * frames + b"\x3b"


def webp(width, height, frames):
    def chunk(name, body):
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inside = chunk(b"VP8X", b"\x02\0\0\0" + canvas) + chunk(b"ANIM", bytes(6))
    inside += chunk(b"ANMF", bytes(6) + canvas + b"\x10\0\0\0" + chunk(b"VP8L", bytes(8))) * frames
    return b"RIFF" + struct.pack("<I", 4 + len(inside)) + b"WEBP" + inside


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.gif", gif(8000, 8000, 8)),
        ("a.mp4", gif(30000, 30000, 3)),
        ("a.webp", webp(16000, 16000, 3)),
    ],
)
def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    (row,) = score_files([tmp_path], {"f": Flicker()})
    assert re.search(
        "expected frames of up to 33554432 pixels, got|a larger one than can be read", row["why"]
    )
    assert len(data) < 400


@pytest.mark.slow
def test_this_process_stays_small(tmp_path):
    """Without a worker, files of 204 bytes are refused within 4 GB of address space.

    Before the limit they took 3.5 GB.
    """
    pytest.importorskip("resource")
    (tmp_path / "a.gif").write_bytes(gif(8000, 8000, 8))
    (tmp_path / "b.gif").write_bytes(gif(5000, 5000, 300))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)\n"
        "from vidrl.rewards import score_files\nfrom vidrl.rewards.jerk import Jerk\n"
        f"print([row['why'] for row in score_files([{str(tmp_path)!r}], {{'j': Jerk()}})])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "up to 33554432 pixels" in made.stdout and "5000 x 5000 at 100 a second" in made.stdout


def test_large_frames_at_a_high_rate_are_not_held_back_without_end(monkeypatch):
    monkeypatch.setattr(long_clips, "MOST_HELD", 20 * 3 * 64 * 64)
    stream = Jerk().stream(fps=120.0)
    with pytest.raises(MemoryError, match="got 64 x 64 at 120 a second"):
        for _ in range(4):
            stream.update(torch.zeros(8, 3, 64, 64, dtype=torch.uint8))


def test_a_bomb_among_clips_is_a_row_of_a_worker(tmp_path, monkeypatch):
    (tmp_path / "a.gif").write_bytes(gif(64, 64, 5))
    (tmp_path / "b.gif").write_bytes(gif(5000, 5000, 60))
    (tmp_path / "c.gif").write_bytes(gif(64, 64, 5))
    rows = list(score_files([tmp_path], {"f": Flicker()}, jobs=1, timeout=60, memory=2**29))
    assert [row["why"] is None for row in rows] == [True, False, True]
    assert "more memory than the 0.5 GiB that one worker may take" in rows[1]["why"]
    assert video.Video(tmp_path / "b.gif").frames == 60
