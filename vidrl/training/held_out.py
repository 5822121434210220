"""The held-out prompts: the same noise, the deterministic sampler, whatever the weights and
however many processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.backbones.base import PromptCache
from vidrl.rewards import Reward, Samples, Score

from . import evaluate, stills
from .pieces import Pieces, pieces
from .policy import Policy
from .processes import Workers
from .rollout import SCORE_BATCH, clips, draws
from .scored import Scored
from .weight_drift import weight_drift

# The first 32 held-out prompts get a second clip: the distance of the two clips of a prompt
# measures the diversity of a group.
GROUP_PAIRS = 32
# Called between rounds, on every process, as callback(round, policy, name of the weights that
# are evaluated, workers, whether the run ends). It may have a method `check(backbone)`, which
# is called once before the run begins and raises ValueError for a model that does not suit it.
Callback = Callable[[int, Policy, str, Workers, bool], None]


class Abandoned(Exception):
    """An evaluation was interrupted on every process, because one of them received a signal
    to stop."""


class HeldOut:
    """Measures a policy's set of weights on the held-out prompts; each process does its
    share.

    Clips are decoded and scored in pieces of `score_batch`; only the first `show` of them
    are kept. Between rounds the first `eval_n` prompts may be enough (`train.eval_n`); 0 is
    all of them.
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
    ):
        self.prompts, self.reward, self.workers, self.encode, self.steps = (
            prompts,
            reward,
            workers,
            encode,
            steps,
        )
        self.decoding, self.show = pieces(score_batch), show
        self.eval_n = eval_n or len(prompts)
        self.shares = {n: workers.share(n, even=False) for n in (len(prompts), self.eval_n)}
        # of all of them: processes must agree on what is measured
        self.captions = evaluate.are_captions(prompts)

    def names(self, images: bool = False) -> list[str]:
        """The measures of an evaluation, of `images` those that need no time.

        Empty where the reward does not tell its parts before it scores a clip.
        """
        parts = getattr(self.reward, "parts", None)
        read = [f"verifier{one}" for one in ("", "_shape", "_colour", "_motion")] + ["identity"]
        own = [
            "composite",
            "unscored_share",
            "exposure",
            "diversity",
            "weight_drift",
            *(read if self.captions else ()),
        ]
        timed = {*stills.ACROSS, *stills.timed(self.reward)} if images else ()
        return [] if parts is None else [name for name in (*own, *parts) if name not in timed]

    def measure(
        self, policy: Policy, weights: str, batch: Pieces | int, all_prompts: bool = True
    ) -> tuple[evaluate.Measures, Samples | None, Score]:
        """Every prompt's numbers, of all processes; this process's first clips and the
        scores of all its clips.

        Where not `all_prompts`, only the first `eval_n` prompts are measured: their numbers
        are the first rows of those of all prompts. `batch`: clips sampled at once. A bar on
        the terminal counts this process's clips. Raises `Abandoned` where a signal asks to
        stop.
        """
        places = self.shares[len(self.prompts) if all_prompts else self.eval_n]
        seconds = [i for i in places if i < GROUP_PAIRS]
        with _bar(len(places) + len(seconds), self.workers.main) as self.bar, policy.using(weights):
            self.encode.learn([self.prompts[i] for i in places])
            scored, guards = self._scored(policy, places, batch)
            others = list(map(_thumbnails, self._clips(policy, seconds, "held out twin", batch)))
        # a signal reaches processes at different moments, but they must stop together
        if self.workers.agree(""):
            raise Abandoned
        score, seen = (
            scored.score,
            {name: np.concatenate([one[name] for one in guards]) for name in guards[0]},
        )
        own = evaluate.rewarded(score) | seen | {"diversity": _apart(scored.thumbnails, others)}
        # of the weights: all clips have one number
        drift = np.full(len(places), weight_drift(policy, weights))
        return (
            self.workers.gather_arrays(own | {"weight_drift": drift}),
            scored.first(self.show),
            score,
        )

    def _scored(
        self, policy: Policy, places: Sequence[int], batch: Pieces | int
    ) -> tuple[Scored, list[evaluate.Measures]]:
        """This process's clips, scored, and the guards of each piece."""
        scored, guards = Scored(self.reward, lambda values: range(min(self.show, len(values)))), []
        for samples in self._clips(policy, places, "held out", batch):
            scored.add(samples)
            guards.append(evaluate.guarded(samples, self.captions))
            del samples  # else these clips would live while the next are made
        return scored, guards

    def _clips(
        self, policy: Policy, places: Sequence[int], name: str, batch: Pieces | int
    ) -> Iterator[Samples]:
        prompts, noise = [self.prompts[i] for i in places], draws(0, [(name, i) for i in places])
        made = clips(
            policy,
            prompts,
            noise,
            self.steps,
            batch,
            self.decoding,
            self.encode,
            self.workers.autocast,
        )
        for samples in made:
            yield samples
            self.bar.update(len(samples))
            del samples  # else these clips would live while the next are made
            if self.workers.asked:
                return


def _bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, desc="held-out evaluation", unit="clip", leave=False, disable=not shown
    )


def _thumbnails(samples: Samples) -> Tensor:
    return evaluate.thumbnails(samples.frames)


def _apart(thumbnails: Tensor, seconds: Sequence[Tensor]) -> np.ndarray:
    """Distance (B,) of each clip to the second clip of its prompt; NaN without a second clip."""
    found = np.full(len(thumbnails), np.nan)
    if seconds:
        pairs = zip(thumbnails, torch.cat(list(seconds)), strict=False)
        distances = [float((a - b).abs().mean()) for a, b in pairs]
        found[: len(distances)] = distances
    return found
