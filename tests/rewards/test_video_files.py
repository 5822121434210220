"""Files are written and read back with true rates, and every clip gets a row.

A file that cannot be read gets a row with the reason.
"""

import json
import math
import sys

import pytest
import torch

from vidrl.rewards import Samples, default, score, score_files, video
from vidrl.rewards._files.decord_reader import Decord
from vidrl.rewards._files.reading import PyAV
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.synthetic import world

av = pytest.importorskip("av", reason="PyAV writes video; pip install av")
CLIP = world.render(
    world.Scene("circle", "red", "left", "fast", "speckled"), size=64, frames=21
).video


def bytes_of(clip: torch.Tensor) -> torch.Tensor:
    return (clip * 255).round().to(torch.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_lossless_round_trip(tmp_path, suffix):
    path = video.write(tmp_path / f"clip{suffix}", CLIP, 12.5, lossless=True)
    frames, fps = video.read(path)
    assert torch.equal(frames, bytes_of(CLIP)) and fps == 12.5
    assert [p.name for p in tmp_path.iterdir()] == [f"clip{suffix}"]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mkv"])
def test_lossy_round_trip_looks_the_same(tmp_path, suffix):
    smooth = torch.nn.functional.avg_pool2d(CLIP, 5, 1, 2)
    frames, _ = video.read(video.write(tmp_path / f"clip{suffix}", smooth, 8.0))
    assert frames.shape == (21, 3, 64, 64) and (frames / 255 - smooth).abs().mean() < 0.03


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 47), (24, 48), (32, 32), (30, 50)])
def test_small_and_odd_sizes(tmp_path, height, width):
    clip = torch.rand(5, 3, height, width)
    opened = video.Video(video.write(tmp_path / "clip.mkv", clip, 8.0, lossless=True))
    assert opened.size == (width, height) and torch.equal(opened.read(), bytes_of(clip))
    assert video.read(video.write(tmp_path / "clip.mp4", clip, 8.0))[0].shape == (
        5,
        3,
        height,
        width,
    )


@pytest.mark.parametrize("fps", [8.0, 23.976, 29.97, 60.0])
def test_the_rate_is_true(tmp_path, fps):
    opened = video.Video(video.write(tmp_path / "clip.mp4", CLIP, fps))
    assert opened.fps == pytest.approx(fps, rel=2e-3) and opened.frames == 21
    assert opened.times == pytest.approx([i / fps for i in range(21)], abs=2e-3)


def test_the_same_clip_is_the_same_file(tmp_path):
    """x264 with its default settings read memory that nobody had written: about one file in
    a hundred differed."""
    draw, kept = torch.Generator().manual_seed(0), []
    coarse = torch.randn(3, 3, 4, 4, generator=draw).sigmoid()[[0, 1, 1, 1, 1, 2, 2, 2, 2]]
    clip = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bilinear")
    written = set()
    for _ in range(300):
        # moves memory about
        kept = [*kept[-20:], torch.rand(int(torch.randint(100, 20000, (), generator=draw)))]
        written.add(video.write(tmp_path / "a.mp4", clip, 8.0).read_bytes())
    assert len(written) == 1 and b"mbtree=0" in written.pop()


def test_pieces_are_the_whole(tmp_path):
    path = video.write(tmp_path / "clip.mp4", CLIP, 8.0)
    pieces = list(video.Video(path).pieces(8))
    assert [len(p) for p in pieces] == [8, 8, 5] and torch.equal(
        torch.cat(pieces), video.read(path)[0]
    )


def test_both_readers_agree(tmp_path):
    path = video.write(tmp_path / "clip.mp4", CLIP, 8.0)
    first, second = Decord(path, lambda size: None), PyAV(path, lambda size: None)
    assert torch.equal(torch.cat(list(first.pieces(7))), torch.cat(list(second.pieces(9))))
    assert first.times == pytest.approx(second.times) and first.size == second.size


