"""VMAF: a reward that measures how well a clip keeps the quality of a reference clip."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidrl.lookup.extras import install

from .base import Card, Reward, Samples, Score, all_unscored, refusals, score_of_curves

CURE = f"vmaf needs an ffmpeg with libvmaf: {install('vmaf')}, or name one as ffmpeg=PATH"
LOG = "vmaf.json"


class Vmaf(Reward):
    """The VMAF quality that each frame has, compared with the same frame of a reference.

    The range is [0, 100]; from about 97 on people see no loss. The reference is
    `Samples.reference`, a clip of the same length, resized to the size of the judged clip
    if needed. A clip without a reference is inapplicable. With `still`, a reference of one
    frame is compared with every frame; without a reference, the clip's first frame is the
    reference, which measures how well an image-to-video model keeps its image. `model` is
    the name of a model that libvmaf has. The default, NEG, does not reward sharpening and
    contrast; "vmaf_v0.6.1" does.

    Frames go to `ffmpeg` (that of imageio-ffmpeg, or the one on the PATH) as raw files in a
    temporary folder. ffmpeg is stopped after `limit` seconds, and the clip is then
    unscored. Raises ImportError if there is no ffmpeg or it has no libvmaf. Clips cannot be
    scored in pieces.

    Source: Li et al., Toward a practical perceptual video quality metric, Netflix 2016.

    >>> Vmaf(limit=0)
    Traceback (most recent call last):
    ...
    ValueError: expected limit, seconds, to be above 0, got 0
    """

    learned = True
    needs = ("imageio_ffmpeg",)
    on_host = "VMAF is a filter of ffmpeg, which reads frames from files"
    extra = "vmaf"
    lowered_by = ("blur", "noise", "codec")
    range = (0.0, 100.0)
    card = Card(
        sees="Loss of detail, blur, blocks, noise and changed motion compared with the "
        "reference, frame by frame.",
        blind_to="Colour. Time, except for how much the reference moves. A clip that is better "
        "than its reference.",
        hacks="Copying the reference. With the model vmaf_v0.6.1: sharpening and raising contrast.",
        input="A reference of the same length and content, frame by frame. 16 pixels or more; "
        "made for 1080 lines.",
    )

    least_side = 16

    def __init__(
        self,
        model: str = "vmaf_v0.6.1neg",
        still: bool = False,
        ffmpeg: str = "",
        limit: float = 300.0,
    ) -> None:
        super().__init__()
        if limit <= 0:
            raise ValueError(f"expected limit, seconds, to be above 0, got {limit}")
        if not re.fullmatch(r"[\w.]+", model):
            raise ValueError(
                f"expected model to be the name of one that libvmaf knows, got {model!r}"
            )
        self.model, self.still = model, still
        self.ffmpeg, self.limit = ffmpeg, limit
        self.command = ""

    @classmethod
    def tiny(cls) -> Vmaf:
        """Return the reward that compares a clip with its own first frame."""
        return cls(still=True)

    def setup(self) -> str:
        """Find an ffmpeg with libvmaf and return its path."""
        if not self.command:
            self.command = checked(self.ffmpeg or _ffmpeg())
        return self.command

    @torch.no_grad()
    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        why = refusals(samples, 1, self.least_side)
        references = self._references(samples)
        if isinstance(references, str):
            return all_unscored(
                samples, self.time_support, [reason or references for reason in why]
            )
        curves = samples.frames.new_full(samples.video.shape[:2], math.nan, dtype=torch.float32)
        rows = [i for i, reason in enumerate(why) if reason is None]
        for i in rows:
            curve = self._measure(samples.frames[i], references[i], samples.fps)
            if isinstance(curve, str):
                why[i] = curve
            else:
                curves[i] = curve.to(curves)
        scored = [i for i in rows if why[i] is None]
        return (
            score_of_curves(curves[scored], self.time_support, why, scored)
            if scored
            else all_unscored(samples, self.time_support, why)
        )

    def _references(self, samples: Samples) -> Tensor | str:
        """Return the reference of each clip, or the reason why there is none."""
        given, (clips, frames) = samples.reference, samples.video.shape[:2]
        if given is None and self.still:
            given = samples.frames[:, :1]
        if given is None:
            return (
                "inapplicable: needs the clip to compare with, as Samples(..., reference=clip), "
                "or still=True"
            )
        given = given.float() / 255 if given.dtype == torch.uint8 else given
        given = (
            given.expand(-1, frames, -1, -1, -1) if self.still and given.shape[1] == 1 else given
        )
        if given.shape[:2] != (clips, frames):
            return f"inapplicable: needs a reference of {frames} frames, got {given.shape[1]}"
        return given

    def _measure(self, clip: Tensor, reference: Tensor, fps: float) -> Tensor | str:
        """Return the curve (F,) of a clip (F, C, H, W), or the reason why there is none."""
        command = self.setup()
        reference = interpolate(
            reference.float(), size=clip.shape[-2:], mode="bicubic", antialias=True
        )
        with tempfile.TemporaryDirectory() as folder:
            for name, frames in (("clip", clip), ("reference", reference)):
                Path(folder, name).write_bytes(raw(frames))
            arguments = call(command, clip.shape[-1], clip.shape[-2], fps, self.model)
            try:
                done = subprocess.run(
                    arguments, cwd=folder, capture_output=True, timeout=self.limit, check=False
                )
            except subprocess.TimeoutExpired:
                return f"unscored: ffmpeg took more than {self.limit:g} seconds; raise limit"
            log = Path(folder, LOG)
            if done.returncode or not log.is_file():
                message = done.stderr.decode(errors="replace").strip()[-200:]
                return f"unscored: ffmpeg failed: {message}"
            return parsed(log.read_text(), len(clip))


def raw(frames: Tensor) -> bytes:
    """Return frames (F, C, H, W) in [0, 1] as bytes: red, green, blue of each pixel."""
    colour = frames.expand(-1, 3, -1, -1)
    return (
        (colour * 255)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
        .tobytes()
    )


def call(command: str, width: int, height: int, fps: float, model: str) -> list[str]:
    """Return the command that compares the files `clip` and `reference` of its folder.

    The command writes `vmaf.json` into that folder.
    """
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    judge = f"libvmaf=model=version={model}:log_fmt=json:log_path={LOG}:n_threads=1"
    # VMAF reads only the luma of the converted frames
    graph = f"[0:v]format=yuv444p[a];[1:v]format=yuv444p[b];[a][b]{judge}"
    inputs = [*source, "-i", "clip", *source, "-i", "reference"]
    return [
        command,
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostdin",
        *inputs,
        "-lavfi",
        graph,
        "-f",
        "null",
        "-",
    ]


def parsed(log: str, frames: int) -> Tensor | str:
    """Return the curve (F,) in libvmaf's log, or the reason why there is none.

    >>> parsed('{"frames": [{"metrics": {"vmaf": 90.0}}, {"metrics": {"vmaf": 80.5}}]}', 2)
    tensor([90.0000, 80.5000])
    """
    try:
        values = [frame["metrics"]["vmaf"] for frame in json.loads(log)["frames"]]
    except (ValueError, KeyError, TypeError):
        return (
            "unscored: expected libvmaf's log with a number a frame, got something else; "
            "check the version of ffmpeg"
        )
    if len(values) != frames:
        return f"unscored: expected {frames} frames in libvmaf's log, got {len(values)}"
    return torch.tensor(values, dtype=torch.float32)


def checked(command: str, ask: Sequence[str] = ("-hide_banner", "-filters")) -> str:
    """Return `command` if it runs and has libvmaf; raise ImportError if not."""
    try:
        filters = subprocess.run(
            [command, *ask], capture_output=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImportError(f"{CURE}; {command} does not run") from error
    if b" libvmaf " not in filters:
        raise ImportError(f"{CURE}; {command} has no libvmaf")
    return command


def _ffmpeg() -> str:
    """Return the path of an ffmpeg: that of imageio-ffmpeg, or the one on the PATH."""
    try:
        found: str | None = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
    if found is None:
        raise ImportError(CURE)
    return found
