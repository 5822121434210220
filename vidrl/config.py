"""A run's configuration: a TOML recipe and dotted overrides, read strictly.

An unknown key is an error that names the nearest right one, an ill-typed value one that
says what was expected. TOML, because YAML reads `1e-4` as text.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidrl import plugin
from vidrl.data import clip_files, prompts
from vidrl.recipe import toml
from vidrl.recipe.recipe_text import BadRecipe, Given, apply, plain, read
from vidrl.rewards._scoring import by_name, recipe_parts
from vidrl.training.learning_rate import Schedule


@dataclass(frozen=True)
class Backbone:
    """The generator: a plug-in of `backbones` and its options."""

    name: str = "wan"
    options: dict[str, Any] = field(default_factory=lambda: {"model": "assets/tiny-wan"})


@dataclass(frozen=True)
class PolicySection:
    """What is trained: a new LoRA, an existing one (`lora` = its folder or file), or all
    weights (`full`).

    `full` with `lora` adds the LoRA to the weights first. `lora_partial` allows a LoRA of
    which a part does not fit.
    """

    lora_rank: int = 16
    lora_alpha: int = 16
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    lora: str = ""
    lora_partial: bool = False
    full: bool = False


@dataclass(frozen=True)
class RewardSection:
    """One reward by its `name` and `options`, or a composite of `parts`; neither means
    `vidrl.rewards.default()`.

    An entry of `parts` is a reward's name with its weight, or with a table of weight,
    options, scale, band and gate (`vidrl.rewards._scoring.recipe_parts.Part`). "default"
    stands for all parts of the default composite.
    """

    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = {
            name: float(entry) if type(entry) is int else entry
            for name, entry in self.parts.items()
        }
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True)
class AlgorithmSection:
    """A plug-in of `algorithms` and its options."""

    name: str = "nft"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Prompt files; the first `held_out_n` held-out prompts are evaluated on.

    A prompt file has one prompt a line, # for comments, or is a table (.jsonl, .csv,
    .parquet) of prompts with images. `clips`: a table of clips and prompts, or a folder
    with metadata.jsonl; `pairs`: a table of prompt, chosen and rejected clip. What is
    missing or does not fit is left out, or refused with `strict`: docs/guides/training_data.md.
    """

    prompts: str = ""
    held_out: str = ""
    held_out_n: int = 256
    clips: str = ""
    pairs: str = ""
    strict: bool = False


@dataclass(frozen=True)
class Train:
    """The loop; `time_limit = 0` (seconds) is none.

    `micro_batch`: clips sampled, and pairs updated, at once; 0 is 16 on a GPU and 32 on a
    CPU. `score_batch`: clips decoded and scored at once, which is all that host memory
    holds of the clips of a round or of an evaluation, beside those that are shown. Where
    memory runs out, the size of the stage is halved. `data_weight`: of the loss of sft on
    `data.clips`, added to the algorithm's own loss (DDRL, arXiv 2512.04332).

    `lr_schedule`, `lr_end`, `warmup` (rounds): see `training.learning_rate`. `eval_n`: how
    many held-out prompts, the first ones, are evaluated between rounds; 0 is all, as before
    the first round and after the last.
    """

    rounds: int = 30
    prompts_per_round: int = 4
    group: int = 8
    learning_rate: float = 2e-4
    lr_schedule: Schedule = "constant"
    lr_end: float = 0.1
    warmup: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    micro_batch: int = 0
    score_batch: int = 4
    eval_every: int = 10
    eval_n: int = 0
    eval_steps: int = 20
    checkpoint_every: int = 5
    keep_checkpoints: int = 3
    max_unscored: float = 0.5
    time_limit: float = 0.0
    trackers: list[str] = field(default_factory=list)
    ema: float = 0.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    show: int = 8
    data_weight: float = 0.0


@dataclass(frozen=True)
class Guard:
    """Bands of held-out measures, as fractions of the base model's value, and what to do
    outside them."""

    action: Literal["stop", "rollback", "warn"] = "stop"
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """A benchmark suite on the policy as it trains, every so many rounds; `suite = ""` is
    none.

    The first `prompts` of the suite's own prompts, or of `data.held_out` where it has none;
    those of `data.prompts` are left out.
    """

    suite: str = ""
    every: int = 10
    prompts: int = 32
    per_prompt: int = 1
    steps: int = 20


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a run; `run` is its folder.

    >>> recipe = build({"run": "runs/x"}, ["train.rounds=3"], files=False)
    >>> recipe.train.rounds, recipe.train.learning_rate
    (3, 0.0002)
    """

    run: str = ""
    seed: int = 0
    backbone: Backbone = field(default_factory=Backbone)
    policy: PolicySection = field(default_factory=PolicySection)
    reward: RewardSection = field(default_factory=RewardSection)
    algorithm: AlgorithmSection = field(default_factory=AlgorithmSection)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    guard: Guard = field(default_factory=Guard)
    bench: Bench = field(default_factory=Bench)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, tuples as lists: what TOML and JSON can hold."""
        return plain(dataclasses.asdict(self))

    def to_toml(self) -> str:
        """TOML text from which `build(tomllib.loads(text))` gives an equal recipe."""
        return toml.write(self.to_dict())


