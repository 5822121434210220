"""Makes small copies of clips for the page: films, frames, and maps of where faults are.

Shapes: F frames, C channels, H W pixels; K frames of a film.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrl.bench import schema
from vidrl.bench.cache import write_atomic
from vidrl.bench.page.cases import cases, clip_of, examples, order
from vidrl.bench.page.facts import Results, Row
from vidrl.bench.protocol import digest

if TYPE_CHECKING:
    from torch import Tensor

    from vidrl.bench.protocol import Protocol

VERSION = 2  # raised when the form of the copies changes, so that old copies are not used
LIMIT = 40  # clips shown
BUDGET = 12_000_000  # bytes of all that is shown of them
FILM = 8  # frames of a film
HEIGHT = 72  # pixels of such a frame
SIDE = 160  # the shorter side of what plays
GIVEN = 160  # the longer side of what a clip was made from
# A longer clip plays its first seconds and frames up to these.
SECONDS = 10.0
MOST = 240
MAP = 96  # the shorter side at which motion is estimated; maps are drawn HEIGHT pixels high
MANY = 8  # clips that are worth the start of other processes
PATIENCE = 300.0  # seconds for one clip in such a process
SCALES = {"residual": 0.25, "flow": 1.0, "occlusion": 1.0}  # the brightest of each map

Shown = dict[str, Any]
_PICTURES = schema.many(schema.maybe(schema.text))
SHOWN = schema.record(
    {},
    {
        "video": schema.text,
        "image": schema.text,
        "film": _PICTURES,
        "at": schema.many(schema.count),
        "covers": schema.number,
        "maps": schema.named(_PICTURES),
        "why": schema.text,
    },
)


def media(
    results: Results,
    folder: Path | None = None,
    limit: int = LIMIT,
    budget: int = BUDGET,
    jobs: int = 0,
) -> dict[str, Shown]:
    """Return what the page shows of its best and worst clips, by key.

    Args:
        results: as read from results.json.
        folder: keeps the copies for the next time.
        limit: clips, at most; the page links to the files of the others.
        budget: bytes of all copies; later clips have only a reason.
        jobs: processes that make missing copies; 0 makes them in this process.

    Each clip has some of these keys: "video" or "image" (base64), "film" (K frames), "at"
    (the numbers of these frames), "maps" by name, "covers" (the share of the clip that
    plays), "why" (the reason for having nothing), "given" (see `_references`).
    """
    media: dict[str, Shown] = {}
    used = 0
    keys = order(results, examples(results, cases(results)))[:limit]
    clips = [clip_of(results, named) for named in keys]
    found, given = _all(results, clips, folder, jobs), _references(results, clips, jobs)
    for named, clip, shown in zip(keys, clips, found, strict=True):
        shown = shown | ({"given": given[clip["reference"]]} if clip.get("reference") else {})
        used += len(json.dumps(shown))
        media[named] = shown if used <= budget else {"why": "left out to keep the page small"}
    return media


def _all(results: Results, clips: Sequence[Row], folder: Path | None, jobs: int) -> list[Shown]:
    """Return what is shown of each clip: kept copies of the same bytes, or new copies."""
    places = [_place(results, clip, folder) for clip in clips]
    found = [
        {"why": clip["closed"]} if clip.get("closed") else _recalled(place)
        for clip, place in zip(clips, places, strict=True)
    ]
    missing = [i for i, shown in enumerate(found) if shown is None]
    new = _each(
        partial(_clip_copy, protocol=dict(results["protocol"])),
        [str(clips[i]["path"]) for i in missing],
        jobs,
    )
    for i, shown in zip(missing, new, strict=True):
        found[i], place = shown, places[i]
        if place is not None and "why" not in shown:
            write_atomic(place, json.dumps(shown))
    return [shown or {} for shown in found]


def _references(results: Results, clips: Sequence[Row], jobs: int) -> dict[str, Shown]:
    """Return what clips were made from, by path: "picture" (base64), or "why" there is none.

    The picture is the image, or the first frame of a film.
    """
    why = {
        clip["reference"]: clip.get("reference_closed") for clip in clips if clip.get("reference")
    }
    opened = [path for path, reason in why.items() if not reason]
    copies = _each(partial(_reference_copy, protocol=dict(results["protocol"])), opened, jobs)
    return {path: {"why": reason} for path, reason in why.items() if reason} | dict(
        zip(opened, copies, strict=True)
    )


def _place(results: Results, clip: Row, folder: Path | None) -> Path | None:
    """Return the file that keeps a clip's copy, or None.

    Its name is a hash, so that no text of a results file becomes part of a path.
    """
    if folder is None or not clip.get("id"):
        return None
    return folder / f"{digest([clip['id'], results['protocol'], VERSION], 32)}.json"


def _recalled(place: Path | None) -> Shown | None:
    """Return a kept copy; None where there is none or its file is damaged."""
    try:
        if place is None or not place.is_file():
            return None
        found = schema.parsed(place.read_bytes())
        SHOWN(found, "")
        return found
    except (OSError, ValueError):
        return None


def _each(make: Callable[[str], Shown], paths: Sequence[str], jobs: int) -> Iterator[Shown]:
    """Yield `make` of every path in order; where there are many, other processes run `make`."""
    from vidrl.rewards._files.workers import map_in_processes

    if not jobs or len(paths) < MANY:
        yield from map(make, paths)
        return
    for done in map_in_processes(make, paths, jobs, PATIENCE):
        yield done.result if done.why is None else {"why": done.why}


def _clip_copy(path: str, protocol: Mapping[str, Any]) -> Shown:
    return _or_why(lambda: thumbnails(Path(path), protocol))


def _reference_copy(path: str, protocol: Mapping[str, Any]) -> Shown:
    return _or_why(lambda: {"picture": _first(Path(path), protocol)})


def _or_why(make: Callable[[], Shown]) -> Shown:
    """Return what `make` returns, or the reason why `make` failed."""
    try:
        return make()
    except (OSError, ValueError, MemoryError, ImportError) as error:
        return {"why": str(error).splitlines()[0][:200] if str(error) else type(error).__name__}


def thumbnails(path: Path, protocol: Mapping[str, Any]) -> Shown:
    """Return what is shown of one file, read by a protocol.

    Raises FileNotFoundError and Unreadable.
    """
    frames, count, fps, playing, at = _read(path, protocol)
    if count == 1:
        return {"image": _jpeg(frames[0], 2 * SIDE)}
    film = [_jpeg(frames[t], HEIGHT) for t in at]
    shown = {
        "video": film_of([frames[t] for t in range(playing)], fps),
        "film": film,
        "at": at,
        "covers": playing / count,
        "maps": _maps(frames, at, count, fps),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _first(path: Path, facts: Mapping[str, Any]) -> str:
    """Return an image, or the first frame of a film, as a small picture (base64)."""
    from vidrl.bench.scoring import read_reference

    frame = read_reference(path, _protocol(facts), all_frames=False)[0]
    height, width = frame.shape[-2:]
    return _jpeg(frame, min(GIVEN, GIVEN * height / width))


def _protocol(facts: Mapping[str, Any]) -> Protocol:
    from vidrl.bench.protocol import Protocol

    return Protocol(
        **{name: facts[name] for name in ("fps", "side", "frames", "decoder") if name in facts}
    )


def _read(
    path: Path, facts: Mapping[str, Any]
) -> tuple[dict[int, Tensor], int, float, int, list[int]]:
    """Return the frames (C, H, W) that are needed, by number, and four facts.

    The facts: how many frames the protocol measures, their rate, how many of them play, and
    the numbers of those that are shown.
    """
    import torch

    from vidrl.bench.clip import Clip
    from vidrl.bench.protocol import selected_frames
    from vidrl.rewards.flow import shrunk

    clip = Clip(path, _protocol(facts))
    count, fps = clip.frames, clip.fps
    playing, at = max(1, min(count, MOST, round(SECONDS * fps))), spaced(count)
    needed = sorted(
        {*range(playing), *at, *(t + _stride(fps, count) for t in at)} & set(range(count))
    )
    side = SIDE if count > 1 else 2 * SIDE
    small = torch.cat(
        [shrunk(piece[None], side)[0] for piece in selected_frames(clip.pieces(), needed)]
    )
    return dict(zip(needed, small, strict=False)), count, fps, playing, at


def spaced(count: int, most: int = FILM) -> list[int]:
    """Return the numbers of the shown frames, each in the middle of an equal part of the clip.

    >>> spaced(16), spaced(3)
    ([1, 3, 5, 7, 9, 11, 13, 15], [0, 1, 2])
    """
    shown = min(count, most)
    return [int((i + 0.5) * count / shown) for i in range(shown)]


def _stride(fps: float, count: int) -> int:
    from vidrl.rewards.warp_error import WarpError

    return WarpError().stride(fps, count)


def maps(
    frames: Mapping[int, Tensor], at: Iterable[int], count: int, fps: float
) -> dict[str, dict[int, Tensor]]:
    """Return the maps of `WarpError` at some frames of a clip, (H, W) by number of the frame.

    The maps are those of the whole clip with a shorter side of at most MAP pixels. Only the
    pairs of frames at `at` are computed; the last frames have no partner and no map.
    """
    import torch

    from vidrl.rewards import Samples
    from vidrl.rewards.warp_error import WarpError

    stride = _stride(fps, count)
    found = [t for t in at if t in frames and t + stride in frames]
    if not found:
        return {}
    pairs = torch.stack([torch.stack([frames[t], frames[t + stride]]) for t in found])
    drawn = WarpError(flow_size=MAP).maps(Samples(pairs, [""] * len(found), fps / stride))
    return {name: {t: drawn[name][i, 0] for i, t in enumerate(found)} for name in SCALES}


def _maps(
    frames: Mapping[int, Tensor], at: list[int], count: int, fps: float
) -> dict[str, list[str | None]]:
    drawn = maps(frames, at, count, fps)
    return {
        name: [_jpeg(_heat(found[t], SCALES[name]), HEIGHT) if t in found else None for t in at]
        for name, found in drawn.items()
    }


def _heat(values: Tensor, most: float) -> Tensor:
    """Colour a map (H, W) as a picture (3, H, W): black is 0, the brightest `most` and above.

    The square root makes small faults visible.
    """
    import cv2
    import torch

    brightness = (values.nan_to_num().clamp(min=0) / most).clamp(max=1).sqrt()
    grey = (brightness * 255).round().to(torch.uint8).cpu().numpy()
    return torch.from_numpy(
        cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1].copy()
    ).permute(2, 0, 1)


def _jpeg(picture: Tensor, height: float) -> str:
    """Return a picture (3, H, W) of bytes as a JPEG in base64, at most `height` pixels high."""
    import cv2

    frame = picture.permute(1, 2, 0).numpy()[..., ::-1]  # OpenCV writes BGR
    scale = min(1.0, height / frame.shape[0])
    size = [max(1, round(side * scale)) for side in (frame.shape[1], frame.shape[0])]
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame.copy()
    return base64.b64encode(
        cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    ).decode()


def film_of(frames: list[Tensor], fps: float) -> str | None:
    """Encode frames (3, H, W) of bytes as a small mp4, base64; None without PyAV."""
    import torch

    try:
        import av
    except ImportError:
        return None
    clip = _even(torch.stack(frames)).permute(0, 2, 3, 1).contiguous().numpy()
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(fps).limit_denominator(1001),
            # x264's tree of macroblocks reads memory that nobody wrote: files would differ
            options={"crf": "28", "preset": "veryfast", "x264-params": "mbtree=0"},
        )
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the same bytes on every machine
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return base64.b64encode(file.getvalue()).decode()


def _even(clip: Tensor) -> Tensor:
    """Shrink frames (F, 3, H, W) to a shorter side of SIDE at most, and to even sides.

    Half-resolution colour (yuv420p) needs even sides.
    """
    from torch.nn.functional import pad

    from vidrl.rewards.flow import shrunk

    small = shrunk(clip[None], SIDE)[0]
    height, width = small.shape[-2:]
    if height < 2 or width < 2:
        return pad(small, (0, 2 - width if width < 2 else 0, 0, 2 - height if height < 2 else 0))
    return small[..., : height // 2 * 2, : width // 2 * 2]
