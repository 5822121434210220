"""Take a round's optimiser steps: micro-batches, and gradients over all processes.

Before the first update, the ratio of a policy to itself is proven to be 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch
from torch import Tensor

from vidrl.algorithms.base import Algorithm, Batch, Experience, Loss
from vidrl.config import Train
from vidrl.diffusion.precision import MIXED, RATIO_TOLERANCE

from . import sharding
from .learning_rate import factor
from .lockstep import Lockstep, MicroBatch
from .pieces import Pieces
from .policy import Policy
from .processes import Workers
from .rollout import Plan, Rollout
from .weight_drift import weight_drift

# A part of an optimiser step: the algorithm whose loss it is, its rows, and the loss's weight.
Part = tuple[Algorithm, Batch, float]
# The metric that holds the fraction of a round's rows that a trained network predicted. A
# backbone with several networks may train only one of them.
TRAINED = "trained_share"
FROZEN = (
    "no trained network takes part in the steps that were learned from: they are of networks that "
    "backbone.options.train leaves out"
)
UNDEFINED = "the reward gave them no finite number, or no finite gradient"


class Updater:
    """An optimiser that minimises an algorithm's loss over a policy's trained weights."""

    def __init__(
        self, policy: Policy, algorithm: Algorithm, workers: Workers, options: Train, seed: int
    ):
        self.policy, self.algorithm = policy, algorithm
        self.workers, self.options = workers, options
        self.seed = seed
        self.lockstep = Lockstep(workers, policy)
        self.optimiser = torch.optim.AdamW(
            policy.weights.values(),
            lr=options.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=options.weight_decay,
        )
        cure = "use gradient checkpointing, a smaller clip, or a device of more memory"
        self.pieces = Pieces(
            options.micro_batch or workers.first_micro_batch(), "the update of one row", cure
        )
        self.pieces.together = self.lockstep.failed if self.lockstep.on else None
        # whether the check that the ratio is 1 before the first update was made
        self.proven = False
        # whether any round had a row that a trained network predicted
        self.learns = False

    @property
    def micro_batch(self) -> int:
        """Return how many rows are updated at once; the number is halved where memory runs out."""
        return self.pieces.size

    def update(
        self, experience: Experience, data_loss: Iterator[Part] | None = None
    ) -> dict[str, Any]:
        """Take the round's optimiser steps; return the metrics, over all processes.

        `data_loss` yields, without end, parts of a second loss. Each step adds the gradient
        of the next part, times its weight, to the gradient of the algorithm's loss. Where
        the algorithm has no minibatch, all steps are of the second loss, and the metrics
        have no `kl`.
        """
        experience = experience.by_chunk(self.policy.backbone)
        rate = self._set_rate(experience.round)
        metrics_of_steps: list[dict[str, Tensor]] = []
        norms: list[float] = []
        skipped = 0
        for parts in self._steps(experience, data_loss):
            metrics_of_steps.append(self._accumulate(parts, experience.prompts))
            norm = self._step(experience.round)
            norms += [] if norm is None else [norm]
            skipped += norm is None
        names = sorted(set().union(*metrics_of_steps))
        metrics = {
            name: torch.cat([step[name] for step in metrics_of_steps if name in step])
            for name in names
        }
        # a fresh iterator: the KL is measured on the first minibatch, after all updates
        first = next(self.algorithm.minibatches(experience), None)
        kl = {} if first is None else {"kl": self._divergence(first, experience.prompts)}
        self.algorithm.after(self.policy, experience.round)
        row: dict[str, Any] = {"learning_rate": rate} | kl
        row |= self._summary(metrics) | ({"grad_norm": sum(norms) / len(norms)} if norms else {})
        row["weight_drift"] = weight_drift(self.policy)
        scale = self.workers.loss_scale
        return row if scale is None else row | {"loss_scale": scale, "skipped_steps": skipped}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the policy, the optimiser and the algorithm.

        Of sharded weights, the main process gets the whole tensors and the others empty ones;
        every process must call this method.
        """
        return {
            "policy": self.policy.state(),
            "optimiser": _gathered(self.optimiser.state_dict()),
            "algorithm": self.algorithm.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; the options stay those of this start."""
        self.policy.load_state(state["policy"])
        self.optimiser.load_state_dict(self._spread(state["optimiser"]))
        self.algorithm.load_state(state.get("algorithm", {}))
        self._apply_options()

    def _spread(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return the optimiser's state with the tensors of each weight spread as the weight is."""
        weights = list(self.policy.weights.values())

        def spread(weight: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
            return {
                # the counter of steps has another shape, and is plain
                name: sharding.like(value, weight) if value.shape == weight.shape else value
                for name, value in values.items()
            }

        kept = {i: spread(weights[i], values) for i, values in state["state"].items()}
        return {**state, "state": kept}

    def reset(self) -> None:
        """Restore the base model's weights, with an optimiser and an algorithm that are new."""
        self.policy.restore("reference")
        self.policy.sets.pop("ema", None)
        for name in [name for name in self.policy.sets if name != "reference"]:
            self.policy.remember(name)
        self.algorithm.load_state({})
        self.optimiser.state.clear()
        self._apply_options()

    def _apply_options(self) -> None:
        """Set the weight decay and the averaged weights, which a checkpoint may hold otherwise."""
        for group in self.optimiser.param_groups:
            # the learning rate is set at each round's update
            group["weight_decay"] = self.options.weight_decay
        if self.options.ema and "ema" not in self.policy.sets:
            self.policy.remember("ema")

    def _steps(
        self, experience: Experience, data_loss: Iterator[Part] | None
    ) -> Iterator[list[Part]]:
        """Yield the parts of each optimiser step of a round."""
        taken = False
        for batch in self.algorithm.minibatches(experience):
            taken = True
            yield [(self.algorithm, batch, 1.0), *([next(data_loss)] if data_loss else [])]
        if data_loss and not taken:
            for _ in range(getattr(self.algorithm, "updates", 1)):
                yield [next(data_loss)]

    def _set_rate(self, round: int) -> float:
        """Set the optimiser's learning rate to that of a round, and return it."""
        o = self.options
        # set in each round and not by a torch scheduler: a resumed run needs no scheduler state
        rate = o.learning_rate * factor(round, o.rounds, o.lr_schedule, o.lr_end, o.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _accumulate(self, parts: Sequence[Part], prompts: Sequence[str]) -> dict[str, Tensor]:
        """Compute the gradients of one optimiser step; return the metrics of its rows.

        Where memory runs out, the step starts again with micro-batches of half the size.
        """
        rows = self.lockstep.most(max(len(batch) for _, batch, _ in parts))
        return self.pieces.attempt(rows, lambda size: self._backward(parts, size, prompts))

    def _backward(
        self, parts: Sequence[Part], size: int, prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Compute the gradients in micro-batches of `size` rows; return the rows' metrics."""
        metrics: dict[str, list[Tensor]] = {}
        # a larger micro-batch may have added gradients before memory ran out
        self.optimiser.zero_grad(set_to_none=True)
        for algorithm, micro, weight, counts in (
            (a, micro.batch, w if micro.counts else 0.0, micro.counts)
            for a, batch, w in parts
            for micro in self.lockstep.micro_batches(batch, size, prompts)
        ):
            micro = micro.to(self.policy.backbone.device)
            with self.workers.autocast():
                loss = algorithm.loss(self.policy, micro)
            if not isinstance(loss, Loss):
                raise TypeError(
                    f"expected a Loss from {type(algorithm).__name__}.loss, got "
                    f"{type(loss).__name__}: return Loss(value, metrics) of vidrl.algorithms.base"
                )
            # the loss has no gradient if frozen networks predicted all rows
            trained = loss.value.requires_grad
            if trained:
                # `loss.value` is a mean over the micro-batch's rows, and `share` is 1 / (all rows
                # of the step): the gradients add up to that of the mean over all rows
                self.workers.backward(loss.value * len(micro) * micro.share * weight)
            if not counts:
                continue
            metrics.setdefault(TRAINED, []).append(torch.full((len(micro),), float(trained)))
            for name, value in loss.metrics.items():
                metrics.setdefault(name, []).append(value.flatten().cpu())
        joined = {name: torch.cat(values) for name, values in metrics.items()}
        if not self.proven and any(algorithm is self.algorithm for algorithm, _, _ in parts):
            self._check_ratio(joined)
        return joined

    def _check_ratio(self, metrics: Mapping[str, Tensor]) -> None:
        """Raise RuntimeError where a ratio is not 1 before the first update; check only once.

        The policy has not changed since it sampled, so that it must give its samples the
        same density again.
        """
        self.proven = True
        tolerance = RATIO_TOLERANCE[MIXED.get(self.options.mixed_precision, torch.float32)]
        own = metrics.get("ratio", torch.zeros(0))  # empty for a loss that has no ratio
        # gathered, so that all processes fail together
        ratio = self.workers.all(own)
        worst = float((ratio - 1).abs().max()) if len(ratio) else 0.0
        if not worst <= tolerance:
            raise RuntimeError(
                f"expected ratio 1 before the first update, within {tolerance:g}, got {worst:g} "
                "off: rollout and update do not run the same network; look for dropout, another "
                "attention backend or another precision"
            )

    def _step(self, round: int) -> float | None:
        """Take one optimiser step; return the gradient's norm, or None for a step left out.

        Under fp16, a step is left out where a gradient overflowed.
        """
        parameters, scale = list(self.policy.weights.values()), self.workers.loss_scale
        self.workers.sum_gradients(parameters)
        self.workers.unscale(self.optimiser)
        norm = sharding.whole(
            torch.nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm)
        )
        # where fp16's loss scale is below 1, halving it would not help any more
        if not bool(norm.isfinite()) and (scale is None or scale < 1):
            cure = "lower train.learning_rate, and see metrics.jsonl"
            raise RuntimeError(f"round {round}: the gradient is not finite; {cure}")
        taken = self.workers.step(self.optimiser)
        self.optimiser.zero_grad(set_to_none=True)
        if self.options.ema and taken:
            self.policy.remember("ema", self.options.ema)
        return float(norm) if taken else None

    def _divergence(self, batch: Batch, prompts: Sequence[str]) -> float:
        """Return the KL to the reference after the update, on one micro-batch a process."""
        rows = self.lockstep.most(len(batch))
        values = self.pieces.attempt(
            rows, lambda size: self._divergences(batch.part(slice(0, size)), size, prompts)
        )
        return float(self.workers.all(values).mean())

    def _divergences(self, batch: Batch, size: int, prompts: Sequence[str]) -> Tensor:
        """Return the mean divergence of a batch, once for each row, (n,), float64.

        Then the mean over all processes weights each process by its number of rows.
        """
        # without lockstep one micro-batch, in the order of the rows
        micros = (
            self.lockstep.micro_batches(batch, size, prompts)
            if self.lockstep.on
            else [MicroBatch(batch)] * bool(len(batch))
        )
        found = [torch.zeros(0, dtype=torch.float64)]
        for micro in micros:
            part = micro.batch.to(self.policy.backbone.device)
            with torch.no_grad(), self.workers.autocast():
                mean = self.algorithm.divergence(self.policy, part)
            n = len(micro.batch) * micro.counts
            found.append(torch.full((n,), float(mean), dtype=torch.float64))
        return torch.cat(found)

    def _summary(self, metrics: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the metrics' means over all processes' rows; of the ratio also the range."""
        # this process may have no row of a metric that another one reported
        empty = torch.zeros(0)
        # all processes must gather the same metrics, else each waits for ever
        names = self.workers.names(metrics)
        gathered = {name: self.workers.all(metrics.get(name, empty).double()) for name in names}
        row: dict[str, Any] = {name: float(values.mean()) for name, values in gathered.items()}
        if "ratio" in gathered:
            low, high = gathered["ratio"].aminmax()
            row["ratio"] = {"mean": row["ratio"], "min": float(low), "max": float(high)}
        if "reward" in gathered:
            row |= reward_statistics(gathered["reward"])
        return self._with_trained_share(row)

    def _with_trained_share(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row, with the share of trained rows only where it is below 1.

        Raises RuntimeError where no round so far had any such row.
        """
        share = row.pop(TRAINED, None)
        if share == 0 and not self.learns:
            raise RuntimeError(
                f"{FROZEN}: name those networks there too, or choose steps of the times of the "
                "trained ones"
            )
        self.learns = self.learns or bool(share)
        return row | ({} if share in (None, 1.0) else {TRAINED: share})


def _gathered(state: Any) -> Any:
    """Return nested values with whole tensors on the main process; see `sharding.on_main`."""
    if isinstance(state, Tensor):
        return sharding.on_main(state)
    return (
        {key: _gathered(value) for key, value in state.items()}
        if isinstance(state, dict)
        else state
    )


def reward_statistics(values: Tensor) -> dict[str, Any]:
    """Return the statistics of rewards (n,) of a loss that scores the clips itself.

    NaN stands for an unscored clip.

    Example:
        >>> reward_statistics(torch.tensor([1.0, 3.0, float("nan"), 2.0]))["reward"]["mean"]
        2.0
    """
    scored = values[values.isfinite()]
    reward = {"mean": float(scored.mean()), "std": float(scored.std(correction=0))}
    return {"reward": reward, "unscored_share": 1 - len(scored) / len(values)}


def events_of(row: Mapping[str, Any], scored: bool) -> dict[str, str]:
    """Return the messages on a round's row, by the kind of event.

    `scored` is False where the loss scores the clips itself.

    Example:
        >>> events_of({"kl": 0.0, "unscored_share": 0.25}, scored=False)["unscored"][:42]
        '25% of the clips were left out of the loss'
    """
    messages, share = {}, row.get("unscored_share", 0.0)
    if "kl" not in row:
        done = "only data.clips were learned from" if "data_error" in row else "no optimiser step"
        messages["skipped"] = (
            f"{done}: the samples gave nothing to learn from, as where those of every group tie"
        )
    if row.get(TRAINED) == 0:
        messages["skipped"] = FROZEN
    if row.get("skipped_steps"):
        messages["overflow"] = (
            f"a gradient overflowed under fp16: {row['skipped_steps']} optimiser step(s) left out; "
            f"the loss scale is {row['loss_scale']:g} now"
        )
    if share and not scored:
        messages["unscored"] = f"{share:.0%} of the clips were left out of the loss: {UNDEFINED}"
    return messages


class _CutSucceeded(Exception):
    """The samples of a round could be cut into optimiser steps, and the rehearsal ends."""


class _Rehearsal(Experience):
    """A round that ends where its samples are cut into optimiser steps."""

    def cut(self, samples: Tensor, updates: int) -> NoReturn:
        """Raise `_CutSucceeded`, or the error of the cut.

        An exception, because `minibatches` would go on to read latents that are not there.
        """
        next(super().cut(samples, updates))
        raise _CutSucceeded


def rehearse(
    algorithm: Algorithm,
    shape: Sequence[int],
    plan: Plan,
    prompts: Sequence[str],
    index: Sequence[int],
    group: int,
) -> None:
    """Raise, before anything is sampled, the errors of cutting a round into optimiser steps.

    These are: fewer rows than steps, and a group whose samples are in several processes.
    `shape` is that of a latent. The latents are zeros that take no memory (`expand`), and
    all advantages differ, so that no sample is left out as a tie. A clip of several chunks is
    cut into its chunks.
    """
    n, kept = len(prompts), len(plan.keep)
    zero = torch.zeros((), device="meta")
    latents, steps = zero.expand(len(index), *shape), zero.expand(len(index), kept, *shape)
    rollout = Rollout(
        {}, latents, steps, steps, zero.expand(len(index), kept, plan.segments), plan, steps
    )
    credit = (1.0 + torch.arange(n))[:, None].expand(-1, plan.segments)
    group_of = torch.arange(n) // group
    rehearsal = _Rehearsal(rollout, credit, group_of, prompts, torch.tensor(index), 0, 0)
    with suppress(_CutSucceeded):
        next(iter(algorithm.minibatches(rehearsal.by_chunk(algorithm.backbone))), None)
