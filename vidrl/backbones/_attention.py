"""Hold the attention kernel of a backbone's networks: choose, prove and switch it.

The kernel is proven at the first prediction of each case (device, with or without gradients,
autocast), by predictions of the networks themselves. Rollouts may use a kernel of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from vidrl.attention import ALONE, AUTO, Proof, Trial, check, fastest, find, prove_in, put, recorded
from vidrl.attention.kernels import AttentionError

Case = tuple[torch.device, bool, torch.dtype | None]


def check_names(wanted: str = "sdpa", rollout: str = "", training: bool = True) -> None:
    """Raise `AttentionError` for kernels that are unknown or cannot be called on this machine.

    Nothing is computed, and no network is needed. `training`: the kernel `wanted` must have a
    backward pass; that of rollouts needs none.

    Example:
        >>> check_names("flahs")
        Traceback (most recent call last):
        vidrl.attention.kernels.AttentionError: attention: expected the name of a kernel, got ...
    """
    if wanted != AUTO:
        check(find(wanted).name, training)
    if rollout == AUTO:
        raise AttentionError(
            "rollout_attention: expected the name of one kernel, got 'auto', which measures the "
            "kernels of updates: name a kernel, or leave rollout_attention out"
        )
    if rollout:
        check(find(rollout).name, training=False)


class AttentionSwitch:
    """The kernel of a backbone's networks, which `ready` proves and puts into them.

    `wanted` and `rollout` are names of kernels; "auto" measures, and "" samples with the kernel
    of the update. `trials` returns small predictions to prove a kernel by, and `predict` runs a
    prediction of the run's own size. `enforced`: torch's attention is set as well where it is
    wanted, in place of what another library has chosen.

    Raises `AttentionError` for an unknown name.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        wanted: str,
        rollout: str,
        trials: Callable[[], Sequence[Trial]],
        predict: Callable[[], object],
        enforced: bool = False,
    ):
        self.networks = list(networks)
        self.trials, self.predict = trials, predict
        self.choice = "" if wanted == AUTO else find(wanted).name
        self.rollout = find(rollout).name if rollout else ""
        self.wanted = wanted
        self.untouched = self.choice == "sdpa" and not self.rollout and not enforced
        self.plain = self.choice == "sdpa" and not self.rollout
        self.measured: dict[str, Any] | None = None
        # makes the verdicts on kernels the same in all processes of a run
        self.agreement = ALONE
        self.proofs: dict[str, Proof] = {}
        self._proven = set[Case]()
        self._working = False

    def ready(self, device: torch.device) -> None:
        """Prove the kernels for this device, gradient mode and autocast, and put them in place."""
        if self.untouched or self._working:
            return
        case: Case = (device, torch.is_grad_enabled(), _autocast(device))
        if case in self._proven:
            return
        self._working = True
        try:
            self._settle(device, torch.is_grad_enabled())
        finally:
            self._working = False
        # a proof with gradients covers predictions without them
        self._proven |= {case, (device, False, case[2])}

    def _settle(self, device: torch.device, training: bool) -> None:
        """Choose and prove the kernels, and put the update's kernel into the networks."""
        if not self.choice:
            self._choose(device, training)
        elif self.choice != "sdpa":
            self.proofs["attention"] = self._proof(self.choice, training)
        if self.rollout and self.mixes:
            self.proofs["rollout_attention"] = self._proof(self.rollout, False, sampling=True)
        self._put(self.choice)

    def _choose(self, device: torch.device, training: bool) -> None:
        """Measure the kernels on the run's own shapes, and take the fastest."""
        shapes = recorded(self.predict)
        trials = self.trials()
        report = fastest(shapes, trials, device, training, agreement=self.agreement)
        self.choice, self.measured = report.choice, report.to_dict()
        if report.proof is not None:
            self.proofs["attention"] = report.proof

    def _proof(self, name: str, training: bool, sampling: bool = False) -> Proof:
        """Prove a kernel by every trial; return the last proof."""
        trials, agreement = self.trials(), self.agreement
        return [prove_in(name, trial, training, sampling, agreement) for trial in trials][-1]

    def _put(self, name: str) -> None:
        for network in self.networks:
            put(network, name)

    def keep(self, choice: str, measured: dict[str, Any] | None = None) -> None:
        """Use the kernel that an earlier start of the run, or another process, has chosen.

        `measured` is the table of that start.
        """
        self.measured = self.measured if measured is None else measured
        if choice != self.choice:
            self.choice = choice
            self._proven.clear()

    @property
    def mixes(self) -> bool:
        """Whether rollouts use another kernel than the update."""
        return bool(self.rollout) and self.rollout != self.choice

    @contextmanager
    def sampling(self, device: torch.device) -> Iterator[None]:
        """Use the kernel of rollouts, which compute on `device`, within this context."""
        with torch.no_grad():  # else the first prediction would put the update's kernel back
            self.ready(device)
        if not self.mixes:
            yield
            return
        self._put(self.rollout)
        try:
            yield
        finally:
            self._put(self.choice)

    def to_dict(self) -> dict[str, Any]:
        """Return what a run folder keeps: the choice, its measured table and its proofs."""
        return {
            "wanted": self.wanted,
            "choice": self.choice,
            "rollout": self.rollout or self.choice,
            "measured": self.measured,
            "proofs": {name: asdict(proof) for name, proof in self.proofs.items()},
        }


def _autocast(device: torch.device) -> torch.dtype | None:
    """Return the type of autocast on this device, None where it is off."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
