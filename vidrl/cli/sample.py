"""Defines the command `vidrl sample`, which samples clips from a model."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _model
from ._declare import command, device, new_folder, whole_number

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = f"""\
Sample clips from a model, with or without a trained LoRA. Clips are written as mp4; images, which
are clips of one frame, as png.

  vidrl sample --model assets/tiny-wan --out clips \\
      --prompt "a red circle moves left slowly on a dark background"
  vidrl sample --run runs/demo --prompts assets/prompts/world_held_out.txt --out clips
  vidrl sample --recipe scripts/recipes/wan_1.3b.toml --backbone dtype=bfloat16 \\
      --prompts prompts.txt --out clips

{_model.MODEL}
Clip i starts from the noise of torch.Generator().manual_seed(seed + i), like a diffusers pipeline
that is given this generator. Wan models are sampled with FlowMatchEulerDiscreteScheduler, whatever
scheduler their folder names: a released folder names UniPC, so that `pipe()` makes other clips of
the same noise. Clips are sampled one at a time. A clip that fails is left out with its reason, and
the exit status is then 1. The file prompts.csv next to the clips lists path, prompt, seed and, in
the column reference, the image that a clip was conditioned on; `vidrl bench clips` reads this file.
"""

STEPS = 20
# options of the backbone that have an argument of their own: type and help of each
BACKBONE_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "guidance": (float, "the strength of classifier-free guidance"),
    "frames": (whole_number(1), "the number of frames of a clip"),
    "height": (whole_number(1), "the height of a clip in pixels"),
    "width": (whole_number(1), "the width of a clip in pixels"),
    "text_length": (whole_number(1), "the number of tokens to which prompts are padded or cut"),
}


def declare(commands: Any) -> None:
    """Declare the command `sample`."""
    sample = command(commands, "sample", SAMPLE, "sample clips from a model", _sample)
    _model.declare(sample)
    prompts = sample.add_mutually_exclusive_group(required=True)
    prompts.add_argument(
        "--prompt", action="append", metavar="TEXT", help="sample this prompt; may be repeated"
    )
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        help="sample the prompts of this file: one prompt a line, or a .jsonl, .csv or .parquet "
        "table with the column prompt and, for models that need it, further columns such as image",
    )
    sample.add_argument(
        "--out",
        type=new_folder,
        required=True,
        metavar="DIR",
        help="the folder in which the clips are written as 0000.mp4 ..., or 0000.png ...",
    )
    sample.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the clips of an earlier call in DIR (default: clips in DIR are an error)",
    )
    sample.add_argument(
        "--samples", type=whole_number(1), default=1, metavar="N", help="clips of each prompt (1)"
    )
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (0)")
    sample.add_argument(
        "--steps",
        type=whole_number(1),
        metavar="N",
        help=f"denoising steps (train.eval_steps of the recipe or run, else {STEPS})",
    )
    sample.add_argument(
        "--device", type=device, default="", help="cpu, cuda ... (a GPU if the machine has one)"
    )
    for name, (kind, meaning) in BACKBONE_OPTIONS.items():
        sample.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar="N",
            help=f"{meaning} (the value of the recipe or run, else of the model)",
        )


def _sample(args: argparse.Namespace) -> int:
    from vidrl import config
    from vidrl.bench import manifest
    from vidrl.data import references

    given = {
        name: getattr(args, name) for name in BACKBONE_OPTIONS if getattr(args, name) is not None
    }
    source = _model.resolved(args, **given)
    asked = args.prompt or config.read_prompts(args.prompts)
    prompts = [prompt for prompt in asked for _ in range(args.samples)]
    _print_skipped_rows(args.prompts)
    out = Path(args.out)
    _check_empty(out, args.overwrite)
    make, fps = _maker(source, args.steps or source.steps or STEPS, args.device, prompts)
    rows, failed = [], []
    _empty(out)
    for i, prompt in _progress(prompts):
        name, why = _write_clip(make, prompt, args.seed + i, out / f"{i:04d}", fps)
        if why:
            failed.append(f"{name}: {why}")
        else:
            row = {"path": name, "prompt": prompt, "seed": args.seed + i}
            rows.append({**row, **references.columns(prompt)})
    if rows:
        manifest.write(out / "prompts.csv", rows)
    return _print_result(len(rows), failed, out)


def _check_empty(out: Path, overwrite: bool) -> None:
    """Raise ValueError where a folder holds clips that may not be replaced."""
    from vidrl.rewards import video

    files = sorted(out.iterdir()) if out.is_dir() else []
    clips = [file.name for file in files if file.suffix.lower() in video.SUFFIXES]
    if clips and not overwrite:
        raise ValueError(
            f"expected a folder without clips, got {out} with {len(clips)}, such as {clips[0]}: "
            "name another folder with --out, or add --overwrite to replace the clips of an earlier "
            "call"
        )


def _empty(out: Path) -> None:
    """Create the folder, without the clips and the table that an earlier call wrote into it.

    Clips of an earlier call that stayed would be measured with the new ones. Files of other
    names stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in out.iterdir():
        if re.fullmatch(r"\d{4,}\.(mp4|png)|prompts\.csv", file.name):
            file.unlink()


