"""Declares the arguments that name the model whose clips a command samples."""

from __future__ import annotations

import argparse
from typing import Any

MODEL = """\
Name the model in one of three ways: --model, a folder in diffusers' format; --recipe, the model
of a recipe; or --run, the model of a run with the weights that the run trained. A recipe or a run
also sets every option of its backbone (size, guidance, dtype, offload_text, decode_chunk ...).
--backbone KEY=VALUE changes any of these options, and `vidrl show backbones wan` lists them.
A --model folder that is not a Wan text-to-video pipeline is sampled by the backbone `pipeline`,
whose options --backbone call.KEY=VALUE are arguments of the pipeline's call. A model named by its
hub id needs --backbone pipeline.
"""


def declare(group: Any) -> None:
    """Add the arguments to a parser or to a group of arguments."""
    group.add_argument(
        "--model", metavar="DIR", help="a model folder in diffusers' format, or a hub id"
    )
    group.add_argument(
        "--recipe", metavar="FILE", help="use the model and the backbone options of this recipe"
    )
    group.add_argument(
        "--run",
        metavar="DIR",
        dest="run_folder",
        help="use the model and the options of this run, with its trained weights (DIR/lora)",
    )
    group.add_argument(
        "--lora",
        metavar="DIR",
        help="load this LoRA, which a training run saved, for example runs/demo/lora",
    )
    group.add_argument(
        "--lora-partial",
        action="store_true",
        help="leave out the parts of the LoRA that do not fit the model and print a warning "
        "(default: such a LoRA is an error)",
    )
    group.add_argument(
        "--backbone",
        action="append",
        metavar="NAME or KEY=VALUE",
        default=[],
        help="choose the backbone (wan, pipeline), or set one of its options, for example "
        "dtype=bfloat16 or call.height=512; may be repeated",
    )


def resolved(args: argparse.Namespace, **backbone_options: Any) -> Any:
    """Return the `vidrl.training.model_source.ModelSource` that the arguments name."""
    from vidrl.training.model_source import resolve

    return resolve(
        args.model,
        args.recipe,
        args.run_folder,
        args.lora,
        args.backbone,
        backbone_options,
        args.lora_partial,
    )
