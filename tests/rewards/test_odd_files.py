"""Odd files: the frames that are read are those that ffmpeg shows, in number, order, time
and orientation."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from vidrl.bench.cache import Hashes
from vidrl.rewards import score_files, video
from vidrl.rewards.flicker import Flicker

FFMPEG = pytest.importorskip(
    "imageio_ffmpeg", reason="the reference; pip install imageio-ffmpeg"
).get_ffmpeg_exe()
pytest.importorskip("av", reason="PyAV reads all of these; pip install av")
H264 = "-c:v libx264 -pix_fmt yuv420p -threads 1"


def ffmpeg(*words):
    found = subprocess.run(
        [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, words)],
        capture_output=True,
    )
    assert found.returncode == 0, found.stderr.decode()
    return found.stdout


def shown(path, size):
    """The frames that ffmpeg shows of a file, (F, 3, H, W), and their times."""
    film = ("-i", path, "-map", "0:V:0", "-fps_mode", "passthrough")
    pixels = ffmpeg(*film, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    listing = ffmpeg(
        "-copyts", *film, "-enc_time_base", "1/1000000", "-f", "framecrc", "-"
    ).decode()
    unit = re.search(r"#tb 0: (\d+)/(\d+)", listing)
    stamps = [int(line.split(",")[2]) for line in listing.splitlines() if line and line[0] != "#"]
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, size[1], size[0], 3).transpose(0, 3, 1, 2)
    return torch.from_numpy(frames.copy()), [
        stamp * int(unit[1]) / int(unit[2]) for stamp in stamps
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Write valid files from which odd files are derived: 40 frames of 128 x 80 at 16 fps."""
    at = tmp_path_factory.mktemp("sources")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=128x80:r=16:d=2.5",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        "bgr0",
        at / "ref.mkv",
    )
    ffmpeg("-i", at / "ref.mkv", *H264.split(), at / "a.mp4")
    ffmpeg("-i", at / "ref.mkv", *H264.split(), "-g", 12, at / "groups.ts")
    ffmpeg(
        "-i",
        at / "ref.mkv",
        *H264.split(),
        "-g",
        10,
        "-x264-params",
        "open-gop=1:bframes=3:b-adapt=0",
        at / "open.mkv",
    )
    ffmpeg(
        "-i",
        at / "ref.mkv",
        "-c:v",
        "libsvtav1",
        "-preset",
        12,
        "-pix_fmt",
        "yuv420p",
        at / "av1.mp4",
    )
    ffmpeg("-i", at / "ref.mkv", "-frames:v", 1, "-vf", "negate", at / "cover.jpg")
    return at


