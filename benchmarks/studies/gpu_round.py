"""What does a GRPO round of Wan cost on this device, with each memory option?

    python benchmarks/studies/gpu_round.py --out benchmarks/results/training/gpu_round.md
    python benchmarks/studies/gpu_round.py --cpu          # a tiny model, to check the script

Design: for each case (model, length of the clips, options, number of segments), one process
loads the model, samples two clips, decodes them, scores them with the default composite,
and updates a LoRA twice; the second update is timed. The seconds of each stage, the peak
memory of the device, and the fraction of the device's peak FLOP/s that sampling and update
reach, are written into a table. Their FLOPs are counted by torch in the call before;
recomputed blocks count. The matrix products of nf4 and int8 weights are not counted.

The architectures are those of the public checkpoints (`vidrl.cost`). Their weights are
random, are saved once as a diffusers folder, and are loaded by the backbone `pipeline` as a
real checkpoint: neither seconds nor memory depend on the numbers of the weights. The text
encoder has one block of the real width; prompts are padded to 512 tokens.

`--cases FILE` stores each case that was measured, and a second call continues there.
`--minutes N` ends the measurement before the first case that would begin later; the page
lists what was not reached. A case that does not fit into memory is a row with the reason.

Output: the page --out, or standard output.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

FILE = "benchmarks/studies/gpu_round.py"
MODELS = {
    "Wan 2.1 1.3B": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "Wan 2.2 5B": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
TINY = "tiny Wan"
CLIPS, STEPS = 2, 4
TEXT = 512  # tokens of a prompt
CHECKPOINTED: dict[str, Any] = {"gradient_checkpointing": True}
# The memory options of the backbone, in the order of the table.
OPTIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "+ checkpointing": CHECKPOINTED,
    "+ checkpointing, compile": CHECKPOINTED | {"compile": True},
    "+ checkpointing, fp8": CHECKPOINTED | {"quantization": "fp8"},
    "+ checkpointing, nf4": CHECKPOINTED | {"quantization": "nf4"},
    "+ checkpointing, activations on the host": CHECKPOINTED | {"activation_offload": True},
    "+ checkpointing, blocks on the host": CHECKPOINTED | {"group_offload": "block"},
    "+ checkpointing, VAE in tiles": CHECKPOINTED | {"vae_tiling": True},
}
PROMPT = "a red circle moves left"


@dataclass(frozen=True)
class Case:
    """One cell of the study, and what was measured of it; `reason` says why nothing was."""

    model: str
    frames: int
    options: str
    segments: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    peak: float = float("nan")
    flops: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def name(self) -> str:
        """The name under which the case is stored."""
        return f"{self.model}, {self.frames} frames, {self.options}, S = {self.segments}"


def cases(tiny: bool) -> list[Case]:
    """Return the cases, those that matter most first: a call may end before the last one."""
    if tiny:
        return [Case(TINY, 9, "bf16", 1), Case(TINY, 9, "+ checkpointing, fp8", 3)]
    small, large = MODELS
    first = [Case(small, 33, "+ checkpointing", s) for s in (1, 9)]
    first += [Case(model, 81, "+ checkpointing") for model in MODELS]
    first += [Case(large, 33, "+ checkpointing")]
    rest = [Case(small, 33, name) for name in OPTIONS if name != "+ checkpointing"]
    rest += [Case(large, 81, f"+ checkpointing, {name}") for name in ("fp8", "nf4")]
    return first + rest


# --- the model


def save(model: str, folder: Path, device: str) -> None:
    """Save a pipeline with random weights, in the architecture of the checkpoint `model`."""
    import diffusers

    from vidrl.backbones import _tiny

    pipe = _tiny.pipeline()
    if model != TINY:
        from vidrl.cost import families

        entry = families.find(MODELS[model])
        with torch.device(device):
            network: Any = diffusers.WanTransformer3DModel(**entry["network"])
            network = network.to(torch.bfloat16)
            decoder = diffusers.AutoencoderKLWan(**entry.get("decoder", {}))
        pipe = diffusers.WanPipeline(
            pipe.tokenizer,
            _text_encoder(len(pipe.tokenizer)),
            decoder,
            diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            network,
            expand_timesteps=bool(entry.get("times_of_tokens")),
        )
    pipe.save_pretrained(folder)


def _text_encoder(words: int) -> Any:
    """Return one block of UMT5-XXL's width: its embeddings are as wide as the real ones."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(vocab_size=words, d_model=4096, d_kv=64, num_heads=64, num_layers=1, d_ff=1024)
    )


