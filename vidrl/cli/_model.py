"""The arguments with which a command names the model that it samples from."""

from __future__ import annotations

import argparse
from typing import Any

MODEL = """\
The model: a folder in diffusers' format with --model, the one of a recipe with --recipe, or that of a run with --run,
which brings the weights that the run trained. A recipe or a run also brings every option of its backbone (size,
guidance, dtype, offload_text, decode_chunk ...); --backbone KEY=VALUE sets any of them, and
`vidrl show backbones wan` lists them. A folder with --model that is no Wan text-to-video pipeline is driven by the
backbone `pipeline`, whose options --backbone call.KEY=VALUE are arguments of the pipeline's call. A hub id of such a
model needs --backbone pipeline.
"""


def declare(made: Any) -> None:
    """Declare them on a parser or a group of it."""
    made.add_argument(
        "--model", metavar="DIR", help="a model folder in diffusers' format, or a hub id"
    )
    made.add_argument(
        "--recipe", metavar="FILE", help="the model and the backbone's options of this recipe"
    )
    made.add_argument(
        "--run",
        metavar="DIR",
        dest="run_folder",
        help="those of this run, with the weights that it trained (RUN/lora)",
    )
    made.add_argument("--lora", metavar="DIR", help="what training saved, as runs/demo/lora")
    made.add_argument(
        "--lora-partial",
        action="store_true",
        help="leave out, with a warning, what of the LoRA does not fit the model; else it is an error",
    )
    made.add_argument(
        "--backbone",
        action="append",
        metavar="NAME or KEY=VALUE",
        default=[],
        help="the backbone (wan, pipeline), or an option of it, as dtype=bfloat16 or call.height=512; "
        "may be repeated",
    )


def resolved(args: argparse.Namespace, **given: Any) -> Any:
    """The `vidrl.training.model_source.ModelSource` of the arguments; `given` are options
    of the backbone."""
    from vidrl.training.model_source import resolve

    return resolve(
        args.model, args.recipe, args.run_folder, args.lora, args.backbone, given, args.lora_partial
    )
