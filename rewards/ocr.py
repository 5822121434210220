"""A reward that compares the text shown in a clip with the text its prompt quotes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidrl.lookup.extras import install

from ._networks.weights import interpolate_curve, sampled_frames
from .base import About, Card, Reward, Samples

CURE = f"ocr needs PP-OCR: {install('ocr')} && pip install --no-deps rapidocr-onnxruntime"


class Ocr(Reward):
    """How much of the text that the prompt quotes can be read in the clip, in [0, 1].

    A frame gets 1 - min(d, n) / n, where d is the edit distance between the text that is
    read and the quoted text, and n the length of the quoted text, both without spaces and
    case. A frame gets 1 if the quoted text is a part of the text that is read.

    `looks` frames a second are read, beginning with the first; between them the curve is
    interpolated linearly. With `pool="best"`, the clip gets the value of its best frame,
    and the curve is raised to that mean.

    Quoted text is text between double, curly or angle quotation marks, or between single
    ones if it is longer than a letter; several quotations are joined. `text`, if given,
    replaces the quotations of every prompt. A prompt without a quotation is inapplicable.

    `reader` is a function from a frame (H, W, 3) uint8 to the lines that it reads. The
    default is PP-OCRv4 on the CPU, which searches for text in frames whose shorter side is
    enlarged to `side` pixels. PP-OCR's own default, 736 pixels, is slower.

    Source: like the OCR reward of Flow-GRPO, arXiv:2505.05470.

    >>> video = torch.zeros(1, 4, 3, 16, 16)
    >>> samples = Samples(video, ['a sign that says "Sales"'], 8.0)
    >>> Ocr(reader=lambda frame: ["SALE"])(samples).value
    tensor([0.8000])
    """

    learned = True
    on_host = "the OCR engine reads one picture at a time, as bytes of the CPU"
    needs = ("rapidocr_onnxruntime", "onnxruntime", "pyclipper", "shapely", "yaml", "PIL", "cv2")
    extra = "ocr"
    lowered_by = ("blur", "mirror")
    range = (0.0, 1.0)
    lost = "inapplicable: the prompt quotes no text to be read"
    card = Card(
        sees="Quoted text in the picture, letter by letter.",
        blind_to="Everything else: where the text is, whether it moves with its sign, and other "
        "text as long as the quoted text can be read.",
        hacks="The text pasted flat on a frozen frame; a picture full of text that contains the "
        "quoted text.",
        input="Latin and Chinese letters of about 15 pixels and more.",
        cost="300 ms for each frame that is read, of 96 x 256 pixels with one line of text.",
    )

    def __init__(
        self,
        looks: float = 2.0,
        pool: Literal["mean", "best"] = "mean",
        text: str = "",
        side: int = 320,
        reader: Callable[[np.ndarray], list[str]] | None = None,
    ) -> None:
        super().__init__()
        if looks <= 0:
            raise ValueError(f"expected looks, frames a second, to be above 0, got {looks}")
        if pool not in ("mean", "best"):
            raise ValueError(f"expected pool to be one of mean, best, got {pool!r}")
        self.looks, self.pool = looks, pool
        self.text, self.side = text, side
        self.reader = reader

    @classmethod
    def tiny(cls) -> Ocr:
        """Return the reward with a reader that depends only on the brightness."""
        return cls(text="abc", reader=lambda frame: ["abcd"[: int(frame.mean()) % 4]])

    @torch.no_grad()
    def features(self, samples: Samples) -> Tensor:
        """Return how well the frames that are read match, NaN for the others, (B, F)."""
        return self.resume(samples, None, 0)[0]

    @torch.no_grad()
    def resume(self, samples: Samples, state: int | None, old: int) -> tuple[Tensor, int]:
        """Return the features after the `old` frames already scored, and the count."""
        frames, start = samples.frames[:, old:], state or 0
        curve = frames.new_full(frames.shape[:2], torch.nan)
        at = [t - start for t in sampled_frames(start, frames.shape[1], samples.fps, self.looks)]
        for row, (clip, prompt) in enumerate(zip(frames, samples.prompts)):
            wanted = plain(self.text or " ".join(quoted(prompt)))
            for t in at if wanted else ():
                curve[row, t] = likeness(self._read(clip[t]), wanted)
        return curve, start + frames.shape[1]

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the curve of all frames, (B, F)."""
        curve = torch.cat([interpolate_curve(row[None]) for row in features])
        if self.pool == "best":
            # shifted, not replaced: the mean becomes the best value, and the shape is kept
            curve = curve + curve.amax(1, keepdim=True) - curve.mean(1, keepdim=True)
        return curve

    def _read(self, frame: Tensor) -> str:
        """Return the text in a frame (C, H, W), without spaces and case."""
        if self.reader is None:
            self.reader = _rapid(self.side)
        picture = (frame.expand(3, -1, -1) * 255).round().clamp(0, 255).to(torch.uint8)
        return plain("".join(self.reader(picture.permute(1, 2, 0).cpu().numpy())))


def quoted(prompt: str) -> list[str]:
    """Return the texts between quotation marks.

    >>> quoted('a neon sign "OPEN 24h" by a shop called “Bob’s”')
    ['OPEN 24h', 'Bob’s']
    >>> quoted("a dog's 'big day' at the boys' club")
    ['big day']
    """
    # single marks count only outside words and around two letters or more: "dog's" quotes nothing
    found = re.findall(
        r'"([^"]+)"|“([^”]+)”|«([^»]+)»|「([^」]+)」|(?<!\w)\'([^\']{2,})\'(?!\w)', prompt
    )
    return [text.strip() for groups in found for text in groups if text.strip()]


def plain(text: str) -> str:
    """Return a text without spaces and case.

    >>> plain("Open 24 H")
    'open24h'
    """
    return "".join(text.lower().split())


def likeness(read: str, wanted: str) -> float:
    """Return 1 - edit distance / length of the wanted text, at least 0.

    The result is 1 if the wanted text is a part of the text that is read.

    >>> [likeness(read, "cat") for read in ("xxcatxx", "cut", "", "something else")]
    [1.0, 0.66..., 0.0, 0.0]
    """
    if wanted in read:
        return 1.0
    return 1 - min(distance(read, wanted), len(wanted)) / len(wanted)


def distance(first: str, second: str) -> int:
    """Return Levenshtein's distance: the fewest letters inserted, removed or changed.

    >>> distance("kitten", "sitting"), distance("", "abc")
    (3, 3)
    """
    # one row of the table of distances between all beginnings of the two texts
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def _rapid(side: int) -> Callable[[np.ndarray], list[str]]:
    """Return a reader that runs PP-OCRv4 by RapidOCR on one thread."""
    try:
        module: Any = importlib.import_module("rapidocr_onnxruntime")
    except ImportError as error:
        raise ImportError(CURE) from error
    engine = module.RapidOCR(
        intra_op_num_threads=1, inter_op_num_threads=1, det_limit_side_len=side
    )

    def read(frame: np.ndarray) -> list[str]:
        # RapidOCR expects blue, green, red
        return [text for _, text, _ in engine(np.ascontiguousarray(frame[..., ::-1]))[0] or []]

    return read
