"""Define the sections of a recipe, and read a TOML recipe with dotted overrides, strictly.

For an unknown key, the error names the nearest right key; for a value of a wrong type, the
error says what was expected. Recipes are TOML, because YAML reads `1e-4` as text.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
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
    """The section that names the generator, a plug-in of `backbones`."""

    name: str = "wan"
    """The plug-in's name, or package.module:Class."""
    options: dict[str, Any] = field(default_factory=lambda: {"model": "assets/tiny-wan"})
    """The options of its constructor."""


@dataclass(frozen=True)
class PolicySection:
    """The section that says what is trained: a new LoRA, an existing LoRA, or all weights."""

    lora_rank: int = 16
    """The rank of a new LoRA."""
    lora_alpha: int = 16
    """The LoRA's output is multiplied by lora_alpha / lora_rank."""
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    """The names of the layers that get a new LoRA."""
    lora: str = ""
    """The folder or file of a LoRA whose training continues; "" begins a new LoRA."""
    lora_partial: bool = False
    """Whether a part of that LoRA may not fit the network; that part is left out."""
    full: bool = False
    """Whether all weights are trained; those of `lora` are added to them first."""


@dataclass(frozen=True)
class RewardSection:
    """The section that names the reward: one reward, or a composite of parts.

    Without `name` and `parts`, the reward is `vidrl.rewards.default()`.
    """

    name: str = ""
    """The name of one reward."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options of that reward."""
    parts: dict[str, Any] = field(default_factory=dict)
    """The parts of a composite: a reward's name with its weight, or with a table of weight,
    options, scale, band and gate (`vidrl.rewards._scoring.recipe_parts.Part`). "default"
    stands for all parts of the default composite."""
    workers: int = 0
    """How many worker processes score the clips of a round or an evaluation while the next
    clips are made; 0: the trainer's process scores them. A worker has one thread, and no
    device but the CPU."""
    memory: float = 0.0
    """How many GB (1e9 bytes) a forward pass of a reward's network may take, beside weights and
    clips; 0: no budget, the reward's `chunk` decides how many frames are read at once. Within a
    budget one frame is measured, and as many are read at once as fit."""

    def __post_init__(self) -> None:
        """Read whole numbers as weights: `flicker = 1` means 1.0."""
        parts = {n: float(part) if type(part) is int else part for n, part in self.parts.items()}
        object.__setattr__(self, "parts", parts)
        if not 0 <= self.memory < float("inf"):
            raise ValueError(f"expected reward.memory of 0 GB or more, got {self.memory}")


@dataclass(frozen=True)
class AlgorithmSection:
    """The section that names the algorithm, a plug-in of `algorithms`."""

    name: str = "nft"
    """The plug-in's name, or package.module:Class."""
    options: dict[str, Any] = field(default_factory=dict)
    """The algorithm's options."""


@dataclass(frozen=True)
class Data:
    """The section that names the prompts, and the clips of files that are learned from.

    A prompt file has one prompt a line, # for comments, or is a table (.jsonl, .csv,
    .parquet) of prompts with images; docs/guides/training_data.md describes all files.
    """

    prompts: str = ""
    """The file of the prompts that are trained on."""
    held_out: str = ""
    """The file of the held-out prompts."""
    held_out_n: int = 256
    """How many held-out prompts are evaluated on: the first ones of the file."""
    clips: str = ""
    """A table of clips and their prompts, or a folder with metadata.jsonl."""
    pairs: str = ""
    """A table of prompts, each with a chosen and a rejected clip."""
    strict: bool = False
    """Whether a clip that is missing or does not fit is an error; otherwise it is left out."""


