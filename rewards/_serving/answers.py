"""What the answers of a score server are worth: a score of the clips that were sent, or a
reason."""

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
    """The score of an answer to so many clips of so many frames, or why it is none."""
    try:
        score = unpack_score(said)
    except ValueError as error:
        return f"unscored: the answer cannot be read: {error}"
    if not has_size(score, clips, frames):
        return f"unscored: the answer is not of {clips} clips of {frames} frames"
    return unscore_nonfinite(score)


def has_size(score: Score, clips: int, frames: int) -> bool:
    """Whether a score and its parts are of so many clips of so many frames."""
    curve = score.frames is None or score.frames.shape == (clips, frames)
    return (
        len(score.value) == clips
        and curve
        and all(has_size(part, clips, frames) for part in score.parts.values())
    )


def unscore_nonfinite(score: Score) -> Score:
    """The score in which each clip has finite numbers and no reason, or NaN as its value
    and a reason.

    >>> unscore_nonfinite(Score(torch.tensor([1.0, torch.inf, 2.0]), why=[None, None, "unscored: dark"])).value
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
    """Which clips have finite numbers alone, (B,)."""
    every = [score.value, *score.slopes.values(), *score.adds.values()]
    every += [] if score.frames is None else [score.frames]
    return torch.stack(
        [numbers.reshape(len(numbers), -1).isfinite().all(1) for numbers in every]
    ).all(0)


def describe_refusal(status: int, said: bytes, url: str) -> str:
    """What a refusal says, in one line that is safe to show."""
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
    """One score of several pieces of a batch, of so many clips and frames each; a reason
    gives NaN.

    A piece whose answer has another support, other weights or other parts than that of the
    first clip that is scored leaves its clips unscored.
    """
    scores = [part for part in found if isinstance(part, Score)]
    told = next(
        (score for score in scores if score.value.isfinite().any()), scores[0] if scores else None
    )
    return _together(
        [_piece(part, told, size) for part, size in zip(found, sizes, strict=True)], told
    )


def _piece(part: Score | str, told: Score | None, size: tuple[int, int]) -> Score:
    """The score of one piece, blank where it cannot stand in one batch with `told`."""
    if isinstance(part, str) or told is None:
        return _blank(size, [str(part)] * size[0])
    differs = first_difference(part, told)
    return _blank(size, [why or ANOTHER.format(differs) for why in part.why]) if differs else part


def first_difference(score: Score, told: Score) -> str | None:
    """In what a score differs from another of the same reward, which it must not; None
    where in nothing."""
    facts = {
        "support": lambda one: one.support,
        "weights": lambda one: one.weights,
        "parts": lambda one: set(one.parts),
        "slopes": lambda one: set(one.slopes),
        "adds": lambda one: set(one.adds),
        "curves": lambda one: one.frames is None,
    }
    differs = next((name for name, fact in facts.items() if fact(score) != fact(told)), None)
    deeper = (
        first_difference(score.parts[name], part)
        for name, part in told.parts.items()
        if not differs
    )
    return differs or next((name for name in deeper if name), None)


def _together(scores: Sequence[Score], told: Score | None) -> Score:
    """One score of several; a blank one, which has no parts, gives NaN and its reason to
    those of `told`."""
    told = told or scores[0]
    value, why = torch.cat([s.value for s in scores]), [reason for s in scores for reason in s.why]
    curves = (
        None
        if told.frames is None
        else torch.cat([s.frames for s in scores if s.frames is not None])
    )
    parts = {
        name: _together([s.parts.get(name, s) for s in scores], part)
        for name, part in told.parts.items()
    }
    slopes = {
        name: torch.cat([s.slopes.get(name, s.value * math.nan) for s in scores])
        for name in told.slopes
    }
    lost = [s.value[:, None].expand(-1, 2) * math.nan for s in scores]
    adds = {
        name: torch.cat([s.adds.get(name, no) for s, no in zip(scores, lost)]) for name in told.adds
    }
    return Score(value, curves, told.support, parts, why, told.weights, slopes, adds=adds)


def to_device(score: Score, device: torch.device) -> Score:
    """The score with its tensors on `device`."""
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
    return Score(torch.full(size[:1], math.nan), torch.full(size, math.nan), "clip", why=list(why))
