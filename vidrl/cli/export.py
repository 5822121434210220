"""vidrl export: a LoRA in the format of another program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._declare import command

EXPORT = """\
Write a LoRA in the format of another program.

  vidrl export runs/demo --format comfyui      one file, for the folder models/loras of ComfyUI
  vidrl export runs/demo --format kohya        one file, for kohya's musubi-tuner
  vidrl export runs/demo --format diffusers    a folder, for pipe.load_lora_weights(folder)
  vidrl export runs/demo --format peft         a folder, for PeftModel.from_pretrained(network, folder)

RUN_OR_LORA is a run folder, or a LoRA folder or file of any of these formats. Without --out, the
command writes beside it. Every format keeps alpha. comfyui and kohya work for Wan alone.
"""


def declare(commands: Any) -> None:
    made = command(commands, "export", EXPORT, "a LoRA in the format of another program", _export)
    made.add_argument(
        "source", metavar="RUN_OR_LORA", help="as runs/demo, runs/demo/lora or lora.safetensors"
    )
    made.add_argument("--format", required=True, choices=("comfyui", "kohya", "diffusers", "peft"))
    made.add_argument(
        "--out", metavar="PATH", help="a folder; for comfyui and kohya also a name.safetensors"
    )


def _export(args: argparse.Namespace) -> int:
    from vidrl import lora

    source, form = Path(args.source), args.format
    found = lora.complete(lora.read(_lora(source)))
    file = lora.write(found, form, _out(source, form, args.out, found.source))
    made = found.config()
    print(f"{len(found.pairs)} modules, rank {made['r']}, alpha {made['lora_alpha']}, in {file}")
    if not any(bool(pair["lora_B.weight"].any()) for pair in found.pairs.values()):
        print(
            "every lora_B is 0: this LoRA changes nothing; was each of its evaluations rolled back?"
        )
    return 0


def _lora(source: Path) -> Path:
    """The LoRA of a run folder, or the source itself."""
    if not (source / "config.toml").exists():
        return source
    if not (source / "lora").is_dir():
        raise ValueError(
            f"expected a finished run in {source}, got one without the folder lora, which "
            "training writes at its end: go on with vidrl train RECIPE --resume"
        )
    return source / "lora"


def _out(source: Path, form: str, wanted: str | None, read: Path) -> Path:
    """Where to write: a folder for diffusers and peft, a file for comfyui and kohya; never
    over what was read."""
    from vidrl.lora.writing import FILES

    name, whole = f"{source.resolve().name.removesuffix('.safetensors')}-{form}", form in FILES
    beside = source if (source / "config.toml").exists() else source.parent
    out = Path(wanted) if wanted else beside / name
    if whole and out.suffix == ".safetensors":
        raise ValueError(f"--out: expected a folder for --format {form}, got the file {out}")
    if not whole and out.suffix != ".safetensors":
        out = Path(f"{out / name if wanted else out}.safetensors")
    if (out / FILES.get(form, "")).resolve() == read.resolve():
        raise ValueError(f"--out: expected another place than {read}, which is read: name another")
    return out