def backbone(case: Case, folder: Path, device: str) -> Any:
    """Load the saved pipeline as the backbone `pipeline`, with the options of the case."""
    from vidrl.backbones.pipeline import Pipeline

    size = (32, 32) if case.model == TINY else (480, 832)
    call = {
        "height": size[0],
        "width": size[1],
        "num_frames": case.frames,
        "guidance_scale": 1.0,
        "max_sequence_length": 16 if case.model == TINY else TEXT,
    }
    options = OPTIONS[case.options] | {"dtype": "float32" if device == "cpu" else "bfloat16"}
    return Pipeline(str(folder), call=call, **options).to(device)


# --- the measurement


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """Return the result of `work` and its seconds by the clock."""
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def counted(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `work` and its FLOPs, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, float(counter.get_total_flops())


@dataclass
class Round:
    """A round of one case: the functions that are timed, on a model that is loaded."""

    case: Case
    backbone: Any
    device: str

    def __post_init__(self) -> None:
        """Build the policy, the algorithm, the reward and the updater."""
        from vidrl import rewards
        from vidrl.algorithms.grpo import GRPO
        from vidrl.config import Train
        from vidrl.training.policy import Policy
        from vidrl.training.processes import Workers
        from vidrl.training.update import Updater

        self.workers = Workers("no" if self.device == "cpu" else "bf16")
        self.policy = Policy(self.backbone, rank=16, alpha=16)
        self.reward, self.prompts = rewards.default(), [PROMPT] * CLIPS
        algorithm = GRPO(steps=STEPS, segments=self.case.segments)
        algorithm.setup(self.policy, self.reward, CLIPS)
        draw = torch.Generator().manual_seed(0)
        self.plan = algorithm.plan(self.backbone, 0, draw)
        options = Train(micro_batch=1)
        self.updater = Updater(self.policy, algorithm, self.workers, options, seed=0)

    def sample(self) -> Any:
        """Sample the clips of the round."""
        from vidrl.training.rollout import draws, sample

        cond, names = self.backbone.encode(self.prompts), [(i,) for i in range(CLIPS)]
        with self.workers.autocast():
            return sample(self.policy, cond, draws(0, names), self.plan)

    def decode(self, rollout: Any) -> Any:
        """Decode the clips of the round."""
        from vidrl.training.rollout import decoded

        return decoded(self.backbone, rollout.latents, self.prompts, rollout.cond)

    def update(self, rollout: Any) -> None:
        """Take the optimiser steps of the round, with random advantages."""
        from vidrl.algorithms.base import Experience

        draw = torch.Generator().manual_seed(1)
        advantage = torch.randn(CLIPS, self.case.segments, generator=draw)
        index, group = torch.arange(CLIPS), torch.zeros(CLIPS, dtype=torch.long)
        self.updater.update(Experience(rollout, advantage, group, self.prompts, index, 0, 0))
        self.updater.proven = True  # the first update has moved the weights


def measure(case: Case, folder: Path, device: str) -> Case:
    """Return the case with the seconds and the FLOPs of each stage of a round."""
    made, load = timed(lambda: backbone(case, folder, device), device)
    of = Round(case, made, device)
    rollout, sampling = counted(of.sample)  # also loads the kernels
    _, updating = counted(lambda: of.update(rollout))
    seconds = {"load": load}
    rollout, seconds["sample"] = timed(of.sample, device)
    clips, seconds["decode"] = timed(lambda: of.decode(rollout), device)
    _, seconds["reward"] = timed(lambda: of.reward(clips), device)
    _, seconds["update"] = timed(lambda: of.update(rollout), device)
    peak = float("nan") if device == "cpu" else torch.cuda.max_memory_allocated() / 1e9
    flops = {"sample": sampling, "update": updating}
    return replace(case, seconds=seconds, peak=peak, flops=flops)


def in_process(case: Case, folder: Path, device: str, limit: float) -> Case:
    """Measure a case in a process of its own, which ends after `limit` seconds at the latest."""
    command = [sys.executable, __file__, "--case", case.name, "--folder", str(folder)]
    command += ["--cpu"] if device == "cpu" else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return replace(case, reason=f"not finished after {limit:.0f} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return replace(case, reason=last[:200])
    return Case(**json.loads(done.stdout.strip().splitlines()[-1]))


# --- the page


def peak_rate(device: str) -> float:
    """Return the device's peak FLOP/s in bfloat16 by its data sheet; NaN for an unknown device."""
    from vidrl.cost.cards import CARDS

    name = torch.cuda.get_device_name() if device != "cpu" else ""
    found = [card.bfloat16 for key, card in CARDS.items() if key.split("-")[0].upper() in name]
    return found[0] if found else float("nan")


def row(case: Case, peak: float) -> str:
    """Return the line of a case in the table."""
    stages = ("sample", "decode", "reward", "update")
    seconds = [f"{case.seconds[s]:.2f}" if case.seconds else "–" for s in stages]
    shares = [
        f"{100 * case.flops[s] / case.seconds[s] / peak:.0f} %"
        if case.flops.get(s) and peak == peak
        else "–"
        for s in ("sample", "update")
    ]
    memory = f"{case.peak:.1f}" if case.peak == case.peak else "–"
    names = (case.model, str(case.frames), case.options, str(case.segments))
    fields = (*names, *seconds, *shares, memory, case.reason.replace("|", "/"))
    return "| " + " | ".join(fields) + " |"


def page(found: Sequence[Case], command: str, device: str) -> str:
    """Return the page: the question, the command, the device and the table."""
    import diffusers

    name = torch.cuda.get_device_name() if device != "cpu" else platform.machine() + " CPU"
    titles = (
        "model | frames | options | segments | sample, s | decode, s | reward, s | update, s | "
        "peak of sampling | peak of update | memory, GB | remark"
    )
    lines = [f"| {titles} |", "|---" * len(titles.split("|")) + "|"]
    lines += [row(case, peak_rate(device)) for case in found]
    return (
        "\n".join(
            [
                "# What a GRPO round of Wan costs on one device",
                f"```\n{command}\n```",
                f"{CLIPS} clips of 480 × 832 (the tiny model: 32 × 32), {STEPS} steps, a LoRA of "
                "rank 16, random weights. One process a case. Seconds are those of a second call.",
                f"Device: {name}. torch {torch.__version__}, diffusers {diffusers.__version__}.",
                *(
                    []
                    if device != "cpu"
                    else ["This page shows that the script works: unmeasured."]
                ),
                "\n".join(lines),
            ]
        )
        + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases that are not stored, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--out", type=Path, help="the page; standard output without it")
    parser.add_argument("--cases", type=Path, help="the file in which cases are stored")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no case after these")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    device = "cpu" if args.cpu else "cuda"
    if not args.cpu and not torch.cuda.is_available():
        print("gpu_round: expected a CUDA device, found none; --cpu checks the script")
        return 2
    if args.case:
        case = next(c for c in cases(args.cpu) if c.name == args.case)
        print(json.dumps(asdict(measure(case, args.folder, device))))
        return 0
    command = shlex.join(["python", FILE, *(sys.argv[1:] if arguments is None else arguments)])
    text = page(measured(args, device), command, device)
    print(text) if args.out is None else args.out.write_text(text)
    return 0


def measured(args: argparse.Namespace, device: str) -> list[Case]:
    """Return all cases: stored ones, new ones, and those that time did not reach."""
    lines = args.cases.read_text().splitlines() if args.cases and args.cases.exists() else []
    stored = {case.name: case for case in (Case(**json.loads(line)) for line in lines)}
    end, found = time.monotonic() + 60 * args.minutes, []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(args.cpu):
            left = end - time.monotonic()
            if case.name in stored:
                case = stored[case.name]
            elif left <= 0:
                case = replace(case, reason=f"not reached in {args.minutes:g} minutes")
            else:
                case = fresh(case, Path(folder), device, left)
                keep(args.cases, case)
            found.append(case)
    return found


def fresh(case: Case, folder: Path, device: str, left: float) -> Case:
    """Save the model of a case where that was not done, and measure the case."""
    model = folder / case.model.replace(" ", "-")
    if not model.exists():
        save(case.model, model, device)
    return in_process(case, model, device, left)


def keep(file: Path | None, case: Case) -> None:
    """Add a case to the file of cases."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(case)) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
