"""Choose the clips of files that a round trains on, and add a loss on clips to another loss.

Legend: E entries of a table (a clip or a pair), N samples of a round over all processes, B
of this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from math import ceil

import torch

from vidrl import config, plugin
from vidrl.algorithms.base import Algorithm, Batch, Experience
from vidrl.backbones.base import PromptCache
from vidrl.diffusion.segments import frame_spans
from vidrl.rewards import Reward
from vidrl.training.chunks import check_one_piece
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import Plan, Rollout, draws

from . import clip_latents
from .clip_files import Table, shown
from .clip_latents import BadData, Clips


class Files:
    """The files of clips that a run learns from.

    `source` is the kind of file from which the rounds take their samples: "clips", "pairs",
    or "" if the policy samples them. `check` reads no clip. `read` encodes the clips, once;
    `experience` calls `read` if nobody did, and `notes` counts clips only after `read`.
    """

    def __init__(
        self,
        recipe: config.Recipe,
        algorithm: Algorithm,
        policy: Policy,
        workers: Workers,
        encode: PromptCache,
    ):
        self.recipe = recipe
        self.policy = policy
        self.workers = workers
        self.encode = encode
        self.n = recipe.train.prompts_per_round * recipe.train.group
        self.source, self.weight = config.offline(recipe, algorithm.data), recipe.train.data_weight
        self.tables = tables(recipe, algorithm)
        self.clips: dict[str, Clips] = {}  # the encoded clips of each table, once `read` was called
        updates = getattr(algorithm, "updates", 1)
        # Each optimiser step needs a row, and a row is a (clip, noise) pair: a round with fewer
        # clips than optimiser steps needs several noises a clip.
        noises = ceil(updates / self.n)
        self.data_loss: Algorithm = plugin.load("algorithms", "sft", noises=noises, updates=updates)

    @property
    def prompts(self) -> list[str]:
        """The prompts that are trained on."""
        if self.source:
            return self.tables[self.source].prompts
        return config.read_prompts(self.recipe.data.prompts)

    @property
    def width(self) -> int:
        """The number of clips in a row of the table; 0 if the policy samples."""
        return {"clips": 1, "pairs": 2, "": 0}[self.source]

    @property
    def members(self) -> int:
        """The number of samples of a group; see `config.members`."""
        return self.width or self.recipe.train.group

    def places(self, width: int = 0) -> tuple[list[str], list[int]]:
        """Return labels of a round's prompts, and the indices of this process's samples.

        The labels are row numbers, since the prompts are not known before the round's clips
        are chosen.
        """
        width = width or self.width
        index = [
            width * row + j for row in self.workers.share(self.n // width) for j in range(width)
        ]
        return [f"row {place // width}" for place in range(self.n)], index

    @property
    def notes(self) -> list[str]:
        """Notes on the files to show to the user, complete after `read`."""
        counts = [
            f"data.{key}: {len(clips.entries)} {'clips' if clips.width == 1 else key} "
            "are learned from"
            + (
                f"; {len(clips.left_out)} left out: {shown(clips.left_out)}"
                if clips.left_out
                else ""
            )
            for key, clips in self.clips.items()
        ]
        unused = f"data.prompts is not used: the prompts are those of data.{self.source}"
        remarks = [note for table in self.tables.values() for note in table.notes]
        return [*remarks, *counts, *([unused] if self.source and self.recipe.data.prompts else [])]

    def check(self, plan: Plan, reward: Reward) -> None:
        """Fail early: raise the errors of the first round before any clip is read."""
        if self.weight:
            self.data_loss.setup(self.policy, reward, self.recipe.train.group)
        for key, table in self.tables.items():
            cure = "train the backbone of one chunk on them first"
            check_one_piece(self.policy.backbone, f"data.{key}", cure)
            self.policy.backbone.check_encodes_video()
            check(
                table,
                key,
                self.n,
                self.workers.count,
                plan if key == self.source else self._data_loss_plan(0),
            )

    def read(self) -> None:
        """Read and encode the clips, once."""
        for key, table in self.tables.items() if not self.clips else ():
            self.clips[key] = clip_latents.read(
                table, self.policy.backbone, self.workers, self.recipe.data.strict
            )

    def experience(self, round: int, plan: Plan, key: str = "") -> Experience:
        """Return the round's samples; the clips of a pair are neighbours, the chosen one first."""
        self.read()
        clips = self.clips[key or self.source]
        width, seed = clips.width, self.recipe.seed
        chosen = dealt(len(clips.entries), self.n // width, round, seed, "data")
        index = self.places(width)[1]
        prompts = [clips.entries[e].prompt for e in chosen for _ in range(width)]
        on_cpu = self.recipe.train.rollouts_on_cpu
        device = torch.device("cpu") if on_cpu else self.workers.device
        latents = clips.latents[clips.places[chosen].flatten()[index]].to(device)
        empty = latents.new_zeros(len(latents), 0)
        cond = self.encode.shared([prompts[i] for i in index], device)
        rollout = Rollout(cond, latents, empty, empty, empty, plan)
        pairs = (
            (torch.arange(self.n).view(-1, 2), clips.labels(chosen, self._seconds(plan.segments)))
            if width == 2
            else (None, None)
        )
        no_credit, group = torch.zeros(self.n, plan.segments), torch.arange(self.n) // width
        return Experience(
            rollout, no_credit, group, prompts, torch.tensor(index), seed, round, *pairs
        )

    def _seconds(self, segments: int) -> list[tuple[float, float]]:
        """Return the begin and the end of each segment in the seconds of a clip."""
        backbone = self.policy.backbone
        spans = frame_spans(backbone.frame_map, segments)
        return [(begin / backbone.fps, end / backbone.fps) for begin, end in spans]

    def data_loss_parts(self, round: int) -> Iterator[tuple[Algorithm, Batch, float]] | None:
        """Return an endless iterator of data-loss batches for a round's optimiser steps.

        Each item is (algorithm, batch, weight): the total is reward loss + weight · data
        loss, as in DDRL (arXiv 2512.04332). None if `train.data_weight` is 0.
        """
        if not self.weight:
            return None
        experience = self.experience(round, self._data_loss_plan(round), "clips")
        return (
            (self.data_loss, batch, self.weight)
            for _ in count()
            for batch in self.data_loss.minibatches(experience)
        )

    def _data_loss_plan(self, round: int) -> Plan:
        """Return the data loss's plan of a round."""
        return self.data_loss.plan(self.policy.backbone, round, torch.Generator())


def tables(recipe: config.Recipe, algorithm: Algorithm) -> dict[str, Table]:
    """Return the tables of clips or pairs that a run learns from, by their keys of [data]."""
    source = config.offline(recipe, algorithm.data)
    keys = [key for key in (source, "clips" if recipe.train.data_weight else "") if key]
    return {key: config.read_table(recipe.data, key) for key in keys}


def check(table: Table, key: str, n: int, workers: int, plan: Plan) -> None:
    """Raise BadData if a round of n clips, the processes or the plan do not suit a table."""
    width = len(table.entries[0].clips)
    if n % (width * workers):
        processes = f"; {workers} processes share it" if workers > 1 else ""
        raise BadData(
            f"data.{key}: expected train.prompts_per_round x train.group clips to be a multiple of "
            f"{width * workers} ({width} a row{processes}), got {n}: change one of the two"
        )
    if plan.keep:
        raise BadData(
            f"data.{key}: expected an algorithm that keeps no sampling steps, because clips of "
            "files were not sampled step by step: use another algorithm"
        )
    other = next((e for e in table.entries if len(e.labels) not in (0, 1, plan.segments)), None)
    if other is not None:
        raise BadData(
            f"data.{key}, {other.where}: expected one label for each segment, {plan.segments}, got "
            f"{len(other.labels)}: set algorithm.options.segments = {len(other.labels)}"
        )


def dealt(total: int, n: int, round: int, seed: int, name: str) -> list[int]:
    """Return the indices of the items of a round, `n` of `total`.

    All items come once in a random order before a new order begins. The order depends only
    on the seed, the name and the number of the pass, so that resumed runs repeat it.

    >>> dealt(3, 2, 0, 0, "x") + dealt(3, 2, 1, 0, "x")[:1] == dealt(3, 3, 0, 0, "x")
    True
    """
    chosen = []
    for place in range(round * n, (round + 1) * n):
        # rounds take neighbouring places of an endless list of shuffled passes over the items
        epoch, position = divmod(place, total)
        order = torch.randperm(total, generator=draws(seed, [(name, epoch)])[0])
        chosen.append(int(order[position]))
    return chosen