Source = Recipe | Mapping[str, Any] | str | Path  # of a recipe


def load(source: Source, overrides: Sequence[str] = (), files: bool = True) -> Recipe:
    """The recipe in a TOML file (or a table, or a Recipe), with `key.path=value` overrides
    applied, checked.

    Raises `BadRecipe`. A recipe without `run` goes to `runs/<name of the file>`; `files =
    False` leaves its prompt files unread.
    """
    if isinstance(source, Recipe):
        return build(source.to_dict(), overrides, files=files)
    if isinstance(source, Mapping):
        return build(source, overrides, files=files)
    table = read(Path(source))
    return build({"run": f"runs/{Path(source).stem}"} | table, overrides, str(source), files)


def build(
    table: Mapping[str, Any],
    overrides: Sequence[str] = (),
    where: str = "recipe",
    files: bool = True,
) -> Recipe:
    """The recipe that a nested table describes; `files = False` leaves the prompt files
    unread."""
    merged = plain(table)
    for override in overrides:
        apply(merged, override)
    recipe = _section(Recipe, merged, "", where)
    _check_values(recipe)
    if files:
        _check_prompts(recipe.data)
    return recipe


def check_plugins(recipe: Recipe) -> None:
    """Look up each plug-in of a recipe and check its options; raises `plugin.UnknownName`
    or `plugin.BadOption`."""
    Section = Backbone | AlgorithmSection
    named: list[tuple[str, Section]] = [
        ("backbones", recipe.backbone),
        ("algorithms", recipe.algorithm),
    ]
    for kind, section in named:
        plugin.check(plugin.find(kind, section.name), section.options, f"{kind} {section.name!r}")
    if recipe.reward.name:
        by_name.check(recipe.reward.name, recipe.reward.options)
    recipe_parts.check_plugins(recipe.reward.parts)


def read_prompts(path: str | Path, strict: bool = False) -> list[str]:
    """`vidrl.data.prompts.read`; a file that cannot be used raises `BadRecipe`."""
    try:
        return prompts.read(path, strict)
    except prompts.BadPrompts as error:
        raise BadRecipe(str(error)) from error


def read_table(data: Data, key: str) -> clip_files.Table:
    """The table that `data.clips` or `data.pairs` names; one that cannot be used raises
    `BadRecipe`."""
    try:
        return clip_files.read(key, getattr(data, key))
    except clip_files.BadTable as error:
        raise BadRecipe(f"data.{key}: {error}") from error


def training_prompts(data: Data) -> list[str]:
    """The prompts that are trained on: those of `data.prompts`; where that is empty, those
    of `clips` and `pairs`."""
    if data.prompts:
        return read_prompts(data.prompts)
    tables = [read_table(data, key) for key in ("clips", "pairs") if getattr(data, key)]
    return list(dict.fromkeys(prompt for table in tables for prompt in table.prompts))


def offline(recipe: Recipe, learns: str) -> str:
    """Where the samples of a round come from: "clips" or "pairs" of files, or "" for the
    policy."""
    if learns == "clips":
        return "clips"
    return "pairs" if learns == "optional pairs" and recipe.data.pairs else ""


def members(recipe: Recipe, learns: str) -> int:
    """How many samples of a round belong together: the clips of a table's row, or the group
    of a prompt."""
    return {"clips": 1, "pairs": 2}.get(offline(recipe, learns), recipe.train.group)


def diff(a: Recipe, b: Recipe) -> list[str]:
    """One line for each value in which two recipes differ, `key: of a -> of b`; the folder
    `run` apart.

    >>> one = build({"run": "r"}, files=False)
    >>> diff(one, build(one.to_dict(), ["train.rounds=3"], files=False))
    ['train.rounds: 30 -> 3']
    """
    return toml.diff(a.to_dict(), b.to_dict(), ignore=("run",))


# --- reading
# ---------------------------------------------------------------------------------------------------------


