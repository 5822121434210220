"""The model that a command samples from: a model folder, a recipe's model, or a run's with
its trained weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrl import config, plugin
from vidrl.recipe import toml
from vidrl.report import run_folder

DRIVEN = "pipeline"  # the backbone that drives any pipeline
CALL = {
    "height": "height",
    "width": "width",
    "frames": "num_frames",
    "guidance": "guidance_scale",
    # arguments of a pipeline's call, by the options of a command
    "text_length": "max_sequence_length",
}


@dataclass(frozen=True)
class ModelSource:
    """A backbone's name and options, the folder of an adapter, and the denoising steps of
    the recipe's evaluation.

    `partial` allows an adapter of which a part does not fit.
    """

    backbone: str = "wan"
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: str | None = None
    steps: int | None = None
    partial: bool = False

    @property
    def model(self) -> str:
        """The model folder or hub id; the backbone's name where it takes none."""
        return str(self.options.get("model", self.backbone))

    @property
    def name(self) -> str:
        """What to call it: the run's name, the adapter's, or the model's."""
        lora = Path(self.lora) if self.lora else None
        return (
            (lora.parent.name if lora.name == "lora" else lora.name)
            if lora
            else Path(self.model).name
        )


def resolve(
    model: str | None = None,
    recipe: str | None = None,
    run: str | None = None,
    lora: str | None = None,
    words: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> ModelSource:
    """The source that a command's arguments describe; the later of these wins.

    The backbone section of `recipe` (a TOML file) or of the run folder `run`, whose adapter
    is RUN/lora; `model`; `words`, each the name of a backbone or an option of it as
    `key=value`; `given`, options by name; `lora`. `partial` allows an adapter of which a
    part does not fit, as the recipe's policy.lora_partial does. Raises ValueError for both
    a recipe and a run, for no model at all, for an unknown option, and for `partial`
    without an adapter; FileNotFoundError for a run that has saved no adapter; and the
    errors of `config.load` and `run_folder.read`.

    Example:
        >>> resolve("assets/tiny-wan", words=["dtype=bfloat16"], given={"guidance": 5.0}).options["dtype"]
        'bfloat16'
    """
    start = _start(recipe, run)
    names = [word for word in words if "=" not in word]
    family = start.backbone if recipe or run else _family(model)
    backbone = names[-1] if names else family
    same = backbone == start.backbone
    own = _in_call(given or {}) if backbone == DRIVEN else given or {}
    options = _nested(
        {
            **(start.options if same else {}),
            **({"model": model} if model else {}),
            **toml.options(word for word in words if "=" in word),
            **own,
        }
    )
    made = ModelSource(backbone, options, lora or start.lora, start.steps, partial or start.partial)
    _check(made)
    if partial and not made.lora:
        raise ValueError(
            "--lora-partial: expected an adapter, of which a part may be left out: add --lora, got none"
        )
    return made


def _family(model: str | None) -> str:
    """The backbone for a model that is named alone: `wan`, but for a local folder of
    another pipeline."""
    index = Path(model or "") / "model_index.json"
    if not model or not index.is_file():
        return ModelSource.backbone
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        return ModelSource.backbone  # which says what is wrong with the file
    return ModelSource.backbone if kind == "WanPipeline" else DRIVEN


def _in_call(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a command as arguments of a driven pipeline's call."""
    return {f"call.{CALL[name]}" if name in CALL else name: value for name, value in given.items()}


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose names have a dot, as `call.height`, put into the table that the name
    begins with.

    >>> _nested({"call": {"width": 64}, "call.height": 32})
    {'call': {'width': 64, 'height': 32}}
    """
    made = {name: value for name, value in options.items() if "." not in name}
    for name, value in options.items():
        table, dot, key = name.partition(".")
        if dot:
            made[table] = {**made.get(table, {}), key: value}
    return made


def _start(recipe: str | None, run: str | None) -> ModelSource:
    if recipe and run:
        raise ValueError(f"expected a recipe or a run, got both: --recipe {recipe} and --run {run}")
    if not (recipe or run):
        return ModelSource()
    if run:
        made = config.build(run_folder.read(run).config, where=f"{run}/config.toml", files=False)
        return _of(made, _adapter(Path(run)))
    return _of(config.load(str(recipe), files=False), None)


def _of(recipe: config.Recipe, lora: str | None) -> ModelSource:
    section = recipe.backbone
    p = recipe.policy
    return ModelSource(
        section.name,
        dict(section.options),
        lora or p.lora or None,
        recipe.train.eval_steps,
        p.lora_partial,
    )


def _adapter(run: Path) -> str:
    folder = run / "lora"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected the weights that the run trained in {folder}, found none: a run writes them "
            f"when it ends. Finish it with --resume, or sample the model that it started from with "
            f"--recipe {run / 'config.toml'}"
        )
    return str(folder)


def _check(source: ModelSource) -> None:
    cls = plugin.find("backbones", source.backbone)
    takes = [option["name"] for option in plugin.facts("backbones", source.backbone)["options"]]
    if "model" in takes and "model" not in source.options:
        raise ValueError(
            "expected a model: --model DIR (a folder in diffusers' format, or a hub id), --recipe FILE "
            "or --run DIR; got none of them"
        )
    if "model" not in takes and "model" in source.options:
        raise ValueError(
            f"expected no --model, since the backbone {source.backbone!r} takes none, got "
            f"{source.options['model']!r}"
        )
    plugin.check(cls, source.options, f"backbone {source.backbone!r}")
