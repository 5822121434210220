"""Let several processes agree on kernels: one that fails on one process is out for all.

A process that goes on with another kernel than the others would give other densities; and where
the weights are sharded, a process that leaves the network in the middle of a prediction lets the
others wait for its part of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .kernels import KERNELS, WIDE, AttentionError, Kernel
from .switch import check_types

Result = TypeVar("Result")


class Agreement:
    """The agreement of a process that is alone; `vidrl.training.kernels` asks several.

    `together` says whether the processes must call the network equally often.
    """

    together = False

    def failures(self, own: Sequence[str]) -> list[str]:
        """Return why each attempt failed on any process, "" where it failed on none.

        `own`: the reasons of this process. Every process must call this method.
        """
        return list(own)

    def of_main(self, names: Sequence[str]) -> list[str]:
        """Return the names that the main process has passed; every process must call this."""
        return list(names)

    def jointly(self, stage: Callable[[], Result]) -> Result:
        """Return the result of a stage, or raise `AttentionError` if it failed on any process."""
        results: list[Result] = []
        failure: AttentionError | None = None
        try:
            results.append(stage())
        except AttentionError as error:
            failure = error
        (reason,) = self.failures(["" if failure is None else str(failure)])
        if failure is not None:
            raise failure
        if reason:
            raise AttentionError(reason)
        return results[0]


ALONE = Agreement()


class Careful:
    """The call of a kernel that never raises, so that the prediction goes on to its end.

    Each kind of call is first made alone, forward and backward, on copies. If it fails, `failure`
    is set, and torch's own attention computes this call and all later ones.
    """

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.failure: Exception | None = None
        self._tried = set[Any]()

    def switched(self) -> Kernel:
        """Return the kernel with this call."""
        return replace(self.kernel, call=self, dtypes=WIDE)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float | None,
    ) -> Tensor:
        if self.failure is None:
            self._try(q, k, v, mask, causal, scale)
        kernel = self.kernel if self.failure is None else KERNELS["sdpa"]
        return kernel.call(q, k, v, mask, causal, scale)

    def _try(self, *given: Any) -> None:
        """Make a call alone, once for each kind; keep the error."""
        tensors = [x for x in given if isinstance(x, Tensor)]
        kind = (torch.is_grad_enabled(), *((x.shape, x.dtype) for x in tensors), *given[4:])
        if kind in self._tried:
            return
        self._tried.add(kind)
        learns = torch.is_grad_enabled()
        copies = [x.detach().clone().requires_grad_(learns) for x in given[:3]]
        try:
            check_types(self.kernel, *copies)
            # not with the hooks around the block: gradient checkpointing counts what is saved
            with saved_tensors_hooks(lambda x: x, lambda x: x):
                output = self.kernel.call(*copies, *given[3:])
            if learns and output.requires_grad:
                torch.autograd.grad(output.float().sum(), copies, allow_unused=True)
        except Exception as error:  # noqa: BLE001  kernels raise errors of their own types
            self.failure = error