def _section(cls: type, table: Mapping[str, Any], prefix: str, where: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in hints:
            known = (
                [prefix + name for name in hints]
                if prefix
                else [name for name, _ in toml.flat(Recipe().to_dict())]
            )
            raise BadRecipe(
                f"{where}: unknown key {prefix + key!r}: {plugin.nearest(prefix + key, known)}"
            )
    return cls(
        **{key: _value(value, hints[key], prefix + key, where) for key, value in table.items()}
    )


def _value(value: Any, hint: Any, key: str, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise BadRecipe(f"{where}: {key} is a section: expected a table [{key}], got {value!r}")
        return _section(hint, value, f"{key}.", where)
    try:
        return plugin.conform(_typed(value, hint), hint)
    except TypeError as error:
        raise BadRecipe(f"{where}: {key}: {error}; the default is {_default(key)!r}") from None


def _typed(value: Any, hint: Any) -> Any:
    if isinstance(value, Given):
        return str(value).strip("\"'") if hint is str else value.value
    return (
        {key: _typed(item, Any) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )


def _default(key: str) -> Any:
    value: Any = Recipe()
    for name in key.split("."):
        value = getattr(value, name)
    return value


# --- checking
# --------------------------------------------------------------------------------------------------------


def _check_values(recipe: Recipe) -> None:
    train, guard = recipe.train, recipe.guard
    rules = [
        (recipe.run != "", "run: expected the run's folder, got ''; write run = 'runs/name'"),
        (
            0 <= train.max_unscored <= 1,
            f"train.max_unscored: expected a share in [0, 1], got {train.max_unscored}",
        ),
        (0 <= train.ema < 1, f"train.ema: expected a decay in [0, 1), got {train.ema}"),
        (
            train.data_weight >= 0,
            f"train.data_weight: expected 0 (none) or more, got {train.data_weight}",
        ),
        (
            train.learning_rate > 0,
            f"train.learning_rate: expected more than 0, got {train.learning_rate}",
        ),
        (
            not (recipe.reward.name and recipe.reward.parts),
            "reward: expected name or parts, got both",
        ),
        (
            recipe.reward.name or not recipe.reward.options,
            "reward.options: expected reward.name, whose options these "
            "are; the options of a part are written as reward.parts.NAME = {options = {...}}",
        ),
        *(
            (
                low < high,
                f"guard.bands.{name}: expected [low, high] with low < high, got [{low}, {high}]",
            )
            for name, (low, high) in guard.bands.items()
        ),
        *(
            (
                getattr(train, name) >= 1,
                f"train.{name}: expected at least 1, got {getattr(train, name)}",
            )
            for name in (
                "rounds",
                "prompts_per_round",
                "group",
                "eval_every",
                "eval_steps",
                "checkpoint_every",
                "keep_checkpoints",
                "score_batch",
            )
        ),
        *(
            (
                getattr(recipe.bench, name) >= 1,
                f"bench.{name}: expected at least 1, got {getattr(recipe.bench, name)}",
            )
            for name in ("every", "prompts", "per_prompt", "steps")
        ),
        (
            recipe.policy.lora or not recipe.policy.lora_partial,
            "policy.lora_partial: expected policy.lora, the LoRA of "
            "which a part may be left out, got ''",
        ),
        (
            recipe.policy.lora_rank >= 1,
            f"policy.lora_rank: expected at least 1, got {recipe.policy.lora_rank}",
        ),
        (
            recipe.policy.lora_alpha > 0,
            f"policy.lora_alpha: expected more than 0, got {recipe.policy.lora_alpha}: "
            "what the LoRA adds is times lora_alpha / lora_rank",
        ),
        (
            0 <= train.lr_end <= 1,
            f"train.lr_end: expected a fraction of train.learning_rate in [0, 1], got "
            f"{train.lr_end}: 0.1 ends at a tenth of it",
        ),
        (
            train.lr_schedule != "constant" or train.lr_end == Train.lr_end,
            "train.lr_end: expected train.lr_schedule = "
            f'"linear" or "cosine" with lr_end = {train.lr_end}, got "constant", which does not read it: set the '
            "schedule, or leave lr_end out",
        ),
        (
            0 <= train.warmup < train.rounds,
            f"train.warmup: expected 0 to {train.rounds - 1} rounds, fewer than the "
            f"{train.rounds} of train.rounds, got {train.warmup}",
        ),
        (
            0 <= train.eval_n <= recipe.data.held_out_n,
            "train.eval_n: expected 0 (all prompts) to data.held_out_n = "
            f"{recipe.data.held_out_n}, of which it takes the first, got {train.eval_n}",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise BadRecipe(message)
    try:
        recipe_parts.check_values(recipe.reward.parts)
    except ValueError as error:
        raise BadRecipe(f"reward.parts.{error}") from None


def _check_prompts(data: Data) -> None:
    for key in ("prompts", "held_out"):
        if getattr(data, key):
            read_prompts(getattr(data, key), data.strict)
        elif key == "held_out" or not (data.clips or data.pairs):
            raise BadRecipe(
                f"data.{key}: expected a text file, one prompt a line, or a table of prompts, got ''"
            )
    for key in ("clips", "pairs"):
        if getattr(data, key):
            read_table(data, key)
    available = len(read_prompts(data.held_out))
    if not 1 <= data.held_out_n <= available:
        raise BadRecipe(
            f"data.held_out_n: expected 1 to {available} (the prompts in {data.held_out}), "
            f"got {data.held_out_n}"
        )
