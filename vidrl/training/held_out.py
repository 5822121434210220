"""Measure a policy on the held-out prompts.

Every evaluation uses the same noise and the deterministic sampler, for every set of weights
and every number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.backbones.base import PromptCache
from vidrl.rewards import Reward, Samples, Score

from . import evaluate, stills
from .clips import clips
from .lockstep import Lockstep
from .pieces import Pieces, pieces
from .policy import Policy
from .processes import Workers
from .rollout import SCORE_BATCH, draws
from .scored import ChunkWorkers, Scored
from .weight_drift import weight_drift

# The first 32 held-out prompts get a second clip, with other noise: the distance between the
# two clips of a prompt measures the diversity of a group.
GROUP_PAIRS = 32
# Called between rounds, on every process, as callback(round, policy, name of the weights that
# are evaluated, workers, whether the run ends). It may have a method `check(backbone)`, which
# is called once before the run begins and raises ValueError for a model that does not suit it.
Callback = Callable[[int, Policy, str, Workers, bool], None]


class Abandoned(Exception):
    """An evaluation was interrupted, on every process, because one received a signal to stop."""


class HeldOut:
    """The held-out prompts, on which a named set of a policy's weights is measured.

    Each process measures its own part of the prompts. `encode` encodes them, and `steps`
    is the number of denoising steps. Clips are decoded and scored in pieces of
    `score_batch`; only the first `show` clips are kept. Between rounds, the first `eval_n`
    prompts are measured (`train.eval_n`); 0 stands for all prompts. `reward_workers` score
    the clips while the next ones are made.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        reward: Reward,
        workers: Workers,
        encode: PromptCache,
        steps: int,
        score_batch: Pieces | int = SCORE_BATCH,
        show: int = 8,
        eval_n: int = 0,
        reward_workers: ChunkWorkers | None = None,
    ):
        self.prompts, self.reward = prompts, reward
        self.reward_workers = reward_workers
        self.workers, self.encode = workers, encode
        self.steps = steps
        self.decoding, self.show = pieces(score_batch), show
        self.eval_n = eval_n or len(prompts)
        self.shares = {n: workers.share(n, even=False) for n in (len(prompts), self.eval_n)}
        # Asked of all prompts, not of this process's part: every process must gather the same
        # measures, or each would wait for the others for ever.
        self.captions = evaluate.are_captions(prompts)

    def names(self, images: bool = False) -> list[str]:
        """Return the names of an evaluation's measures; of `images` those for one frame.

        Empty where the reward's parts are not known before it scores a clip.
        """
        parts = getattr(self.reward, "parts", None)
        verifier = [f"verifier{part}" for part in ("", "_shape", "_colour", "_motion")]
        own = [
            "composite",
            "unscored_share",
            "exposure",
            "diversity",
            "weight_drift",
            *((*verifier, "identity") if self.captions else ()),
        ]
        timed = {*stills.ACROSS, *stills.timed(self.reward)} if images else ()
        return [] if parts is None else [name for name in (*own, *parts) if name not in timed]

    def measure(
        self, policy: Policy, weights: str, batch: Pieces | int, all_prompts: bool = True
    ) -> tuple[evaluate.Measures, Samples | None, Score]:
        """Return the measures of all processes, the shown clips, and this process's scores.

        Unless `all_prompts`, only the first `eval_n` prompts are measured; their numbers
        are the first rows of a measurement of all prompts. `batch`: how many clips are
        sampled at once. A bar on the terminal counts this process's clips. Raises
        `Abandoned` where a signal asks to stop.
        """
        places = self.shares[len(self.prompts) if all_prompts else self.eval_n]
        second = [i for i in places if i < GROUP_PAIRS]
        bar = _bar(len(places) + len(second), self.workers.main)
        with bar, policy.using(weights):
            # one visit of an offloaded text encoder for all prompts
            self.encode.learn([self.prompts[i] for i in places])
            first = self._clips(policy, places, "held out", batch)
            scored, guards = self._scored(_counted(first, bar))
            second_clips = self._clips(policy, second, "held out twin", batch)
            others = list(map(_thumbnails, _counted(second_clips, bar)))
        # A signal reaches processes at different moments, but they must stop together:
        # `agree("")` returns the reason of any process, "" if none has one.
        if self.workers.agree(""):
            raise Abandoned
        score = scored.score  # the last clips may have been scored beside the second ones
        measures = evaluate.rewarded(score) | guards
        measures["diversity"] = _distances(scored.thumbnails, others)
        # the drift belongs to the weights, so that all clips have the same number
        measures["weight_drift"] = np.full(len(places), weight_drift(policy, weights))
        return self.workers.gather_arrays(measures), scored.first(self.show), score

    def _scored(self, clips: Iterator[Samples]) -> tuple[Scored, evaluate.Measures]:
        """Score this process's clips; return them with the guards' measures."""
        scored = Scored(
            self.reward, lambda values: range(min(self.show, len(values))), self.reward_workers
        )
        guards = []
        for samples in clips:
            scored.add(samples)
            guards.append(evaluate.guarded(samples, self.captions))
            del samples  # else these clips would stay in memory while the next are made
        names = guards[0]
        return scored, {name: np.concatenate([piece[name] for piece in guards]) for name in names}

    def _clips(
        self, policy: Policy, places: Sequence[int], name: str, batch: Pieces | int
    ) -> Iterator[Samples]:
        """Generate the clips of these prompts, a few at a time, until a signal asks to stop.

        `name` gives the clips' noise its name, so that a prompt's two clips differ.
        """
        # processes that share the weights must sample equally many clips
        padding = Lockstep(self.workers, policy).most(len(places)) - len(places)
        padded = [*places, *[0] * padding]
        prompts, noise = [self.prompts[i] for i in padded], draws(0, [(name, i) for i in padded])
        generated = clips(
            policy,
            prompts,
            noise,
            self.steps,
            batch,
            self.decoding,
            self.encode,
            self.workers.autocast,
        )
        left = len(places)
        for samples in generated:
            if left:
                yield samples if len(samples) <= left else _first(samples, left)
            left -= min(left, len(samples))
            del samples  # else these clips would stay in memory while the next are made
            # a process that stopped alone would leave the others waiting inside the network
            if self.workers.asked and not self.workers.together:
                return


def _bar(total: int, shown: bool) -> Any:
    """Return a progress bar over clips; it prints nothing unless `shown`."""
    from tqdm import tqdm

    return tqdm(
        total=total, desc="held-out evaluation", unit="clip", leave=False, disable=not shown
    )


def _counted(clips: Iterator[Samples], bar: Any) -> Iterator[Samples]:
    """Yield clips, and count them on the progress bar when they are used."""
    for samples in clips:
        yield samples
        bar.update(len(samples))
        del samples  # else these clips would stay in memory while the next are made


def _first(samples: Samples, n: int) -> Samples:
    """Return the first n clips."""
    reference = None if samples.reference is None else samples.reference[:n]
    return Samples(samples.video[:n], samples.prompts[:n], samples.fps, reference)


def _thumbnails(samples: Samples) -> Tensor:
    return evaluate.thumbnails(samples.frames).cpu()


def _distances(thumbnails: Tensor, others: Sequence[Tensor]) -> np.ndarray:
    """Return the distance (B,) of each clip to its prompt's second clip; NaN without one."""
    found = np.full(len(thumbnails), np.nan)
    if others:
        # not strict: only the first prompts have a second clip
        pairs = zip(thumbnails, torch.cat(list(others)), strict=False)
        distances = [float((a - b).abs().mean()) for a, b in pairs]
        found[: len(distances)] = distances
    return found