# the words of ffmpeg between its reading of `ref.mkv`, or of the file named first, and the
# name of the result
ODD = {
    "trimmed by copy.mp4": "a.mp4 | -ss 1.3 | -c copy",
    "trimmed by copy.mkv": "a.mp4 | -ss 1.3 | -c copy",
    "groups of pictures.ts": "groups.ts | | -c copy",
    "groups of pictures.m2ts": f"ref.mkv | | {H264} -g 12",
    "first is no key.mkv": r"open.mkv | | -c copy -bsf:v noise=drop=key*lt(n\,1)",
    "first is no key.mp4": r"open.mkv | | -c copy -bsf:v noise=drop=lt(n\,3)",
    "negative times.mp4": "a.mp4 | | -c copy -bsf:v setts=pts=PTS-20000:dts=DTS-20000 "
    "-avoid_negative_ts disabled",
    "late.mp4": "a.mp4 | -itsoffset 5 | -c copy",
    "variable.mkv": "ref.mkv | | -vf select=lt(n\\,20)+not(mod(n\\,3)) -fps_mode vfr " + H264,
    "a quarter.mp4": "a.mp4 | -display_rotation 90 | -c copy",
    "a quarter, AV1.mp4": "av1.mp4 | -display_rotation 90 | -c copy",
    "three quarters, AV1.mp4": "av1.mp4 | -display_rotation 270 | -c copy",
    "half, AV1.mp4": "av1.mp4 | -display_rotation 180 | -c copy",
    "mirrored.mp4": "a.mp4 | -display_hflip | -c copy",
    "upside down.mp4": "a.mp4 | -display_vflip | -c copy",
    "mirrored quarter.mp4": "a.mp4 | -display_rotation 90 -display_hflip | -c copy",
    "mirrored three quarters.mov": "a.mp4 | -display_rotation 270 -display_hflip | -c copy",
    "frames that depend on later ones.avi": "ref.mkv | | -c:v libxvid -bf 2",
    "MPEG-4.avi": "ref.mkv | | -c:v mpeg4 -bf 2",
    "MPEG-2.mpg": "ref.mkv | | -c:v mpeg2video -r 25 -bf 2",
    "flash.flv": "ref.mkv | | -c:v flv",
    "windows.wmv": "ref.mkv | | -c:v wmv2",
    "phone.3gp": "ref.mkv | | -c:v h263 -s 176x144",
    "theora.ogv": "ref.mkv | | -c:v libtheora -q 7",
    "hidden frames.webm": "ref.mkv | | -c:v libvpx -auto-alt-ref 1 -b:v 1M",
    "interlaced.mp4": f"ref.mkv | | {H264} -flags +ildct+ilme",
    "animated.apng": "ref.mkv | | -f apng -plays 0",
    "odd.gif": "ref.mkv | | -s 127x79",
    "fragments.mp4": "a.mp4 | | -c copy -movflags frag_keyframe+empty_moov",
    "one frame.mp4": f"ref.mkv | | -frames:v 1 {H264}",
    "ten bits.mp4": "ref.mkv | | -c:v libx264 -pix_fmt yuv420p10le -threads 1",
    "ten bits.webm": "ref.mkv | | -c:v libvpx-vp9 -pix_fmt yuv420p10le -cpu-used 8",
    "times of decoding.avi": f"ref.mkv | | {H264} -bf 3",
    "no times.h264": "a.mp4 | | -c copy -bsf:v h264_mp4toannexb -f h264",
}


@pytest.mark.parametrize("name", ODD)
def test_the_frames_read_are_those_that_ffmpeg_shows(sources, tmp_path, name):
    source, before, after = (part.split() for part in ODD[name].split("|"))
    ffmpeg(*before, "-i", sources / source[0], *after, tmp_path / name)
    opened = video.Video(tmp_path / name)
    frames, times = shown(tmp_path / name, opened.size)
    assert opened.frames == len(opened.times) == len(frames)
    assert torch.equal(opened.read(), frames)
    assert opened.times == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize(
    ("codec", "result"), [("mpeg4 -bf 2", "mp4"), ("mpeg4 -bf 2", "mov"), (H264[5:], "mp4")]
)
def test_times_of_decoding_that_were_copied_for_those_of_showing_are_even(
    sources, tmp_path, codec, result
):
    """An .avi keeps times of decoding alone, and a copy into .mp4 takes them for times of
    showing."""
    ffmpeg("-i", sources / "ref.mkv", "-c:v", *codec.split(), tmp_path / "a.avi")
    ffmpeg("-i", tmp_path / "a.avi", "-c", "copy", tmp_path / f"a.{result}")
    opened = video.Video(tmp_path / f"a.{result}")
    frames, _ = shown(tmp_path / f"a.{result}", opened.size)
    assert torch.equal(opened.read(), frames) and len(frames) == 40
    assert np.diff(opened.times) == pytest.approx(1 / 16, abs=4e-3)
    assert opened.even().frames == 40 and opened.fps == pytest.approx(16, rel=1e-3)


def test_a_rate_that_cannot_be_gives_way_to_that_of_the_pictures(sources, tmp_path):
    """A cut by copy into .avi states 600 frames a second, that of the first packet."""
    ffmpeg("-ss", 1.3, "-i", sources / "a.mp4", "-c", "copy", tmp_path / "cut.avi")
    opened = video.Video(tmp_path / "cut.avi")
    frames, times = shown(tmp_path / "cut.avi", opened.size)
    assert torch.equal(opened.read(), frames) and opened.fps == 16.0
    assert opened.times == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("first", ["cover", "film"])
