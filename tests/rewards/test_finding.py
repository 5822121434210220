"""Files are found as clips by their suffix and bytes; folders of numbered pictures, too.

Names may have any bytes; other files are left out with a reason.
"""

import json
import math
import os
import stat

import pytest
import torch

from vidrl import cli
from vidrl.rewards import Samples, score_files, video
from vidrl.rewards._files.finding import clips_in, skipped_media
from vidrl.rewards.flicker import Flicker

cv2 = pytest.importorskip("cv2")
av = pytest.importorskip("av", reason="PyAV writes video; pip install av")
CLIP = (torch.rand(6, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 255).byte()


def picture(path, frame):
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), frame.permute(1, 2, 0).numpy()[..., ::-1])
    return path


def film(folder, frames=CLIP, first=8, name="f_{}.png"):
    for i, frame in enumerate(frames, first):
        picture(folder / name.format(i), frame)
    return folder


def test_a_folder_of_numbered_pictures_is_one_clip(tmp_path):
    film(tmp_path / "a")  # numbers 8 to 13: in order of number, not of name
    (tmp_path / "a" / "prompts.txt").write_text("one\n")
    (row,) = score_files([tmp_path], {"f": Flicker()})
    assert (row["path"], row["frames"], row["fps"], row["size"]) == (
        str(tmp_path / "a"),
        6,
        8.0,
        [48, 32],
    )
    assert "6 numbered pictures are one film of 8 frames a second" in row["note"]
    assert torch.equal(video.Video(tmp_path / "a").read(), CLIP)
    whole = Flicker()(Samples(CLIP[None], [""], 8.0)).value.item()
    assert row["value"]["f"] == pytest.approx(whole, abs=1e-6)
    (fast,) = score_files([tmp_path / "a"], {"f": Flicker()}, fps=24.0)
    assert fast["fps"] == 24.0 and "of 24 frames a second, as asked for" in fast["note"]
    with pytest.raises(ValueError, match="expected fps.* got -1"):
        video.Video(tmp_path / "a", fps=-1)


@pytest.mark.parametrize(
    "name", ["README.md", "Thumbs.db", "desktop.ini", ".DS_Store", "caption.txt"]
)
def test_what_usually_lies_beside_pictures_hides_no_film(tmp_path, name):
    (film(tmp_path / "a") / name).write_text("x")
    assert clips_in(tmp_path) == [tmp_path / "a"]


def test_pictures_that_are_no_film_are_left_out_by_name(tmp_path, capsys):
    video.write(tmp_path / "a.mp4", CLIP, 8.0)
    film(tmp_path / "mixed")
    picture(tmp_path / "mixed" / "thumb.png", CLIP[0])
    (tmp_path / "code.ts").write_text("export const a = 1\n")
    (tmp_path / "notes.txt").write_text("x")
    assert clips_in(tmp_path) == [tmp_path / "a.mp4"] and len(skipped_media(tmp_path)) == 7
    assert cli.main(["score", str(tmp_path), "--reward", "flicker", "--jobs", "0"]) == 0
    said = capsys.readouterr()
    assert (
        len(said.out.splitlines()) == 1
        and "left out: 7 files" in said.err
        and "f_10.png" in said.err
    )


def test_a_film_with_a_missing_or_odd_picture_says_so(tmp_path):
    film(tmp_path / "gap")
    (tmp_path / "gap" / "f_10.png").unlink()
    picture(film(tmp_path / "size") / "f_14.png", CLIP[0, :, :16])
    gap, size = score_files([tmp_path], {"f": Flicker()})
    assert gap["why"] is None and "pictures are missing before number 11" in gap["note"]
    assert "f_14.png is 48 x 16, and the first picture 48 x 32" in size["why"]


@pytest.mark.parametrize(
    "suffix", [".ts", ".mpg", ".flv", ".wmv", ".3gp", ".ogv", ".webp", ".apng"]
)
def test_other_containers_are_clips_too(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".webp":
        animation = cv2.Animation()
        animation.frames = [frame.permute(1, 2, 0).numpy()[..., ::-1].copy() for frame in CLIP]
        animation.durations = [125] * len(CLIP)
        assert cv2.imwriteanimation(str(path), animation)
        picture(tmp_path / "still.webp", CLIP[0])
    else:
        write(
            path,
            {
                ".ts": "mpeg2video",
                ".mpg": "mpeg2video",
                ".flv": "flv",
                ".wmv": "wmv2",
                ".3gp": "mpeg4",
                ".ogv": "libtheora",
                ".apng": "apng",
            }[suffix],
        )
    (row,) = score_files([tmp_path], {"f": Flicker()})
    assert row["why"] is None and (row["frames"], row["fps"]) == (
        6,
        25.0 if suffix != ".webp" else 8.0,
    )


def write(path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = (
            48,
            32,
            "rgb24" if codec == "apng" else "yuv420p",
        )
        for frame in CLIP.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
        container.mux(stream.encode())


def test_a_name_that_is_not_utf_8_is_a_line_and_stops_nothing(tmp_path, capsys):
    for name in (b"a.mkv", b"caf\xe9.mkv", b"z.mkv"):
        clip = video.write(os.fsdecode(bytes(tmp_path) + b"/" + name), CLIP, 8.0, lossless=True)
        assert torch.equal(video.read(clip)[0], CLIP)
    out = tmp_path / "rows.jsonl"
    assert (
        cli.main(["score", str(tmp_path), "--reward", "flicker", "--jobs", "0", "--json", str(out)])
        == 0
    )
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3 and all(math.isfinite(row["value"]["flicker"]) for row in rows)
    assert os.fsencode(rows[1]["path"]).endswith(b"caf\xe9.mkv")


# --- writing


def test_a_link_beside_is_not_followed_and_the_mode_is_ordinary(tmp_path):
    (tmp_path / "victim").write_text("precious")
    for name in (".clip.part.mp4", ".00.part.mp4"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    before = os.umask(0o022)
    try:
        path = video.write(tmp_path / "clip.mp4", CLIP, 8.0)
    finally:
        os.umask(before)
    assert not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert (tmp_path / "victim").read_text() == "precious"
