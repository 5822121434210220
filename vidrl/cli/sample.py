"""vidrl sample: clips from a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _model
from ._declare import command

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = f"""\
Make clips with a model, with or without a trained LoRA, as mp4; images, clips of one frame, as png.

  vidrl sample --model assets/tiny-wan --prompt "a red circle moves left slowly on a dark background" --out clips
  vidrl sample --run runs/demo --prompts assets/prompts/world_held_out.txt --out clips
  vidrl sample --recipe scripts/recipes/wan_1.3b.toml --backbone dtype=bfloat16 --prompts prompts.txt --out clips

{_model.MODEL}
Clip i starts from the noise of torch.Generator().manual_seed(seed + i), as a diffusers pipeline given that generator.
Wan folders are sampled with FlowMatchEulerDiscreteScheduler, whatever scheduler they carry: `pipe()` of a released
folder, which carries UniPC, makes other clips of the same noise. Clips are made one at a time. A clip that fails is
left out with its reason, and the exit status is then 1. prompts.csv beside the clips says what was asked for, the
image that a clip was made from in its column reference; `vidrl bench clips` reads it.
"""

BACKBONE_OPTIONS = {
    "guidance": float,
    "frames": int,
    "height": int,
    "width": int,
    "text_length": int,
}
STEPS = 20


def declare(commands: Any) -> None:
    """Declare the command."""
    made = command(commands, "sample", SAMPLE, "make clips", _sample)
    _model.declare(made)
    prompts = made.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt a line, or a .jsonl, .csv or .parquet table with the column prompt and what "
        "goes with it, as image",
    )
    made.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the clips go here: 0000.mp4 ..., or 0000.png ...",
    )
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"denoising steps (train.eval_steps of the recipe or run, else {STEPS})",
    )
    made.add_argument("--device", default="", help="cpu, cuda ...; a GPU where there is one")
    for name, kind in BACKBONE_OPTIONS.items():
        made.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar="N",
            help="the recipe's or run's, else the model's own",
        )


def _sample(args: argparse.Namespace) -> int:
    from vidrl import config
    from vidrl.bench import manifest
    from vidrl.data import references

    given = {
        name: getattr(args, name) for name in BACKBONE_OPTIONS if getattr(args, name) is not None
    }
    source = _model.resolved(args, **given)
    prompts = args.prompt or config.read_prompts(args.prompts)
    _tell_left_out(args.prompts)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    make, fps = _maker(source, args.steps or source.steps or STEPS, args.device, prompts)
    rows, lost = [], []
    for i, prompt in _progress(prompts):
        name, why = _made(make, prompt, args.seed + i, out / f"{i:04d}", fps)
        if why:
            lost.append(f"{name}: {why}")
        else:
            rows.append(
                {
                    "path": name,
                    "prompt": prompt,
                    "seed": args.seed + i,
                    **references.columns(prompt),
                }
            )
    if rows:
        manifest.write(out / "prompts.csv", rows)
    return _tell(len(rows), lost, out)


def _maker(
    source: Any, steps: int, device: str, prompts: Sequence[str]
) -> tuple[Callable[[str, int], Tensor], float]:
    """A function of a prompt and a seed that returns the clip (F, 3, H, W), and the clips'
    frames a second."""
    import torch

    from vidrl import plugin
    from vidrl.backbones.base import PromptCache
    from vidrl.training.policy import load_adapter
    from vidrl.training.rollout import generate

    backbone = plugin.load("backbones", source.backbone, **source.options)
    backbone.check_prompts(prompts)
    backbone.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    policy = load_adapter(backbone, source.lora, source.partial) if source.lora else backbone
    encode = PromptCache(backbone)
    encode.learn(prompts)  # in one visit of an offloaded text encoder to the device
    for note in backbone.notes:
        print(f"vidrl: note: {note}", file=sys.stderr)

    def make(prompt: str, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return generate(policy, [prompt], [draw], steps, encode=encode).video[0]

    return make, backbone.fps


def _tell_left_out(file: str | None) -> None:
    """Tell which rows of a table of prompts are left out, and why."""
    from vidrl.data import prompts

    found = prompts.table(file) if file else prompts.File([])
    for line in [*found.notes, *(f"left out: {file}: {why}" for why in found.left_out)]:
        print(f"vidrl: {line}", file=sys.stderr)


def _made(
    make: Callable[[str, int], Tensor], prompt: str, seed: int, path: Path, fps: float
) -> tuple[str, str]:
    """Make and write one clip: the name of its file, and why it could not be made."""
    from vidrl.rewards import video

    try:
        clip = make(prompt, seed)
        path = path.with_suffix(video.suffix(len(clip)))
        if not bool(clip.isfinite().all()):
            return path.name, "the model gave NaN or infinity"
        video.write(path, clip, fps)
    except (ImportError, OSError):
        raise  # of every clip alike: a missing package, a full disk
    except Exception as error:  # noqa: BLE001  whatever a model raises on one prompt, the other prompts go on
        return path.name, f"{type(error).__name__}: {error}"
    return path.name, ""


def _progress(prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
    from tqdm import tqdm

    yield from enumerate(tqdm(prompts, desc="clips", unit="clip", disable=None))


def _tell(made: int, lost: Sequence[str], out: Path) -> int:
    print(f"{made} clips in {out}")
    for line in lost:
        print(f"vidrl: not made: {line}", file=sys.stderr)
    return 1 if lost else 0