@dataclass(frozen=True)
class Train:
    """The section that holds the options of the training loop."""

    rounds: int = 30
    """How many rounds are trained."""
    prompts_per_round: int = 4
    """How many prompts a round has."""
    group: int = 8
    """How many clips of each prompt a round samples."""
    learning_rate: float = 2e-4
    """The full learning rate of AdamW."""
    lr_schedule: Schedule = "constant"
    """How the learning rate changes over the rounds; see `vidrl.training.learning_rate`."""
    lr_end: float = 0.1
    """The learning rate of the last round, as a fraction of the full rate."""
    warmup: int = 0
    """How many rounds at the start rise to the full learning rate."""
    weight_decay: float = 0.0
    """The weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to this norm."""
    micro_batch: int = 0
    """How many clips are sampled, and how many rows updated, at once. 0: 16 on a GPU, 32 on
    a CPU. The number is halved where memory runs out."""
    score_batch: int = 4
    """How many clips are decoded and scored at once. Besides the clips that are shown, host
    memory holds no others. The number is halved where memory runs out."""
    rollouts_on_cpu: bool = True
    """Whether a round's samples and the conditions of their prompts wait in host memory, from
    which the update moves one micro-batch at a time to the device. false: they stay on the
    device."""
    eval_every: int = 10
    """How many rounds lie between two evaluations on the held-out prompts."""
    eval_n: int = 0
    """How many held-out prompts, the first ones, are evaluated between rounds. 0: all
    prompts, as before the first round and after the last round."""
    eval_steps: int = 20
    """How many denoising steps the clips of an evaluation take."""
    checkpoint_every: int = 5
    """How many rounds lie between two checkpoints."""
    keep_checkpoints: int = 3
    """How many checkpoints are kept."""
    max_unscored: float = 0.5
    """The largest share of unscored clips; a larger share stops the run."""
    time_limit: float = 0.0
    """After how many seconds of training a start stops; 0: no limit."""
    trackers: list[str] = field(default_factory=list)
    """The names of accelerate's trackers that get the metrics, as "wandb"."""
    ema: float = 0.0
    """The decay, at each optimiser step, of the average of the weights that is evaluated
    and saved; 0: no average is kept."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """The precision of the denoiser: its weights stay float32, and autocast computes in
    this precision."""
    show: int = 8
    """How many clips of an evaluation the run folder shows."""
    data_weight: float = 0.0
    """The weight of the loss of sft on `data.clips`, which is added to the algorithm's own
    loss (DDRL, arXiv 2512.04332); 0: no such loss."""


@dataclass(frozen=True)
class Guard:
    """The section with the guards: bands of held-out measures, and the action outside them."""

    action: Literal["stop", "rollback", "warn"] = "stop"
    """"stop" restores the best weights within the bands and ends the run, "rollback"
    restores them and continues, "warn" only writes an event."""
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The lowest and the highest value of a measure, as fractions of the base model's
    value."""


@dataclass(frozen=True)
class Bench:
    """The section with the benchmark suite that measures the policy between rounds."""

    suite: str = ""
    """The name or the file of a suite; "": no suite."""
    every: int = 10
    """How many rounds lie between two measurements."""
    prompts: int = 32
    """How many prompts are used: the first prompts of the suite, or of `data.held_out`
    where the suite has none. Prompts that are trained on are left out."""
    per_prompt: int = 1
    """How many clips are made of each prompt."""
    steps: int = 20
    """How many denoising steps a clip of the suite takes."""


@dataclass(frozen=True)
class Parallel:
    """The section that says how several processes share the network's weights."""

    shard: Literal["none", "fsdp", "hsdp"] = "none"
    """"none": every process holds all weights. "fsdp": each process holds a part of the
    weights, of their gradients and of the optimiser's state (torch's FSDP2). "hsdp": the
    processes form groups, and each group holds all weights once, in parts."""
    replicas: int = 0
    """The number of groups of "hsdp"; 0: one group a machine."""
    context: int = 1
    """How many neighbouring processes split the tokens of each sample, by diffusers'
    context parallelism; 1: every process holds all tokens of its samples."""
    kind: Literal["ulysses", "ring"] = "ulysses"
    """How attention sees all tokens: "ulysses" exchanges tokens for heads, "ring" passes
    keys and values around, which only some flash kernels can do."""
    timeout: float = 3600.0
    """After how many seconds of waiting for another process a process ends with an error.
    It must exceed the longest work that one process does alone, such as measuring the
    clips of a benchmark suite."""