def test_one_reader_alone_is_enough(tmp_path, monkeypatch):
    pytest.importorskip("decord", reason="decord reads video; pip install decord")
    path = video.write(tmp_path / "clip.mp4", CLIP, 8.0)
    for name, missing in (("PyAV", "decord"), ("decord", "av")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            assert video.Video(path).reader == name and video.Video(path).read().shape == (
                21,
                3,
                64,
                64,
            )


def test_without_pyav_writing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install .*\[train\]"):
        video.write(tmp_path / "clip.mp4", CLIP, 8.0)
    assert not list(tmp_path.iterdir())


def test_av1_is_read_by_pyav(tmp_path):
    if "libsvtav1" not in av.codecs_available:
        pytest.skip("this PyAV has no AV1 encoder, libsvtav1")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=8, options={"svtav1-params": "lp=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in bytes_of(CLIP).permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
        container.mux(stream.encode())
    opened = video.Video(path)
    assert opened.reader == "PyAV" and opened.read().shape == (21, 3, 64, 64) and opened.fps == 8.0


@pytest.mark.parametrize(
    ("clip", "name", "fps", "words"),
    [
        (CLIP[None], "a.mp4", 8.0, "shape"),
        (CLIP[:, :2], "a.mp4", 8.0, "1 or 3 channels"),
        (CLIP, "a.png", 8.0, r"\.mp4"),
        (CLIP, "a.mp4", 0.0, "positive"),
    ],
)
def test_what_cannot_be_written(tmp_path, clip, name, fps, words):
    with pytest.raises(ValueError, match=words):
        video.write(tmp_path / name, clip, fps)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path):
    """A good clip, one cut short, one that is no video, an image-like one, one of 3 x 3,
    and an empty folder."""
    video.write(tmp_path / "good.mp4", CLIP, 8.0)
    video.write(tmp_path / "one.mp4", CLIP[:1], 8.0)
    video.write(tmp_path / "deep.mkv", CLIP[..., :3, :3], 8.0, lossless=True)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:1500])
    (tmp_path / "words.mp4").write_bytes(b"not a video" * 50)
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_every_clip_has_a_row(folder):
    paths = [folder, folder / "missing.mp4", folder / "empty"]
    found = score_files(paths, {"default": default(), "flicker": Flicker()})
    rows = {row["path"].rsplit("/", 1)[1]: row for row in found}
    assert set(rows) == {
        "good.mp4",
        "one.mp4",
        "deep.mkv",
        "cut.mp4",
        "words.mp4",
        "missing.mp4",
        "empty",
    }
    assert rows["good.mp4"]["why"] is None and len(rows["good.mp4"]["curve"]["flicker"]) == 21
    assert {name for name, row in rows.items() if row["why"] is None} == {"good.mp4"}
    assert "none at" in rows["missing.mp4"]["why"] and "found none" in rows["empty"]["why"]
    assert rows["words.mp4"]["why"].endswith("words.mp4: it is a text, no video")
    assert "cut off" in rows["cut.mp4"]["why"] and "(moov)" in rows["cut.mp4"]["why"]
    assert "3 x 3" in rows["deep.mkv"]["why"] and "frames, got 1" in rows["one.mp4"]["why"]
    assert all(row["value"]["flicker"] is None for name, row in rows.items() if name != "good.mp4")
    json.loads(json.dumps(list(rows.values()), allow_nan=False))


def test_a_file_has_the_scores_of_its_frames(folder):
    frames, fps = video.read(folder / "good.mp4")
    whole = default()(Samples(frames[None], ["a red circle"], fps))
    prompts = {str(folder / "good.mp4"): "a red circle"}
    (row,) = score_files([folder / "good.mp4"], {"default": default()}, prompts)
    assert row["value"]["default"] == pytest.approx(whole.value.item(), abs=1e-4)
    assert row["parts"]["default"] == pytest.approx(
        {n: s.value.item() for n, s in whole.parts.items()}, abs=1e-5
    )
    assert row["curve"]["default"] == pytest.approx(whole.frames[0].tolist(), abs=1e-3)
    assert (row["fps"], row["size"], row["frames"]) == (8.0, [64, 64], 21)


def test_tensors_and_paths_are_scored_alike(folder):
    frames, fps = video.read(folder / "good.mp4")
    (by_path,), (by_tensor,) = (
        score(folder / "good.mp4", FrameQuality()),
        score(frames[None], FrameQuality(), fps=fps),
    )
    assert by_path["value"]["reward"] == pytest.approx(by_tensor["value"]["reward"], abs=1e-6)
    with pytest.raises(ValueError, match="fps=8.0"):
        score(frames[None], FrameQuality())


