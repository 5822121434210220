"""How far the memory in use rises at its peak: torch's own count on a GPU, the kernel's of
the process on Linux."""

from __future__ import annotations

import re
from pathlib import Path

import torch


class Growth:
    """A context; after it `bytes` is the peak above what was in use before, None where
    nothing can tell.

    On the CPU it is resident memory: what the allocator holds from before and reuses is not
    seen.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> Growth:
        self.before = _reset(self.device)
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = None if self.before is None else max(0, _highest(self.device) - self.before)


def _reset(device: torch.device) -> int | None:
    """Forget the peak; what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        # so the kernel forgets the peak of resident memory
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except OSError:  # no Linux, or not allowed
        return None


def _highest(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0
