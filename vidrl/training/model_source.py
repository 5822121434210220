"""Find the model that a command samples from: a folder's, a recipe's, or a trained run's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrl import config, plugin
from vidrl.recipe import toml
from vidrl.report import run_folder

# The backbone that drives any pipeline of diffusers.
DRIVEN = "pipeline"
# The pipelines of diffusers for which the backbone `wan` is written.
OWN = ("WanPipeline", "SkyReelsV2DiffusionForcingPipeline", "HeliosPipeline")
# The arguments of a pipeline's call, by the options of a command.
CALL = {
    "height": "height",
    "width": "width",
    "frames": "num_frames",
    "guidance": "guidance_scale",
    "text_length": "max_sequence_length",
}


@dataclass(frozen=True)
class ModelSource:
    """A source of clips: a backbone with its options and an adapter."""

    # The name of the backbone, a plug-in.
    backbone: str = "wan"
    # The backbone's options.
    options: Mapping[str, Any] = field(default_factory=dict)
    # The folder or file of an adapter.
    lora: str | None = None
    # The denoising steps of the recipe's evaluations; None without a recipe.
    steps: int | None = None
    # Whether a part of the adapter may not fit the model.
    partial: bool = False

    @property
    def model(self) -> str:
        """Return the model's folder or hub id; the backbone's name where it takes no model."""
        return str(self.options.get("model", self.backbone))

    @property
    def name(self) -> str:
        """Return a name to show: the run's, the adapter's, or the model's."""
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
    """Return the source that a command's arguments describe.

    Where two arguments give one value, the later of these wins: the backbone section of
    `recipe` (a TOML file), or of the run folder `run`, whose adapter is RUN/lora; `model`;
    `words`, each the name of a backbone or an option as `key=value`; `given`, options by
    name; `lora`. `partial` allows an adapter of which a part does not fit, as the recipe's
    policy.lora_partial does.

    Raises ValueError for both a recipe and a run, for no model at all, for an unknown
    option, and for `partial` without an adapter; FileNotFoundError for a run that has saved
    no adapter; and the errors of `config.load` and `run_folder.read`.

    Example:
        >>> resolve("assets/tiny-wan", words=["dtype=bfloat16"]).options["dtype"]
        'bfloat16'
    """
    start = _start(recipe, run)
    names = [word for word in words if "=" not in word]
    family = start.backbone if recipe or run else _family(model)
    backbone = names[-1] if names else family
    given = given or {}
    options = _nested(
        {
            # the recipe's options are those of the recipe's backbone alone
            **(start.options if backbone == start.backbone else {}),
            **({"model": model} if model else {}),
            **toml.options(word for word in words if "=" in word),
            **(_in_call(given) if backbone == DRIVEN else given),
        }
    )
    lora, partial_allowed = lora or start.lora, partial or start.partial
    source = ModelSource(backbone, options, lora, start.steps, partial_allowed)
    _check(source)
    if partial and not lora:
        raise ValueError(
            "--lora-partial: expected an adapter, of which a part may be left out: add --lora, got "
            "none"
        )
    return source


def _family(model: str | None) -> str:
    """Return the backbone for a model: `wan`, or `pipeline` for a folder of another pipeline."""
    index = Path(model or "") / "model_index.json"
    if not model or not index.is_file():
        return ModelSource.backbone
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        return ModelSource.backbone  # its loader reports what is wrong with the file
    return ModelSource.backbone if kind in OWN else DRIVEN


def _in_call(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a command as arguments of a driven pipeline's call."""
    return {f"call.{CALL[name]}" if name in CALL else name: value for name, value in given.items()}


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Put options whose names have a dot, as `call.height`, into the table of that name.

    >>> _nested({"call": {"width": 64}, "call.height": 32})
    {'call': {'width': 64, 'height': 32}}
    """
    nested = {name: value for name, value in options.items() if "." not in name}
    for name, value in options.items():
        table, dot, key = name.partition(".")
        if dot and not isinstance(nested.get(table, {}), Mapping):
            raise ValueError(
                f"{table}: expected a table, of which {name} is an entry, got {nested[table]!r}: "
                f"leave {table} = {nested[table]!r} out, or write {table}.KEY = {nested[table]!r}"
            )
        if dot:
            nested[table] = {**nested.get(table, {}), key: value}
    return nested


def _start(recipe: str | None, run: str | None) -> ModelSource:
    """Return the source that a recipe or a run folder describes; the default without both."""
    if recipe and run:
        raise ValueError(f"expected a recipe or a run, got both: --recipe {recipe} and --run {run}")
    if not (recipe or run):
        return ModelSource()
    if run:
        table = run_folder.read(run).config
        recorded = config.build(table, where=f"{run}/config.toml", files=False)
        return _from_recipe(recorded, _adapter(Path(run)))
    return _from_recipe(config.load(str(recipe), files=False), None)


def _from_recipe(recipe: config.Recipe, lora: str | None) -> ModelSource:
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
    """Return the folder of the weights that a run trained; raise where it has none yet."""
    folder = run / "lora"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected the weights that the run trained in {folder}, found none: a run writes them "
            f"when it ends. Finish it with --resume, or sample the model that it started from with "
            f"--recipe {run / 'config.toml'}"
        )
    return str(folder)


def _check(source: ModelSource) -> None:
    """Raise where the backbone cannot take the model or the options."""
    cls = plugin.find("backbones", source.backbone)
    takes = [option["name"] for option in plugin.facts("backbones", source.backbone)["options"]]
    if "model" in takes and "model" not in source.options:
        raise ValueError(
            "expected a model: --model DIR (a folder in diffusers' format, or a hub id), --recipe "
            "FILE or --run DIR; got none of them"
        )
    if "model" not in takes and "model" in source.options:
        raise ValueError(
            f"expected no --model, since the backbone {source.backbone!r} takes none, got "
            f"{source.options['model']!r}"
        )
    plugin.check(cls, source.options, f"backbone {source.backbone!r}")
