"""How fast are the attention backends, and how much memory do they need?

    python benchmarks/studies/attention.py --out benchmarks/results/training/attention.md

Design: for each backend, sequence length and head width, one process measures the seconds
and the peak memory of a forward pass, and of a forward and a backward pass. Before that, the
process compares the backend with torch's math kernel (`vidrl.attention.prove`). A backend
that gives another output or other gradients is not measured, and its row holds the reason.
A backend without a right backward pass is measured forward only.

The share of the limit is FLOPs / (seconds x limit). The limit is the FLOP/s of a large
matrix product on the same device in the same precision.

Inputs are random: one clip, float32 on a CPU, bfloat16 on CUDA. Seconds are of one thread's
processor time on a CPU, and by the clock on CUDA. `--cells FILE` stores each
measured cell, and a second call with the same device and versions continues there. `--quick`
measures one length and one width, each pass once.

Output: the page --out, or standard output.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from vidrl import attention

FILE = "benchmarks/studies/attention.py"
CPU = ("sdpa", "flash", "math", "flex")
CUDA_ONLY = ("cudnn", "efficient", "xformers", "flash2", "flash3", "flash4", "sage")
LENGTHS = {
    "cpu": (1024, 2048, 4096, 8192),  # longer ones take minutes on one thread
    "cuda": tuple(1024 * 2**i for i in range(8)),  # 1k to 128k
}
WIDTHS = (64, 128)
QUICK = {"cpu": (1024,), "cuda": (16384,)}
HEADS = {"cpu": 2, "cuda": 12}  # 12: of Wan 2.1 1.3B; fewer on a CPU, which is slower
TYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
SIDE = {"cpu": 4096, "cuda": 8192}  # of the square matrices whose product gives the limit
SECONDS, PASSES = 0.5, 20  # a pass is repeated until it took so many seconds, or so often
LONG = 2.0  # seconds, from which the first pass counts: caches no longer matter
MB = 1e6


@dataclass(frozen=True)
class Row:
    """What was measured of one backend at one length and width; None where it was not.

    `forward` and `both` are seconds of a forward pass, and of a forward and a backward
    pass; `forward_bytes` and `both_bytes` are the peaks above the memory of the inputs.
    `reason` says why a number is missing.
    """

    backend: str
    width: int
    length: int
    forward: float | None = None
    forward_bytes: int | None = None
    both: float | None = None
    both_bytes: int | None = None
    reason: str = ""


def flops(batch: int, heads: int, length: int, width: int, backward: bool = False) -> float:
    """Return the FLOPs of attention without a mask: 4 B H L² D, and with backward 3.5 times that.

    The forward pass has two matrix products (query with key, weights with value) of
    2 L² D FLOPs each. The backward pass has five: it computes the first one again, because
    flash kernels do not keep the weights, and two for each of the forward's products. The
    math kernel keeps the weights, and is counted alike, so that shares compare seconds.

    >>> flops(1, 1, 2, 3), flops(1, 1, 2, 3, backward=True)
    (48.0, 168.0)
    """
    return 4.0 * batch * heads * length**2 * width * (3.5 if backward else 1.0)


def measure(
    row: Row, device: str, quick: bool = False, kernel: attention.Function | None = None
) -> Row:
    """Measure one cell in this process; `kernel` replaces the backend's own function."""
    row, training = checked(row, device, kernel)
    if row.reason.startswith("refused"):
        return row
    call = kernel or attention.function(row.backend)
    try:
        forward, forward_bytes = cost(lambda: passes(call, row, device, False), device, quick)
        row = replace(row, forward=forward, forward_bytes=forward_bytes)
        if training:
            both, both_bytes = cost(lambda: passes(call, row, device, True), device, quick)
            row = replace(row, both=both, both_bytes=both_bytes)
    except RuntimeError as error:  # too little memory, or a limit of the kernel
        row = replace(row, reason=f"{type(error).__name__}: {first_line(error)}")
    return row


