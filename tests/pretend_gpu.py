"""A GPU that is pretended: tensors say that they are on `cuda`, and compute real numbers.

Under torch's own FakeTensorMode tensors have no numbers, so code that decides by a number, as
"estimate the fast pans again", cannot run there. Here each tensor on `cuda` wraps a tensor of the
host. An operation on tensors of both devices raises, as on a real GPU, and each copy of numbers
between the two devices is noted.
"""

from __future__ import annotations

import ctypes
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
# A real GPU accepts indices of the host in these operations, and copies them.
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
# Views that only set a bit, which kernels below a dispatch mode do not read: computed instead.
LAZY = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}
COPYING = (aten._to_copy.default, aten.copy_.default)


def set_guard() -> None:
    """Give a torch that was built without CUDA the device guard that it lacks for `cuda`.

    Torch has a guard that does nothing, for fake tensors on machines without a driver
    (`_ensureCUDADeviceGuardSet`), but installs it only in place of a guard that counts 0 devices.
    A torch built without CUDA has no guard at all, and then indexing a tensor that says it is on
    `cuda` raises. So a guard is put there of which every method returns 0, and torch replaces it.
    """
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    # the table of guards by device type: cpu is 0, cuda is 1
    guards = (ctypes.c_void_p * 2).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    if not guards[1]:
        zero = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)(lambda _: 0)
        methods = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
        counts_none = ctypes.c_void_p(ctypes.addressof(methods))
        guards[1] = ctypes.addressof(counts_none)
        torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
        assert guards[1] != ctypes.addressof(counts_none), "torch kept the guard of zeros"


class Mixed(RuntimeError):
    """An operation got tensors of both devices."""


@dataclass(frozen=True)
class Copy:
    """A copy of numbers between host and GPU, and the lines of vidrl that led to it."""

    numbers: int
    lines: tuple[str, ...]


class OnGpu(Tensor):
    """A tensor that says it is on `cuda`; `host` holds its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGpu:
        return Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CUDA,
        )

    def __init__(self, host: Tensor) -> None:
        self.host = host

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.host!r})"

    def tolist(self) -> Any:
        """Return the numbers as a list, by way of a copy that is noted."""
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Raise TypeError, as torch does for a tensor of a GPU."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class PretendGpu(TorchDispatchMode):
    """The mode under which `cuda` is pretended.

    `down` lists the copies from the GPU to the host, `up` those from the host to the GPU, except
    of single numbers. `operations` counts the operations on tensors of the GPU.
    """

    # under a mode with this key, torch does not look for the driver where "cuda" is asked for
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self) -> None:
        super().__init__()
        self.down: list[Copy] = []
        self.up: list[Copy] = []
        self.operations = 0
        self._tensors: WeakValueDictionary[int, OnGpu] = WeakValueDictionary()
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> PretendGpu:
        # `torch.tensor(..., device="cuda")` then makes a tensor of the host and copies it
        set_guard()
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        self._before.append((torch._C._only_lift_cpu_tensors(), overwrites))
        # `module.to("cuda:0")` then gives the module new parameters, of the class OnGpu
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        lifts, overwrites = self._before.pop()
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        source = "cuda" if any(isinstance(t, OnGpu) for t in tensors) else "cpu"
        target = source
        if kwargs.get("device") is not None:
            target, kwargs["device"] = torch.device(kwargs["device"]).type, torch.device("cpu")
        if func is aten.copy_.default:
            source, target = (t.device.type for t in (args[1], args[0]))
        elif func is aten._local_scalar_dense.default:
            target = "cpu"
        elif func not in COPYING:
            _check(func, args, tensors)
        self.operations += target == "cuda"
        self._note(source, target, tensors[-1:])
        func = LAZY.get(func, func)
        # pinned memory and asynchronous copies are of a real GPU only
        kwargs.pop("pin_memory", None)
        out = func(*tree_map(_on_host, args), **tree_map(_on_host, kwargs))
        if target != "cuda":
            return out
        out = _wrapped(out, tensors)
        self._tensors.update((id(t), t) for t in tree_leaves(out) if isinstance(t, OnGpu))
        return out

    def living(self) -> int:
        """Return the bytes of the tensors that are on the GPU now."""
        storages = [t.host.untyped_storage() for t in list(self._tensors.values())]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def _note(self, source: str, target: str, tensors: list[Tensor]) -> None:
        """Note a copy between the devices."""
        if not tensors or source == target:
            return
        copy = Copy(tensors[0].numel(), _lines())
        if target == "cpu":
            self.down.append(copy)
        elif copy.numbers > 1:
            self.up.append(copy)


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise Mixed for tensors of both devices; single numbers of the host are accepted."""
    mine = tensors if func not in INDEXING else [args[0]]
    places = {t.device.type for t in mine if t.dim() or isinstance(t, OnGpu)}
    # an index of the GPU into a tensor of the host
    backwards = func in INDEXING and not isinstance(args[0], OnGpu)
    if len(places) > 1 or (backwards and any(isinstance(t, OnGpu) for t in tensors)):
        raise Mixed(f"{func} got tensors on cuda and on cpu")


def _on_host(value: Any) -> Any:
    return value.host if isinstance(value, OnGpu) else value


def _wrapped(out: Any, tensors: list[Tensor]) -> Any:
    """Return results as tensors on the GPU; an operation in place returns its own argument."""
    own = {id(t.host): t for t in tensors if isinstance(t, OnGpu)}
    return tree_map(
        lambda t: (own[id(t)] if id(t) in own else OnGpu(t)) if isinstance(t, Tensor) else t,
        out,
    )


def _lines() -> tuple[str, ...]:
    """Return the lines of vidrl on the stack, the innermost first."""
    found = []
    for frame, number in traceback.walk_stack(None):
        path = frame.f_code.co_filename.rpartition("/vidrl/")
        if path[1]:
            found.append(f"{path[2]}:{number}")
    return tuple(found)
