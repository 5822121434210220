"""vidrl sample: clips from a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._declare import command

SAMPLE = """\
Make clips with a model, with or without a trained LoRA, as mp4.

  vidrl sample --model assets/tiny-wan --prompt "a red circle moves left slowly on a dark background" --out clips
  vidrl sample --model assets/tiny-wan --lora runs/demo/lora --prompts assets/prompts/world_held_out.txt --out clips

Clip i starts from the noise of torch.Generator().manual_seed(seed + i), as a diffusers pipeline given that generator.
prompts.csv beside the clips says what was asked for; `vidrl bench clips` reads it.
"""

BACKBONE_OPTIONS = {"guidance": float, "frames": int, "height": int, "width": int, "text_length": int}


def declare(commands: Any) -> None:
    made = command(commands, "sample", SAMPLE, "make clips", _sample)
    made.add_argument("--model", required=True, metavar="DIR", help="a model folder in diffusers' format")
    made.add_argument("--lora", metavar="DIR", help="what training saved, as runs/demo/lora")
    prompts = made.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    prompts.add_argument("--prompts", metavar="FILE", help="one prompt a line")
    made.add_argument("--out", required=True, metavar="DIR", help="the clips go here: 0000.mp4 ...")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--steps", type=int, default=20, help="denoising steps (20)")
    made.add_argument("--device", default="", help="cpu, cuda ...; a GPU where there is one")
    made.add_argument("--backbone", default="wan", metavar="NAME", help="the model's family (wan)")
    for name, kind in BACKBONE_OPTIONS.items():
        made.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help="the model's own if not given")


def _sample(args: argparse.Namespace) -> int:
    import torch

    from vidrl import config, plugin
    from vidrl.bench import manifest
    from vidrl.policy import load_adapter
    from vidrl.rewards import video
    from vidrl.rollout import generate

    prompts = args.prompt or config.read_prompts(args.prompts)
    given = {name: getattr(args, name) for name in BACKBONE_OPTIONS if getattr(args, name) is not None}
    backbone = plugin.load("backbones", args.backbone, model=args.model, **given)
    backbone.to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    seeds = [torch.Generator().manual_seed(args.seed + i) for i in range(len(prompts))]
    samples = generate(load_adapter(backbone, args.lora) if args.lora else backbone, prompts, seeds, args.steps)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(samples.video):
        video.write(out / f"{i:04d}.mp4", clip, samples.fps)
    manifest.write(out / "prompts.csv", [{"path": f"{i:04d}.mp4", "prompt": prompt, "seed": args.seed + i}
                                         for i, prompt in enumerate(prompts)])
    print(f"{len(prompts)} clips in {out}")
    return 0
