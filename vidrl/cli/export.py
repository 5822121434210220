"""Defines the command `vidrl export`, which writes a LoRA in the format of another program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._declare import command

EXPORT = """\
Write a LoRA in the format of another program.

  vidrl export runs/demo --format comfyui     one file, for the folder models/loras of ComfyUI
  vidrl export runs/demo --format kohya       one file, for kohya's musubi-tuner
  vidrl export runs/demo --format diffusers   a folder, for pipe.load_lora_weights(folder)
  vidrl export runs/demo --format peft        a folder, for PeftModel.from_pretrained(model, folder)

RUN_OR_LORA is a run folder, or a LoRA folder or file of any of these formats. Without --out, the
new LoRA is written next to the one that is read. Every format keeps alpha. The formats comfyui and
kohya work for Wan models only.
"""


def declare(commands: Any) -> None:
    """Declare the command `export`."""
    export = command(commands, "export", EXPORT, "write a LoRA for another program", _export)
    export.add_argument(
        "source",
        metavar="RUN_OR_LORA",
        help="a run or a LoRA, for example runs/demo, runs/demo/lora or lora.safetensors",
    )
    export.add_argument(
        "--format",
        required=True,
        choices=("comfyui", "kohya", "diffusers", "peft"),
        help="the format to write",
    )
    export.add_argument(
        "--out",
        metavar="PATH",
        help="the folder to write; for comfyui and kohya also a file NAME.safetensors",
    )


def _export(args: argparse.Namespace) -> int:
    from vidrl import lora

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