def _maker(
    source: Any, steps: int, device: str, prompts: Sequence[str]
) -> tuple[Callable[[str, int], Tensor], float]:
    """Load the model; return a function that samples, and the clips' frames a second.

    The function takes a prompt and a seed, and returns the clip (F, 3, H, W).
    """
    import torch

    from vidrl import plugin
    from vidrl.backbones.base import PromptCache
    from vidrl.training.clips import generate
    from vidrl.training.policy import load_adapter

    backbone = plugin.load("backbones", source.backbone, **source.options)
    backbone.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    backbone.check_prompts(prompts)  # on the device, where a prompt's pictures are tried out
    policy = load_adapter(backbone, source.lora, source.partial) if source.lora else backbone
    encode = PromptCache(backbone)
    # all prompts at once, so that an offloaded text encoder moves to the device only once
    encode.learn(prompts)
    for note in backbone.notes:
        print(f"vidrl: note: {note}", file=sys.stderr)

    def make(prompt: str, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return generate(policy, [prompt], [generator], steps, encode=encode).video[0]

    return make, backbone.fps


def _print_skipped_rows(file: str | None) -> None:
    """Print the rows of a table of prompts that are left out, each with its reason."""
    from vidrl.data import prompts

    found = prompts.table(file) if file else prompts.File([])
    for line in [*found.notes, *(f"left out: {file}: {why}" for why in found.left_out)]:
        print(f"vidrl: {line}", file=sys.stderr)


def _write_clip(
    make: Callable[[str, int], Tensor], prompt: str, seed: int, path: Path, fps: float
) -> tuple[str, str]:
    """Sample and write one clip; return its file name, and the reason if it failed."""
    from vidrl.rewards import video

    try:
        clip = make(prompt, seed)
        path = path.with_suffix(video.suffix(len(clip)))
        if not bool(clip.isfinite().all()):
            return path.name, "the model gave NaN or infinity"
        video.write(path, clip, fps)
    except (ImportError, OSError):
        raise  # a missing package or a full disk would fail every further clip too
    except Exception as error:  # noqa: BLE001  an error of one prompt must not stop the others
        return path.name, f"{type(error).__name__}: {error}"
    return path.name, ""


def _progress(prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
    from tqdm import tqdm

    # disable=None hides the bar if standard error is not a terminal
    yield from enumerate(tqdm(prompts, desc="clips", unit="clip", disable=None))


def _print_result(count: int, failed: Sequence[str], out: Path) -> int:
    print(f"{count} clip{'' if count == 1 else 's'} in {out}")
    for line in failed:
        print(f"vidrl: not made: {line}", file=sys.stderr)
    return 1 if failed else 0