def test_the_film_is_read_and_not_its_cover(sources, tmp_path, first):
    order = ("-map", 1, "-map", 0) if first == "cover" else ("-map", 0, "-map", 1)
    ffmpeg(
        "-i",
        sources / "a.mp4",
        "-i",
        sources / "cover.jpg",
        *order,
        "-c",
        "copy",
        f"-disposition:v:{int(first == 'film')}",
        "attached_pic",
        tmp_path / "a.mp4",
    )
    assert torch.equal(
        video.Video(tmp_path / "a.mp4").read(), video.Video(sources / "a.mp4").read()
    )


def test_a_size_that_changes_is_told(sources, tmp_path):
    parts = []
    for size in ("128x80", "64x40"):
        ffmpeg(
            "-i",
            sources / "ref.mkv",
            "-frames:v",
            10,
            "-s",
            size,
            *H264.split(),
            tmp_path / "part.ts",
        )
        parts.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    ffmpeg("-i", tmp_path / "a.ts", "-c", "copy", tmp_path / "a.mp4")
    rows = list(score_files([tmp_path / "a.ts", tmp_path / "a.mp4"], {"f": Flicker()}))
    assert all("changes from 128 x 80 to 64 x 40" in row["why"] for row in rows)


# --- cut off, and no video


@pytest.mark.parametrize(
    "name",
    [
        "a.mkv",
        "a.webm",
        "a.gif",
        "a.avi",
        "a.flv",
        "a.wmv",
        "a.ogv",
        "a.apng",
        "fast.mp4",
        "fragments.mp4",
    ],
)
def test_a_download_that_broke_off_is_measured_up_to_there_with_a_note(sources, tmp_path, name):
    options = {
        "a.mkv": H264,
        "fast.mp4": f"{H264} -movflags +faststart",
        "a.apng": "-f apng",
        "fragments.mp4": f"{H264} -g 8 -movflags frag_keyframe+empty_moov",
    }
    ffmpeg("-i", sources / "ref.mkv", *options.get(name, "").split(), tmp_path / name)
    assert video.Video(tmp_path / name).notes == []
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 7 // 10])
    opened = video.Video(tmp_path / name)
    frames, _ = shown(tmp_path / name, opened.size)
    assert 3 < opened.frames == len(frames) < 40
    (row,) = score_files([tmp_path / name], {"f": Flicker()})
    seconds = float(re.search(r"cut off after ([\d.]+) s", row["note"])[1])
    assert row["why"] is None and seconds == pytest.approx(opened.frames / 16, abs=0.3)


