"""Check the answers of a score server and join the scores of a batch's pieces.

An answer is either a score of the clips that were sent, or a reason why there is none.
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..base import Score
from .printable import printable
from .wire import unpack_score

LONGEST_ERROR = 1 << 16  # bytes of the JSON of an error: more is not parsed
NOT_FINITE = "unscored: the server's numbers for this clip are not finite"
ANOTHER = "unscored: the answers about one batch are of different rewards: their {} differ"


def read_answer(said: bytes, clips: int, frames: int) -> Score | str:
    """Return the score of an answer about `clips` clips of `frames` frames, or why it has none."""
    try:
        score = unpack_score(said)
    except ValueError as error:
        return f"unscored: the answer cannot be read: {error}"
    if not has_size(score, clips, frames):
        return f"unscored: the answer is not of {clips} clips of {frames} frames"
    return unscore_nonfinite(score)


def has_size(score: Score, clips: int, frames: int) -> bool:
    """Return whether a score and all its parts are of `clips` clips of `frames` frames."""
    curve = score.frames is None or score.frames.shape == (clips, frames)
    return (
        len(score.value) == clips
        and curve
        and all(has_size(part, clips, frames) for part in score.parts.values())
    )


def unscore_nonfinite(score: Score) -> Score:
    """Return the score with NaN and a reason for each clip whose numbers are not all finite.

    In the result a clip has either finite numbers and no reason, or NaN and a reason.

    >>> why = [None, None, "unscored: dark"]
    >>> unscore_nonfinite(Score(torch.tensor([1.0, torch.inf, 2.0]), why=why)).value
    tensor([1., nan, nan])
    """
    lost = ~_finite(score)
    why = [
        reason or (NOT_FINITE if gone else None)
        for reason, gone in zip(score.why, lost.tolist(), strict=True)
    ]
    lost |= torch.tensor([reason is not None for reason in why])
    parts = {name: unscore_nonfinite(part) for name, part in score.parts.items()}
    frames = None if score.frames is None else score.frames.masked_fill(lost[:, None], math.nan)
    slopes, adds = (
        {name: one.masked_fill(one.isinf(), math.nan) for name, one in named.items()}
        for named in (score.slopes, score.adds)
    )
    value = score.value.masked_fill(lost, math.nan)
    return replace(
        score, value=value, frames=frames, parts=parts, why=why, slopes=slopes, adds=adds
    )


def _finite(score: Score) -> Tensor:
    """Return which clips have only finite numbers, (B,) bool."""
    every = [score.value, *score.slopes.values(), *score.adds.values()]
    every += [] if score.frames is None else [score.frames]
    return torch.stack(
        [numbers.reshape(len(numbers), -1).isfinite().all(1) for numbers in every]
    ).all(0)


def describe_refusal(status: int, said: bytes, url: str) -> str:
    """Return the error that a server answered, as one line that is safe to show."""
    try:
        message = json.loads(said[:LONGEST_ERROR])["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        message = None
    if 300 <= status < 400:
        message = "it redirects elsewhere, which is not followed; give the right address"
    if not isinstance(message, str):
        message = http.client.responses.get(status, "no reason that can be read")
    return printable(f"{url or 'the scorer'} answered {status}: {message}")


def join_scores(found: Sequence[Score | str], sizes: Sequence[tuple[int, int]]) -> Score:
    """Join the scores of a batch's pieces, of (clips, frames) each; a reason gives NaN.

    All pieces must come from one reward. A piece whose answer has another support, other
    weights or other parts than the first answer with a scored clip leaves its clips
    unscored.
    """
    scores = [part for part in found if isinstance(part, Score)]
    # An answer without any scored clip may lack its parts, so it is a poor model for the others.
    model = next(
        (score for score in scores if score.value.isfinite().any()), scores[0] if scores else None
    )
    return _together(
        [_piece(part, model, size) for part, size in zip(found, sizes, strict=True)], model
    )


def _piece(part: Score | str, model: Score | None, size: tuple[int, int]) -> Score:
    """Return the score of one piece, blank if it does not fit the answer `model`."""
    if isinstance(part, str) or model is None:
        return _blank(size, [str(part)] * size[0])
    differs = first_difference(part, model)
    return _blank(size, [why or ANOTHER.format(differs) for why in part.why]) if differs else part


def first_difference(score: Score, model: Score) -> str | None:
    """Return the name of the first fact in which two scores of one reward differ, else None."""
    facts = {
        "support": lambda one: one.support,
        "weights": lambda one: one.weights,
        "parts": lambda one: set(one.parts),
        "slopes": lambda one: set(one.slopes),
        "adds": lambda one: set(one.adds),
        "curves": lambda one: one.frames is None,
    }
    differs = next((name for name, fact in facts.items() if fact(score) != fact(model)), None)
    deeper = (
        first_difference(score.parts[name], part)
        for name, part in model.parts.items()
        if not differs
    )
    return differs or next((name for name in deeper if name), None)


def _together(scores: Sequence[Score], model: Score | None) -> Score:
    """Join scores that fit `model`; a blank score gives NaN and its reason to all parts."""
    model = model or scores[0]
    value, why = torch.cat([s.value for s in scores]), [reason for s in scores for reason in s.why]
    curves = (
        None
        if model.frames is None
        else torch.cat([s.frames for s in scores if s.frames is not None])
    )
    parts = {
        name: _together([s.parts.get(name, s) for s in scores], part)
        for name, part in model.parts.items()
    }
    slopes = {
        name: torch.cat([s.slopes.get(name, s.value * math.nan) for s in scores])
        for name in model.slopes
    }
    lost = [s.value[:, None].expand(-1, 2) * math.nan for s in scores]
    adds = {
        name: torch.cat([s.adds.get(name, no) for s, no in zip(scores, lost)])
        for name in model.adds
    }
    return Score(value, curves, model.support, parts, why, model.weights, slopes, adds=adds)


def to_device(score: Score, device: torch.device) -> Score:
    """Return the score with its tensors on `device`."""
    frames = None if score.frames is None else score.frames.to(device)
    parts = {name: to_device(part, device) for name, part in score.parts.items()}
    slopes, adds = (
        {name: one.to(device) for name, one in named.items()}
        for named in (score.slopes, score.adds)
    )
    return Score(
        score.value.to(device),
        frames,
        score.support,
        parts,
        score.why,
        score.weights,
        slopes,
        adds=adds,
    )


def _blank(size: tuple[int, int], why: Sequence[str]) -> Score:
    """Return a score of NaN for (clips, frames), with the reasons `why`."""
    return Score(torch.full(size[:1], math.nan), torch.full(size, math.nan), "clip", why=list(why))
