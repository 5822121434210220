"""Measure what a GRPO round of Wan2.1-T2V-1.3B costs on a card, with 1 and with 9 segments.

    python scripts/wan_update.py          # on a GPU: 33 x 480 x 832, bfloat16, LoRA
    python scripts/wan_update.py --cpu    # the same path with a tiny model, to test the script

The numbers are the seconds of each stage, the peak memory, and the fraction of the card's
peak FLOP/s. The architecture is the one of the public model card (`vidrl.cost`). Its
weights are random, and nothing is downloaded: neither seconds nor memory depend on the
weights. Captions are random embeddings of 512 tokens. Both arms update on one rollout each;
segments should cost nothing extra.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidrl import config, cost, plugin, rewards
from vidrl.algorithms.base import Experience
from vidrl.backbones.base import Denoiser
from vidrl.backbones.wan import Wan
from vidrl.cost import skeleton
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import Plan, Rollout, decoded, draws, sample
from vidrl.training.update import Updater

ROOT = Path(__file__).resolve().parents[1]
RECIPE, CARD = "scripts/recipes/wan_1.3b.toml", "h100-80"
SHAPE = (
    "backbone.options.height=480",
    "backbone.options.width=832",
    "backbone.options.frames=33",
    "backbone.options.guidance=1.0",
    "data.held_out_n=1",
    "train.prompts_per_round=1",
    "train.group=2",
    "algorithm.options.segments=9",
)
SEGMENTS = (1, 9)
PEAK = 989e12  # FLOP/s of dense bfloat16, an H100 SXM's data sheet; --peak names another card's


def build(recipe: config.Recipe, device: str) -> Denoiser:
    """Build the recipe's backbone with random weights, without a text encoder."""
    options = dict(recipe.backbone.options)
    parts = skeleton.read(recipe.backbone).parts
    dtype = getattr(torch, str(options.pop("dtype", "float32")))
    import diffusers

    with torch.device(device):
        network = diffusers.WanTransformer3DModel(**parts["transformer"]).to(dtype)
        vae = diffusers.AutoencoderKLWan(**parts["vae"])
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.WanPipeline(None, nn.Identity().requires_grad_(False), vae, scheduler, network)
    options.pop("model")
    return Wan(pipe, **options)


def timed(work: Callable[[], Any], device: str) -> tuple[Any, dict[str, float]]:
    """Return the result of `work`, its seconds, and the peak of device memory."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return result, {
        "seconds": seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else float("nan"),
    }


class Measurement:
    """A model whose rollout and update are timed for each number of segments."""

    def __init__(
        self,
        recipe: config.Recipe,
        backbone: Denoiser,
        device: str,
        clips: int,
        text: tuple[int, int],
    ):
        self.recipe, self.device = recipe, device
        self.clips = clips
        self.workers = Workers(
            recipe.train.mixed_precision if device != "cpu" else "no", [], recipe.run
        )
        self.policy = Policy(backbone.to(device), recipe.policy.lora_rank, recipe.policy.lora_alpha)
        draw = torch.Generator().manual_seed(0)
        self.cond = {"text": torch.randn(clips, *text, generator=draw).to(device)}

    def plan(self, segments: int) -> tuple[Any, Plan]:
        """Return the algorithm with this number of segments, and its plan of a round."""
        options = dict(self.recipe.algorithm.options) | {"segments": segments}
        algorithm = plugin.load("algorithms", self.recipe.algorithm.name, **options)
        algorithm.setup(self.policy, rewards.default(), self.clips)
        return algorithm, algorithm.plan(self.policy.backbone, 0, torch.Generator().manual_seed(0))

    def rollout(self, plan: Plan) -> Rollout:
        """Sample the clips of a round."""
        with self.workers.autocast():
            return sample(
                self.policy, self.cond, draws(0, [("clip", i) for i in range(self.clips)]), plan
            )

    def update(self, segments: int) -> dict[str, Any]:
        """Sample, decode and update once, timed; an update before warms up the kernels."""
        algorithm, plan = self.plan(segments)
        rollout, sampling = timed(lambda: self.rollout(plan), self.device)
        clips = ["a prompt"] * self.clips
        _, decoding = timed(
            lambda: decoded(self.policy.backbone, rollout.latents, clips), self.device
        )
        updater = Updater(self.policy, algorithm, self.workers, self.recipe.train, seed=0)
        advantage = torch.randn(self.clips, segments, generator=torch.Generator().manual_seed(1))
        index, group = torch.arange(self.clips), torch.zeros(self.clips, dtype=torch.long)
        seen = Experience(rollout, advantage, group, clips, index, 0, 0)
        updater.update(seen)
        updater.proven = True  # the first update has moved the weights
        _, updating = timed(lambda: updater.update(seen), self.device)
        return {
            "segments": segments,
            "kept_steps": len(plan.keep),
            "sampling": sampling,
            "decode": decoding,
            "update": updating,
        }


def utilisation(recipe: config.Recipe, rows: list[dict[str, Any]], peak: float) -> None:
    """Add the fraction of the card's peak to each stage: FLOPs / (seconds x peak).

    The FLOPs come from `vidrl.cost`.
    """
    stages = cost.estimate(recipe, gpu=CARD, measure=False).flops
    for row in rows:
        for stage, flops in (("sampling", stages["sample"]), ("update", stages["update"])):
            row[stage]["flops"] = flops
            row[stage]["of_peak"] = flops / row[stage]["seconds"] / peak


def main() -> int:
    """Measure both arms, and write and print the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cpu", action="store_true", help="a tiny model on the CPU, to check the script"
    )
    parser.add_argument(
        "--peak",
        type=float,
        default=PEAK,
        help="FLOP/s of the card in bfloat16, for the utilisation",
    )
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        print(
            "wan_update: expected a CUDA device, found none; --cpu runs the same path with a "
            "tiny model"
        )
        return 2
    device = "cpu" if args.cpu else "cuda"
    recipe = config.load(
        ROOT / RECIPE, [*SHAPE, f"algorithm.options.steps={4 if args.cpu else 16}"]
    )
    tiny = args.cpu
    backbone = Wan.tiny() if tiny else build(recipe, device)
    clips = recipe.train.prompts_per_round * recipe.train.group
    measurement = Measurement(recipe, backbone, device, clips, (16, 16) if tiny else (512, 4096))
    rows = [measurement.update(s) for s in ((1, 2) if tiny else SEGMENTS)]
    if not tiny:
        utilisation(recipe, rows, args.peak)
    found = {
        "command": "python scripts/wan_update.py" + (" --cpu" if args.cpu else ""),
        "device": platform.processor() if tiny else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "clips": clips,
        "latent": list(backbone.shape),
        "arms": rows,
    }
    out = args.out or ROOT / (
        "runs/wan_update_cpu.json" if args.cpu else "benchmarks/results/training/wan_update.json"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1).replace("NaN", "null") + "\n")
    for row in rows:
        stages = [
            f"{stage} {row[stage]['seconds']:.2f} s" for stage in ("sampling", "decode", "update")
        ]
        print(f"S = {row['segments']}: {', '.join(stages)}")
    print(f"wan_update: {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
