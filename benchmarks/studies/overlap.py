"""How much wall time do reward workers save, and are the numbers the same?

    python benchmarks/studies/overlap.py [--repeats 2] [--clips 16] [--out FILE]

The study times one stage of a round: chunks of four clips are decoded and scored, with
`[reward] workers` of 0, 1 and 2 in turn. Two kinds of work are timed.

- Waits: decoding a chunk sleeps for 0.2 s, as a process does whose GPU decodes, and scoring
  it sleeps for 0.1, 0.2 or 0.4 s. These seconds do not depend on other work on the machine,
  so they show what the workers themselves cost.
- The demo: the decoder of assets/tiny-wan and the default composite, on the machine's cores.
  Other work on the machine lengthens these seconds. The processor seconds of decoding and of
  scoring do not depend on it; from them follows the time on idle cores.

With C chunks, d seconds of decoding and r of scoring a chunk, the stage takes C (d + r) with
no workers, and at best d + r + (C - 1) max(d, r / N) with N workers on N + 1 free cores.

Output: the page --out, benchmarks/results/training/overlap.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.rewards import Reward, Samples, Score, default
from vidrl.training.reward_workers import RewardWorkers, ScoreChunks
from vidrl.training.rollout import Plan, decoded_pieces, draws, sample
from vidrl.training.scored import Scored

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path("benchmarks/results/training/overlap.md")
COUNTS = (0, 1, 2)
CHUNK = 4
DECODE = 0.2
Chunks = Callable[[], Iterator[Samples]]


class Waits(Reward):
    """A reward that sleeps for `seconds`, and is then the mean light."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, samples: Samples) -> Score:
        """Return the mean light of each clip."""
        time.sleep(self.seconds)
        return Score(samples.frames.mean((1, 2, 3, 4)))


@dataclass(frozen=True)
class Row:
    """The stage's seconds by number of workers, for one kind of work."""

    # What was decoded and scored.
    work: str
    # The median wall seconds, and the best possible ones on idle cores, by number of workers.
    measured: dict[int, float]
    possible: dict[int, float]


def best(decode: float, score: float, chunks: int, workers: int) -> float:
    """Return the shortest seconds of the stage; `decode` and `score` are seconds a chunk.

    Example:
        >>> best(1.0, 2.0, chunks=4, workers=0), best(1.0, 2.0, chunks=4, workers=2)
        (12.0, 6.0)
    """
    if workers == 0:
        return chunks * (decode + score)
    return decode + score + (chunks - 1) * max(decode, score / workers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both kinds of work, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / RESULT)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [demo(given.clips, given.repeats)]
    rows += [waits(seconds, given.clips, given.repeats) for seconds in (0.1, 0.2, 0.4)]
    given.out.write_text(page(rows, given.repeats, given.clips))


def waits(seconds: float, clips: int, repeats: int) -> Row:
    """Time the stage whose work is to wait."""
    count = clips // CHUNK

    def chunks() -> Iterator[Samples]:
        for place in range(count):
            time.sleep(DECODE)
            yield Samples(torch.full((CHUNK, 3, 3, 16, 16), place / count), [""] * CHUNK, 8.0)

    possible = {n: best(DECODE, seconds, count, n) for n in COUNTS}
    name = f"waits: decoding {DECODE:g} s, scoring {seconds:g} s a chunk"
    return Row(name, timed(Waits(seconds), chunks, repeats), possible)


def demo(clips: int, repeats: int) -> Row:
    """Time the decoder of the embedded model and the default composite."""
    backbone = plugin.load("backbones", "wan", model=str(ROOT / "assets/tiny-wan"))
    prompts = [f"a red circle moves left, {place}" for place in range(clips)]
    cond = backbone.encode(prompts)
    names = [("overlap", place) for place in range(clips)]
    latents = sample(backbone, cond, draws(0, names), Plan(backbone.times(6))).latents

    def chunks() -> Iterator[Samples]:
        return decoded_pieces(backbone, latents, prompts, cond, CHUNK)

    measured = timed(default(), chunks, repeats)
    decode, score = processor_seconds(default(), chunks)
    count = clips // CHUNK
    possible = {n: best(decode / count, score / count, count, n) for n in COUNTS}
    name = f"demo: decoding {decode / count:.2f} s, scoring {score / count:.2f} s a chunk"
    return Row(f"{name}, of processor time", measured, possible)


def timed(reward: Reward, chunks: Chunks, repeats: int) -> dict[int, float]:
    """Return the median seconds of the stage by number of workers; raise if numbers differ."""
    found: dict[int, list[float]] = {n: [] for n in COUNTS}
    values: list[Tensor] = []
    workers = {n: RewardWorkers(ScoreChunks(reward), n) for n in COUNTS if n}
    for one in workers.values():
        one.wait()
    # in turn, so that other work on the machine meets all of them; the first turn warms up
    for turn in range(repeats + 1):
        for n in COUNTS:
            begun, scored = time.perf_counter(), Scored(reward, lambda values: (), workers.get(n))
            for samples in chunks():
                scored.add(samples)
            values.append(scored.score.value)
            found[n] += [time.perf_counter() - begun] if turn else []
    for one in workers.values():
        one.close()
    if not all(torch.equal(value.nan_to_num(7), values[0].nan_to_num(7)) for value in values):
        raise RuntimeError("expected the same numbers with any number of workers")
    return {n: median(seconds) for n, seconds in found.items()}


def processor_seconds(reward: Reward, chunks: Chunks) -> tuple[float, float]:
    """Return the processor seconds of decoding and of scoring all chunks, in this process."""
    decode = score = 0.0
    begun = time.process_time()
    for samples in chunks():
        decoded = time.process_time()
        reward(samples)
        decode, score = decode + decoded - begun, score + time.process_time() - decoded
        begun = time.process_time()
    return decode, score


def page(rows: Sequence[Row], repeats: int, clips: int) -> str:
    """Return the page of results in Markdown."""
    load = os.getloadavg()[0]
    head = [
        "# What reward workers save\n",
        "`python benchmarks/studies/overlap.py`  ",
        f"Python {platform.python_version()}, torch {torch.__version__}; x86_64 CPU, "
        f"{os.cpu_count()} cores, one thread a process. Load of the machine at the end: "
        f"{load:.1f}; a load above 1 is other work, which lengthens the seconds of the demo.\n",
        f"One stage of a round: {clips} clips are decoded and scored in chunks of {CHUNK}. Medians "
        f"of {repeats} turns, wall seconds. In brackets the best possible seconds: for the waits "
        "by their lengths, for the demo by the processor seconds, on idle cores. The rewards were "
        "equal bit for bit in all turns.\n",
        "| work | workers = 0 | workers = 1 | workers = 2 | saved by 1 | saved by 2 |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(line, rows)]) + "\n"


def line(row: Row) -> str:
    """Return a line of the table.

    Example:
        >>> line(Row("a", {0: 4.0, 1: 3.0, 2: 2.0}, {0: 4.0, 1: 2.0, 2: 2.0}))
        '| a | 4.00 (4.00) | 3.00 (2.00) | 2.00 (2.00) | 25% (50%) | 50% (50%) |'
    """
    seconds = [f"{row.measured[n]:.2f} ({row.possible[n]:.2f})" for n in COUNTS]
    saved = [
        f"{1 - row.measured[n] / row.measured[0]:.0%} ({1 - row.possible[n] / row.possible[0]:.0%})"
        for n in COUNTS[1:]
    ]
    return f"| {' | '.join([row.work, *seconds, *saved])} |"


if __name__ == "__main__":
    main()