@dataclass(frozen=True)
class Recipe:
    """The recipe of a run, which holds everything that defines the run.

    >>> recipe = build({"run": "runs/x"}, ["train.rounds=3"], files=False)
    >>> recipe.train.rounds, recipe.train.learning_rate
    (3, 0.0002)
    """

    run: str = ""
    """The run folder."""
    seed: int = 0
    """The number from which every random draw of the run is derived."""
    backbone: Backbone = field(default_factory=Backbone)
    """The generator."""
    policy: PolicySection = field(default_factory=PolicySection)
    """What is trained."""
    reward: RewardSection = field(default_factory=RewardSection)
    """What scores the clips."""
    algorithm: AlgorithmSection = field(default_factory=AlgorithmSection)
    """How the policy learns from the scores."""
    data: Data = field(default_factory=Data)
    """The prompts and the clips of files."""
    train: Train = field(default_factory=Train)
    """The options of the training loop."""
    guard: Guard = field(default_factory=Guard)
    """The bands of held-out measures."""
    bench: Bench = field(default_factory=Bench)
    """The benchmark suite between rounds."""
    parallel: Parallel = field(default_factory=Parallel)
    """How several processes share the weights."""

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, with tuples as lists, which TOML and JSON can hold."""
        return plain(dataclasses.asdict(self))

    def to_toml(self) -> str:
        """Return TOML text from which `build(tomllib.loads(text))` makes an equal recipe."""
        return toml.write(self.to_dict())


# Names that other trainers give to keys of a recipe, whose spelling is too different for a guess.
ELSEWHERE = {
    "lr": "train.learning_rate",
    "epochs": "train.rounds",
    "num_epochs": "train.rounds",
    "max_train_steps": "train.rounds",
    "batch_size": "train.prompts_per_round",
    "num_generations": "train.group",
    "num_images_per_prompt": "train.group",
    "rank": "policy.lora_rank",
    "gradient_clip": "train.max_grad_norm",
    "output_dir": "run",
}

# A recipe, a nested table, or the path of a TOML file.
Source = Recipe | Mapping[str, Any] | str | Path


def load(source: Source, overrides: Sequence[str] = (), files: bool = True) -> Recipe:
    """Return the checked recipe of a TOML file, a table or a Recipe, with overrides applied.

    An override is text, `key.path=value`. The run folder of a file without `run` is
    `runs/<name of the file>`. `files = False` leaves the prompt files unread. Raises
    `BadRecipe`.
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
    """Return the recipe of a nested table; `files = False` leaves the prompt files unread.

    `where` names the table in errors. Raises `BadRecipe`.
    """
    merged = plain(table)
    for override in overrides:
        apply(merged, override)
    recipe = _section(Recipe, merged, "", where)
    _check_values(recipe)
    if files:
        _check_prompts(recipe.data)
    return recipe


def check_plugins(recipe: Recipe) -> None:
    """Find each plug-in of a recipe, and check its options.

    Raises `plugin.UnknownName` or `plugin.BadOption`.
    """
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
    """Return the prompts of a file; raise `BadRecipe` for a file that cannot be used.

    See `vidrl.data.prompts.read`.
    """
    try:
        return prompts.read(path, strict)
    except prompts.BadPrompts as error:
        raise BadRecipe(str(error)) from error


def read_table(data: Data, key: str) -> clip_files.Table:
    """Return the table of `data.clips` or `data.pairs`; raise `BadRecipe` for a bad table."""
    try:
        return clip_files.read(key, getattr(data, key))
    except clip_files.BadTable as error:
        raise BadRecipe(f"data.{key}: {error}") from error


def training_prompts(data: Data) -> list[str]:
    """Return the prompts that are trained on.

    These are the prompts of `data.prompts`, or, where it is empty, of `clips` and `pairs`.
    """
    if data.prompts:
        return read_prompts(data.prompts)
    tables = [read_table(data, key) for key in ("clips", "pairs") if getattr(data, key)]
    return list(dict.fromkeys(prompt for table in tables for prompt in table.prompts))


def offline(recipe: Recipe, learns: str) -> str:
    """Return the source of a round's samples: "clips" or "pairs" of files, "" for the policy.

    `learns`: the algorithm's `data`.
    """
    if learns == "clips":
        return "clips"
    return "pairs" if learns == "optional pairs" and recipe.data.pairs else ""


