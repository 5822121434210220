"""Defines the command `vidrl export`, which writes a LoRA or a scene for another program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._declare import command

EXPORT = """\
Write a LoRA in the format of another program, or a scene of a run that trained a model of scenes.

  vidrl export runs/demo --format comfyui     one file, for the folder models/loras of ComfyUI
  vidrl export runs/demo --format kohya       one file, for kohya's musubi-tuner
  vidrl export runs/demo --format diffusers   a folder, for pipe.load_lora_weights(folder)
  vidrl export runs/demo --format peft        a folder, for PeftModel.from_pretrained(model, folder)
  vidrl export runs/tiny_3d --format ply --prompt "a red cube left of a blue ball"
                                              one file, for viewers of Gaussian splats

RUN_OR_LORA is a run folder, or a LoRA folder or file of any of these formats. Without --out, the
new LoRA is written next to the one that is read. Every format keeps alpha. The formats comfyui and
kohya work for Wan models only.
"""


def declare(commands: Any) -> None:
    """Declare the command `export`."""
    export = command(
        commands, "export", EXPORT, "write a LoRA or a scene for another program", _export
    )
    export.add_argument(
        "source",
        metavar="RUN_OR_LORA",
        help="a run or a LoRA, for example runs/demo, runs/demo/lora or lora.safetensors",
    )
    export.add_argument(
        "--format",
        required=True,
        choices=("comfyui", "kohya", "diffusers", "peft", "ply"),
        help="the format to write",
    )
    export.add_argument(
        "--out",
        metavar="PATH",
        help="the folder to write; for comfyui and kohya also a file NAME.safetensors, and for ply "
        "a file NAME.ply",
    )
    export.add_argument("--prompt", help="the caption of the scene; with --format ply only")
    export.add_argument(
        "--seed", type=int, default=0, help="the seed of the scene's noise (default 0)"
    )


def _export(args: argparse.Namespace) -> int:
    from vidrl import lora

    if args.format == "ply" or args.prompt:
        return _export_scene(args)
    source, form = Path(args.source), args.format
    found = lora.complete(lora.read(_lora(source)))
    file = lora.write(found, form, _out(source, form, args.out, found.source))
    config = found.config()
    print(
        f"{len(found.pairs)} modules, rank {config['r']}, alpha {config['lora_alpha']}, in {file}"
    )
    if not any(bool(pair["lora_B.weight"].any()) for pair in found.pairs.values()):
        print(
            "every lora_B is 0: this LoRA changes nothing; was each of its evaluations rolled back?"
        )
    return 0


def _export_scene(args: argparse.Namespace) -> int:
    """Sample a scene with the weights of a run, and write it."""
    import torch

    from vidrl import plugin
    from vidrl.training.model_source import resolve
    from vidrl.training.policy import load_adapter

    if args.format != "ply" or not args.prompt:
        raise ValueError(
            "expected --format ply and --prompt together, as --format ply --prompt 'a red cube "
            f"left of a blue ball', got --format {args.format} and --prompt {args.prompt!r}"
        )
    source = resolve(run=args.source)
    backbone = plugin.load("backbones", source.backbone, **source.options)
    if not hasattr(backbone, "write_ply"):
        raise ValueError(
            f"expected the run of a model of scenes, such as the backbone scene, got the backbone "
            f"{source.backbone}, whose clips have no points in space: leave --format ply out"
        )
    if source.lora:
        load_adapter(backbone, source.lora, source.partial)
    noise = backbone.noise([torch.Generator().manual_seed(args.seed)])
    with torch.no_grad():
        latents = backbone.generate(noise, backbone.encode([args.prompt]))
    out = Path(args.out or Path(args.source) / "scene.ply")
    if out.suffix != ".ply":
        raise ValueError(f"--out: expected a file NAME.ply for --format ply, got {out}")
    print(backbone.write_ply(out, latents[0]))
    return 0


def _lora(source: Path) -> Path:
    """Return the LoRA of a run folder, or the source itself if it is no run folder."""
    if not (source / "config.toml").exists():
        return source
    if not (source / "lora").is_dir():
        raise ValueError(
            f"expected a finished run in {source}, got one without the folder lora, which "
            "training writes at its end: continue the run with vidrl train RECIPE --resume"
        )
    return source / "lora"


def _out(source: Path, form: str, wanted: str | None, read: Path) -> Path:
    """Return the path to write: a folder for diffusers and peft, a file for comfyui and kohya.

    Raises ValueError if the path has the wrong kind or is the LoRA that was read.
    """
    from vidrl.lora.writing import FILES

    name = f"{source.resolve().name.removesuffix('.safetensors')}-{form}"
    writes_folder = form in FILES
    parent = source if (source / "config.toml").exists() else source.parent
    out = Path(wanted) if wanted else parent / name
    if writes_folder and out.suffix == ".safetensors":
        raise ValueError(f"--out: expected a folder for --format {form}, got the file {out}")
    if not writes_folder and out.suffix != ".safetensors":
        out = Path(f"{out / name if wanted else out}.safetensors")
    if (out / FILES.get(form, "")).resolve() == read.resolve():
        raise ValueError(
            f"--out: expected another path than {read}, which is the LoRA that is read: choose one"
        )
    return out
