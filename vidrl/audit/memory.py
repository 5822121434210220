"""Measures how far the memory in use rises: by torch on a GPU, by the kernel on Linux."""

from __future__ import annotations

import re
from pathlib import Path

import torch


class Growth:
    """A context that sets `bytes` at its end: the peak of memory above the use at its start.

    None where the system does not count it. On the CPU the count is of resident memory, so
    memory that the allocator already held and reuses is not counted.
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
    """Reset the peak, and return the bytes in use now; None where there is no count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        # writing 5 resets the peak of resident memory (VmHWM), see proc(5)
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except OSError:  # no Linux, or not allowed
        return None


def _highest(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0