def test_a_reward_that_needs_the_whole_gets_it(folder):
    class Length(Flicker):
        terms = FrameQuality.__mro__[1].terms  # the base's: no pieces

        def forward(self, samples):
            return FrameQuality()(samples)

    (row,) = score_files([folder / "good.mp4"], {"length": Length()})
    assert math.isfinite(row["value"]["length"]) and row["why"] is None


def test_memory_is_that_of_a_piece(tmp_path, monkeypatch):
    path = video.write(tmp_path / "long.mp4", CLIP.repeat(8, 1, 1, 1), 8.0)
    longest = []
    real = Samples.__post_init__
    monkeypatch.setattr(
        Samples, "__post_init__", lambda self: longest.append(self.video.shape[1]) or real(self)
    )
    (row,) = score_files([path], {"default": default()})
    assert row["frames"] == 168 and max(longest) <= video.PIECE + 3


def test_large_frames_come_in_shorter_pieces(tmp_path, monkeypatch):
    opened = video.Video(video.write(tmp_path / "clip.mp4", CLIP, 8.0))
    assert [len(piece) for piece in opened.pieces()] == [21]
    monkeypatch.setattr(video, "BUDGET", 5 * 3 * 64 * 64 + 1)
    assert [len(piece) for piece in opened.pieces()] == [5, 5, 5, 5, 1]
    monkeypatch.setattr(video, "BUDGET", 1)
    assert len(list(opened.pieces())) == 21


def test_frames_too_large_to_read_are_told(tmp_path, monkeypatch):
    path = video.write(tmp_path / "clip.mp4", CLIP, 8.0)
    monkeypatch.setattr(video, "LARGEST", 64 * 64 - 1)
    with pytest.raises(video.Unreadable, match="up to 4095 pixels, got 64 x 64"):
        video.Video(path)


def test_a_clip_larger_than_memory_is_not_read_whole(tmp_path):
    class Whole(FrameQuality):
        streams = False

    opened = video.Video(video.write(tmp_path / "clip.mp4", CLIP, 8.0))
    opened.frames = 10**9
    with pytest.raises(MemoryError, match=r"needs 12288 GB as a whole, this machine has \d+"):
        opened.read()
    (row,) = score_files([tmp_path / "clip.mp4"], {"whole": Whole()})
    assert row["why"] is None


def test_a_path_that_cannot_be_opened_is_a_row(tmp_path, monkeypatch):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "locked.mp4").write_bytes(b"x")
    monkeypatch.setattr(
        video.Path,
        "is_file",
        lambda path: (_ for _ in ()).throw(PermissionError(f"no right: {path}")),
    )
    folder, locked = score_files(
        [tmp_path / "folder.mp4", tmp_path / "locked.mp4"], {"q": FrameQuality()}
    )
    assert folder["why"].startswith("unreadable: expected videos in the folder")
    assert locked["why"].startswith("unreadable: no right")


def test_what_a_reward_says_of_a_clip_is_its_reason_and_a_fault_is_raised(folder):
    class Picky(FrameQuality):
        def features(self, samples):
            raise self.error("not this one")

    Picky.error = ValueError
    (row,) = score_files([folder / "good.mp4"], {"picky": Picky()})
    assert (
        row["why"] == "unscored: not this one"
        and row["value"] == {"picky": None}
        and row["frames"] == 21
    )
    # weights that are not there are no fault of the file
    for fault in (ZeroDivisionError, OSError):
        Picky.error = fault
        with pytest.raises(fault):
            list(score_files([folder / "good.mp4"], {"picky": Picky()}))


def test_time_stamps_that_decord_makes_up_are_refused(tmp_path, monkeypatch):
    decord = pytest.importorskip("decord", reason="decord reads video; pip install decord")
    path = video.write(tmp_path / "clip.mkv", CLIP, 8.0)
    real = decord.VideoReader.get_frame_timestamp
    monkeypatch.setattr(
        decord.VideoReader, "get_frame_timestamp", lambda self, at: real(self, at) + 9.2e15
    )
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(video.Unreadable, match="stamps that cannot be.*pip install av"):
        video.Video(path)