def checked(row: Row, device: str, kernel: attention.Function | None) -> tuple[Row, bool]:
    """Compare a backend with the math kernel; return its row, and whether it has gradients."""
    reasons = []
    for training in (True, False):
        try:
            attention.prove(row.backend, device, TYPES[device], training, kernel, width=row.width)
        except attention.AttentionError as error:
            text = first_line(error).removeprefix(f"attention {row.backend!r} ")
            reasons.append(text.split(". ")[0])
        else:
            note = f"forward only: {reasons[0]}" if reasons else ""
            return replace(row, reason=note), training
    return replace(row, reason=f"refused: {reasons[-1]}"), False


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters."""
    return str(error).strip().split("\n")[0][:200]


def passes(call: attention.Function, row: Row, device: str, training: bool) -> Callable[[], Any]:
    """Return a function that runs a backend forward, and in training also backward."""
    draw = torch.Generator(device).manual_seed(0)
    shape = (1, row.length, HEADS[device], row.width)
    query, key, value, slope = (
        torch.randn(shape, generator=draw, device=device, dtype=TYPES[device]) for _ in range(4)
    )
    inputs = [item.requires_grad_(training) for item in (query, key, value)]

    def run() -> Any:
        with torch.set_grad_enabled(training):
            output: Tensor = call(*inputs)
        return torch.autograd.grad(output, inputs, slope) if training else None

    return run


def cost(make: Callable[[], Callable[[], Any]], device: str, quick: bool) -> tuple[float, int]:
    """Return the seconds and the peak bytes of a function, whose inputs `make` creates."""
    run = make()
    before = start_peak(device)
    spent = seconds(run, device, quick)
    return spent, max(0, peak(device) - before)


def seconds(run: Callable[[], Any], device: str, quick: bool = False) -> float:
    """Return the median seconds of a call, after a first call that fills caches.

    The first call counts alone if it took longer than `LONG`.
    """
    first = timed(run, device)
    if first > LONG:
        return first
    found: list[float] = []
    while not found or (not quick and sum(found) < SECONDS and len(found) < PASSES):
        found.append(timed(run, device))
    return median(found)


def timed(run: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call: of one thread's processor on a CPU, by the clock on CUDA."""
    # processor time does not grow when other work shares the cores
    clock = time.process_time if device == "cpu" else time.perf_counter
    wait(device)
    start = clock()
    run()
    wait(device)
    return clock() - start


def wait(device: str) -> None:
    """Wait until the device has finished: a CUDA call returns before the card has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def start_peak(device: str) -> int:
    """Start to record the peak memory anew, and return the bytes in use."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # Linux: sets VmHWM, the peak, to the memory in use
    return peak(device)


def peak(device: str) -> int:
    """Return the peak bytes of this process since `start_peak`.

    `getrusage` alone would be wrong on Linux: a child's number begins with its parent's.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # macOS counts bytes


def limit(device: str) -> float:
    """Return the FLOP/s of a large matrix product."""
    x = torch.ones(SIDE[device], SIDE[device], device=device, dtype=TYPES[device])
    return 2.0 * SIDE[device] ** 3 / seconds(lambda: x @ x, device)


def in_process(row: Row, device: str, quick: bool) -> Row:
    """Measure one cell in a process of its own, so that its peak memory is its own."""
    cell = json.dumps({"row": asdict(row), "device": device, "quick": quick})
    command = [sys.executable, __file__, "--cell", cell]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        return replace(row, reason=f"its process ended with status {done.returncode}: {last}")
    return Row(**json.loads(done.stdout.strip().splitlines()[-1]))


def dict_of_cell(row: Row, device: str, quick: bool) -> dict[str, Any]:
    """Measure one cell in a process of its own, and return the row as a dictionary."""
    return asdict(in_process(row, device, quick))


def cells(device: str, lengths: Sequence[int], quick: bool) -> list[Row]:
    """Return the rows to measure, still empty: the backends of one width and length together."""
    backends = CPU if device == "cpu" else CPU + CUDA_ONLY
    widths = WIDTHS[:1] if quick else WIDTHS
    return [Row(name, width, length) for width in widths for length in lengths for name in backends]


def setup(device: str) -> str:
    """Return the device and the versions as text."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        name = (names or [platform.machine()])[0] + ", one thread"
    import diffusers

    return f"{name}. torch {torch.__version__}, diffusers {diffusers.__version__}."