def members(recipe: Recipe, learns: str) -> int:
    """Return how many samples of a round form a group.

    A group has the clips of a table's row, or the sampled clips of a prompt. `learns`: the
    algorithm's `data`.
    """
    return {"clips": 1, "pairs": 2}.get(offline(recipe, learns), recipe.train.group)


def diff(a: Recipe, b: Recipe) -> list[str]:
    """Return one line, `key: old -> new`, for each value in which two recipes differ.

    The folders `run` are not compared.

    >>> recipe = build({"run": "r"}, files=False)
    >>> diff(recipe, build(recipe.to_dict(), ["train.rounds=3"], files=False))
    ['train.rounds: 30 -> 3']
    """
    return toml.diff(a.to_dict(), b.to_dict(), ignore=("run",))


# --- reading


def _section(cls: type, table: Mapping[str, Any], prefix: str, where: str) -> Any:
    """Return a section, a dataclass, of a table's values; `prefix` begins its dotted keys."""
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in hints:
            # A key at the top level may lack its section, as `rounds` for `train.rounds`: then
            # the dotted keys of all sections are compared.
            names = (
                [prefix + name for name in hints]
                if prefix
                else [name for name, _ in toml.flat(Recipe().to_dict())]
            )
            meant = ELSEWHERE.get(key, "")
            cure = (
                f"it is {meant!r} here" if meant in names else plugin.nearest(prefix + key, names)
            )
            raise BadRecipe(f"{where}: unknown key {prefix + key!r}: {cure}")
    return cls(
        **{key: _value(value, hints[key], prefix + key, where) for key, value in table.items()}
    )