def test_what_cannot_be_read_has_a_reason_in_words(sources, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", tmp_path / "sound.mp4")
    ffmpeg(
        "-i",
        tmp_path / "sound.mp4",
        "-i",
        sources / "cover.jpg",
        "-map",
        0,
        "-map",
        1,
        "-c",
        "copy",
        "-disposition:v:0",
        "attached_pic",
        tmp_path / "cover.mp4",
    )
    made = {
        "index.mp4": (
            (sources / "a.mp4").read_bytes()[:9000],
            r"cut off: .*the index \(moov\).* is missing",
        ),
        "empty.mp4": (b"", "it is empty, 0 bytes"),
        "page.mp4": (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        "lfs.mp4": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer",
        ),
        "list.mp4": (b"#EXTM3U\n#EXTINF:1,\na.mp4\n", "a playlist"),
        "concat.mp4": (b"ffconcat version 1.0\nfile a.mp4\n", "a playlist"),
        "zeros.mp4": (bytes(9000), "all zero"),
        "header.ts": (
            (sources / "groups.ts").read_bytes()[:1000],
            "cut off before its first frame",
        ),
        "noise.mp4": (bytes(range(200, 256)) * 90, "it is of no known video format$"),
        "archive.mp4": (bytes([1] * 257) + b"ustar" + bytes([1] * 250), "a tar archive"),
        "picture.mp4": ((sources / "cover.jpg").read_bytes(), "a picture"),
    }
    for name, (data, _) in made.items():
        (tmp_path / name).write_bytes(data)
    made |= {
        "sound.mp4": (b"", "no video stream: it holds sound alone$"),
        "cover.mp4": (b"", "no video stream: it holds sound alone with a cover picture"),
    }
    for name, (_, words) in made.items():
        with pytest.raises(video.Unreadable, match=words):
            video.Video(tmp_path / name)


def test_a_name_is_a_name_and_nothing_else(sources, tmp_path):
    """Not an address, a pattern or a list of files, as FFmpeg would take some; and not one
    that must be UTF-8."""
    data = (sources / "a.mp4").read_bytes()
    names = [b"caf\xe9.mp4", b"concat:a|b.mp4", b"pipe:0.mp4", b"%d.mp4", b"-x.mp4", b"file:a.mp4"]
    for name in names:
        with open(bytes(tmp_path) + b"/" + name, "wb") as file:
            file.write(data)
    rows = list(score_files([tmp_path], {"f": Flicker()}))
    assert len(rows) == len(names) and all(
        row["frames"] == 40 and row["why"] is None for row in rows
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_what_is_no_file_is_named_and_never_read(tmp_path):
    """A named pipe would be waited for, and a device read, without end."""
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("/dev/zero")
    (tmp_path / "c.mp4").symlink_to("c.mp4")
    whats = ("a named pipe", "a device", "a link that leads to no file")
    for row, what in zip(score_files([tmp_path], {"f": Flicker()}), whats, strict=True):
        assert f"expected a video file, found {what} at " in row["why"]
    for name, what in zip("abc", whats, strict=True):
        with pytest.raises(FileNotFoundError, match=f"found {what}"):
            Hashes(None).of(tmp_path / f"{name}.mp4")


def test_times_that_tell_nothing_are_told(sources, tmp_path):
    ffmpeg(
        "-i",
        sources / "a.mp4",
        "-c",
        "copy",
        "-bsf:v",
        "setts=pts=0:dts=DTS:duration=0",
        tmp_path / "zero.mkv",
    )
    opened = video.Video(tmp_path / "zero.mkv")
    assert (opened.frames, opened.fps) == (40, 16.0) and "tell no time" in opened.notes[0]
    ffmpeg("-i", sources / "ref.mkv", "-c:v", "mjpeg", tmp_path / "mjpeg.mov")
    for name, source in {"a.mp4": sources / "a.mp4", "none.mov": tmp_path / "mjpeg.mov"}.items():
        ffmpeg("-i", source, "-c", "copy", "-bsf:v", "setts=ts=0:duration=0", tmp_path / name)
    opened = video.Video(tmp_path / "a.mp4")  # the pictures of H.264 state a rate
    assert (opened.frames, opened.fps) == (40, 16.0) and "tell no time" in opened.notes[0]
    with pytest.raises(video.Unreadable, match="tell no time, and it states no frame rate"):
        video.Video(tmp_path / "none.mov")


def test_a_rate_that_a_container_rounds_is_the_stated_one(sources, tmp_path):
    for name in ("a.mkv", "a.webm", "a.mov", "a.ts", "a.flv"):
        codec = "-c:v libvpx-vp9 -cpu-used 8" if name == "a.webm" else H264
        ffmpeg("-i", sources / "ref.mkv", *codec.split(), tmp_path / name)
        assert video.Video(tmp_path / name).fps == 16.0


# --- decord alone


@pytest.mark.parametrize("name", ODD)
def test_decord_alone_is_exact_or_says_what_to_install(sources, tmp_path, name, monkeypatch):
    pytest.importorskip("decord", reason="decord reads video; pip install decord")
    source, before, after = (part.split() for part in ODD[name].split("|"))
    ffmpeg(*before, "-i", sources / source[0], *after, tmp_path / name)
    monkeypatch.setitem(sys.modules, "av", None)
    try:
        opened = video.Video(tmp_path / name)
    except video.Unreadable as error:
        assert "pip install av" in str(error)
        return
    read, frames = opened.read(), shown(tmp_path / name, opened.size)[0]
    assert len(read) == len(frames)
    if "ten bits" in name:  # decord takes their colours from another place: half a pixel beside
        assert (read.float() - frames).abs().mean() < 5
    else:
        assert torch.equal(read, frames)