class Store:
    """Keeps the numbers of one device and its versions in a file, or in memory without one."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        lines = path.read_text().splitlines() if path and path.exists() else []
        entries = [json.loads(line) for line in lines]
        self.found = {item["name"]: item["value"] for item in entries if item["key"] == key}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a stored value; without one, make and store the value."""
        if name not in self.found:
            self.found[name] = make()
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                entry = {"key": self.key, "name": name, "value": self.found[name]}
                with self.path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
        return self.found[name]


def number(value: float | None, scale: float, form: str) -> str:
    """Return a number as text, or a dash for None."""
    return "–" if value is None else format(value * scale, form)


def share(value: float | None, row: Row, device: str, peak_rate: float, backward: bool) -> str:
    """Return the share of the limit in percent, or a dash for None."""
    if value is None:
        return "–"
    work = flops(1, HEADS[device], row.length, row.width, backward)
    return f"{100 * work / (value * peak_rate):.0f} %"


def table(rows: Sequence[Row], device: str, peak_rate: float) -> str:
    """Return the table with one line for each row."""
    titles = (
        "backend | head width | tokens | forward, ms | share of the limit | forward and backward, "
        "ms | share of the limit | peak forward, MB | peak of both, MB | remark"
    )
    lines = [f"| {titles} |", "|---" * len(titles.split("|")) + "|"]
    for row in rows:
        fields = (
            f"`{row.backend}`",
            str(row.width) if row.width else "–",
            str(row.length) if row.length else "–",
            number(row.forward, 1e3, ".1f"),
            share(row.forward, row, device, peak_rate, False),
            number(row.both, 1e3, ".1f"),
            share(row.both, row, device, peak_rate, True),
            number(row.forward_bytes, 1 / MB, ".0f"),
            number(row.both_bytes, 1 / MB, ".0f"),
            row.reason.replace("|", "/"),
        )
        lines.append("| " + " | ".join(fields) + " |")
    return "\n".join(lines)


def unmeasured(device: str) -> list[Row]:
    """Return the rows of the backends that need a CUDA device, if this device is a CPU."""
    reason = "unmeasured: needs a CUDA device"
    return [Row(name, 0, 0, reason=reason) for name in CUDA_ONLY if device == "cpu"]


def left_out() -> str:
    """Return the names of diffusers' dispatcher without a plain name, which are not tried."""
    return ", ".join(f"`{name}`" for name in attention.names_of_diffusers())


def findings(rows: Sequence[Row]) -> str:
    """Return, for the longest length of each width, each backend compared with the math kernel."""
    lines = []
    for math in longest([row for row in rows if row.backend == "math" and row.both]):
        same = [row for row in rows if (row.width, row.length) == (math.width, math.length)]
        others = [against(row, math) for row in same if row.both and row is not math]
        if others:
            head = f"Width {math.width}, {math.length} tokens, forward and backward"
            lines.append(f"- {head}, against `math`: {'; '.join(others)}.")
    return "\n".join(lines)


def longest(rows: Sequence[Row]) -> list[Row]:
    """Return the row of the longest length of each width."""
    return list({row.width: row for row in sorted(rows, key=lambda row: row.length)}.values())