def _value(value: Any, hint: Any, key: str, where: str) -> Any:
    """Return a value as its field's type asks; raise `BadRecipe` for another type."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise BadRecipe(f"{where}: {key} is a section: expected a table [{key}], got {value!r}")
        return _section(hint, value, f"{key}.", where)
    try:
        return plugin.conform(_typed(value, hint), hint)
    except TypeError as error:
        raise BadRecipe(f"{where}: {key}: {error}; the default is {_default(key)!r}") from None


def _typed(value: Any, hint: Any) -> Any:
    """Return a value with the texts of overrides converted, in nested tables too."""
    if isinstance(value, Given):
        return str(value).strip("\"'") if hint is str else value.value
    return (
        {key: _typed(item, Any) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )


def _default(key: str) -> Any:
    """Return the default of a dotted key."""
    value: Any = Recipe()
    for name in key.split("."):
        value = getattr(value, name)
    return value


# --- checking


# Whether a rule holds, and the message where it does not.
Rule = tuple[object, str]


def _check_values(recipe: Recipe) -> None:
    """Raise `BadRecipe` for the first value outside its range, or that conflicts with another."""
    rules = [
        (recipe.run != "", "run: expected the run's folder, got ''; write run = 'runs/name'"),
        *_train_rules(recipe),
        *_reward_rules(recipe.reward),
        *_guard_rules(recipe.guard),
        *_at_least_one(recipe),
        *_policy_rules(recipe.policy),
        *_schedule_rules(recipe.train),
        *_parallel_rules(recipe.parallel),
        _context_rule(recipe),
    ]
    for holds, message in rules:
        if not holds:
            raise BadRecipe(message)
    try:
        recipe_parts.check_values(recipe.reward.parts)
    except ValueError as error:
        raise BadRecipe(f"reward.parts.{error}") from None


def _context_rule(recipe: Recipe) -> Rule:
    cure = "measure the run's LoRA with vidrl bench after the run"
    message = (
        f"parallel.context: expected 1 with bench.suite, got {recipe.parallel.context}: {cure}"
    )
    return recipe.parallel.context == 1 or not recipe.bench.suite, message


def _parallel_rules(parallel: Parallel) -> Iterator[Rule]:
    yield (
        parallel.replicas == 0 or (parallel.replicas > 1 and parallel.shard == "hsdp"),
        "parallel.replicas: expected 0, or 2 or more with parallel.shard = 'hsdp', got "
        f"{parallel.replicas} with shard = {parallel.shard!r}",
    )
    yield (
        parallel.context == 1 or (parallel.context > 1 and parallel.shard == "none"),
        "parallel.context: expected 1, or more with parallel.shard = 'none', got "
        f"{parallel.context} with shard = {parallel.shard!r}",
    )
    yield (
        parallel.timeout > 0,
        f"parallel.timeout: expected more than 0 seconds, got {parallel.timeout:g}",
    )


def _train_rules(recipe: Recipe) -> Iterator[Rule]:
    train = recipe.train
    yield (
        0 <= train.max_unscored <= 1,
        f"train.max_unscored: expected a share in [0, 1], got {train.max_unscored}",
    )
    yield 0 <= train.ema < 1, f"train.ema: expected a decay in [0, 1), got {train.ema}"
    yield (
        train.data_weight >= 0,
        f"train.data_weight: expected 0 (none) or more, got {train.data_weight}",
    )
    yield (
        train.learning_rate > 0,
        f"train.learning_rate: expected more than 0, got {train.learning_rate}",
    )
    yield (
        0 <= train.eval_n <= recipe.data.held_out_n,
        "train.eval_n: expected 0 (all prompts) to data.held_out_n = "
        f"{recipe.data.held_out_n}, of which it takes the first, got {train.eval_n}",
    )


def _reward_rules(reward: RewardSection) -> Iterator[Rule]:
    yield reward.workers >= 0, f"reward.workers: expected 0 or more, got {reward.workers}"
    yield not (reward.name and reward.parts), "reward: expected name or parts, got both"
    yield (
        reward.name or not reward.options,
        "reward.options: expected reward.name, whose options these are; the options of a part are "
        "written as reward.parts.NAME = {options = {...}}",
    )


def _guard_rules(guard: Guard) -> Iterator[Rule]:
    for name, (low, high) in guard.bands.items():
        yield (
            low < high,
            f"guard.bands.{name}: expected [low, high] with low < high, got [{low}, {high}]",
        )


def _at_least_one(recipe: Recipe) -> Iterator[Rule]:
    """Yield the rules for counts and intervals, which must be at least 1."""
    names = {
        "train": (
            "rounds",
            "prompts_per_round",
            "group",
            "eval_every",
            "eval_steps",
            "checkpoint_every",
            "keep_checkpoints",
            "score_batch",
        ),
        "bench": ("every", "prompts", "per_prompt", "steps"),
    }
    for section, keys in names.items():
        for key in keys:
            value = getattr(getattr(recipe, section), key)
            yield value >= 1, f"{section}.{key}: expected at least 1, got {value}"


def _policy_rules(policy: PolicySection) -> Iterator[Rule]:
    yield (
        policy.lora or not policy.lora_partial,
        "policy.lora_partial: expected policy.lora, the LoRA of which a part may be left out, got "
        "''",
    )
    yield (
        policy.lora_rank >= 1,
        f"policy.lora_rank: expected at least 1, got {policy.lora_rank}",
    )
    yield (
        policy.lora_alpha > 0,
        f"policy.lora_alpha: expected more than 0, got {policy.lora_alpha}: what the LoRA adds is "
        "times lora_alpha / lora_rank",
    )


def _schedule_rules(train: Train) -> Iterator[Rule]:
    yield (
        0 <= train.lr_end <= 1,
        "train.lr_end: expected a fraction of train.learning_rate in [0, 1], got "
        f"{train.lr_end}: 0.1 ends at a tenth of it",
    )
    yield (
        train.lr_schedule != "constant" or train.lr_end == Train.lr_end,
        'train.lr_end: expected train.lr_schedule = "linear" or "cosine" with lr_end = '
        f'{train.lr_end}, got "constant", which does not read it: set the schedule, or leave '
        "lr_end out",
    )
    yield (
        0 <= train.warmup < train.rounds,
        f"train.warmup: expected 0 to {train.rounds - 1} rounds, fewer than the "
        f"{train.rounds} of train.rounds, got {train.warmup}",
    )


def _check_prompts(data: Data) -> None:
    """Raise `BadRecipe` for prompts or tables that are missing or cannot be used."""
    for key in ("prompts", "held_out"):
        if getattr(data, key):
            read_prompts(getattr(data, key), data.strict)
        elif key == "held_out" or not (data.clips or data.pairs):
            raise BadRecipe(
                f"data.{key}: expected a text file, one prompt a line, or a table of prompts, got "
                "''"
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