def against(row: Row, math: Row) -> str:
    """Return the speed and the peak of a backend, relative to the math kernel's, as text."""
    speed = (math.both or 0.0) / (row.both or 1.0)
    memory = 100 * (row.both_bytes or 0) / max(1, math.both_bytes or 0)
    return f"`{row.backend}` is {speed:.1f} times as fast, with {memory:.1f} % of the peak"


CLOCK = {"cpu": "of one thread's processor time", "cuda": "by the clock"}
CPU_NOTE = """
**No row of a GPU is measured yet.** On a machine with a CUDA device the same command measures
1k to 128k tokens in bfloat16, with the backends that are marked as unmeasured here. Lengths above
8k tokens are unmeasured too: time, and the memory of the math kernel and of flex, grow with the
square of the length.
"""


def report(rows: Sequence[Row], device: str, peak_rate: float, about: str, command: str) -> str:
    """Return the page as Markdown."""
    kind = str(TYPES[device]).removeprefix("torch.")
    return f"""# Attention backends: time, memory and share of the limit

```
{command}
```

Device: {about}
{CPU_NOTE if device == "cpu" else ""}
One clip, {HEADS[device]} heads, {kind}, random inputs, no mask. Each row comes from a process of
its own, and holds medians of seconds, {CLOCK[device]}, after a first pass that is
not counted; if the first pass takes more than {LONG:.0f} seconds, its seconds are the row's. The
limit is {peak_rate / 1e9:.0f} GFLOP/s, measured with a product of two {SIDE[device]} x \
{SIDE[device]} matrices in {kind}. The
share of the limit is FLOPs / (seconds x limit), with 4 B H L² D FLOPs for the forward pass and
2.5 times as many for the backward pass (B clips, H heads, L tokens, D channels of a head). The
math kernel keeps its weights and needs only twice the forward's FLOPs for its backward pass; it is
counted like the others, so that shares compare seconds. "Peak" is the memory above that of the
inputs, with the output and the gradients: of the process on a CPU, of torch's allocator on CUDA.
On a CPU a peak includes buffers of torch's libraries, and two runs differed by 2 to 30 MB at 1024
tokens.

A backend is measured only if its output and its gradients are those of torch's math kernel
within the tolerance of the precision (`vidrl.attention.prove`, at the head width of the row).

{table([*rows, *unmeasured(device)], device, peak_rate)}

{findings(rows)}

On a CPU `flex` is not compiled: this form computes all weights, as the math kernel does. On
CUDA it is compiled. Not tried are the other names of diffusers' dispatcher:
{left_out()}.
They need packed sequences, other devices or a kernel that is downloaded from a hub, or they are
variants of `sage`.
"""


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=usual)
    parser.add_argument("--lengths", type=int, nargs="+", metavar="N", help="tokens")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="keep each measured cell here")
    parser.add_argument("--quick", action="store_true", help="one length, one width, one pass")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # the work of one process, as JSON
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = options(arguments)
    torch.set_num_threads(1)  # on a CPU: the processor time of one thread is what is measured
    if asked.cell:
        given = json.loads(asked.cell)
        row = measure(Row(**given["row"]), given["device"], given["quick"])
        print(json.dumps(asdict(row)))
        return
    device, about = asked.device, setup(asked.device)
    lengths = asked.lengths or (QUICK if asked.quick else LENGTHS)[device]
    store = Store(asked.cells, f"{about} {'one pass' if asked.quick else 'several passes'}")
    peak_rate = store.get("limit", lambda: limit(device))
    rows = []
    for row in cells(device, lengths, asked.quick):
        name = f"{row.backend} {row.width} {row.length}"
        rows.append(Row(**store.get(name, partial(dict_of_cell, row, device, asked.quick))))
        print(f"{name}: {rows[-1].reason or 'measured'}", file=sys.stderr)
    words = sys.argv[1:] if arguments is None else arguments
    text = report(rows, device, peak_rate, about, shlex.join(["python", FILE, *words]))
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
