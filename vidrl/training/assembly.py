"""Assemble a run: make every object that the trainer needs, from a recipe or from Python objects.

`from_recipe` builds the model, the algorithm and the reward that a recipe names;
`from_objects` takes those of the caller. Both return `Parts`, and the trainer cannot see
which of the two made them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vidrl import config, plugin
from vidrl.algorithms.base import Algorithm
from vidrl.backbones.base import Denoiser, PromptCache
from vidrl.data import file_rounds
from vidrl.data.file_rounds import Files
from vidrl.rewards import Reward
from vidrl.rewards._scoring.plain import Plain, as_reward

from . import evaluate
from .about_reward import AboutReward
from .held_out import Callback, HeldOut
from .learning_rewards import LearningRewards
from .pieces import Pieces
from .policy import Policy
from .processes import Workers
from .record import Record
from .reward_workers import open_workers
from .scored import ChunkWorkers
from .update import Updater

SMALLER_CLIP = "use a smaller clip, backbone.options.dtype = 'bfloat16', or a device of more memory"


def no_callback(*_: object) -> None:
    """Do nothing between the rounds: the callback of a run that has none."""


@dataclass(frozen=True)
class Options(config.Train):
    """The options of a run that is built from Python objects.

    These are the options of a recipe's section [train], with the seed and the guards, which
    a recipe holds outside that section.
    """

    seed: int = 0
    """Every random draw of the run is derived from this number."""
    guard: config.Guard = field(default_factory=config.Guard)
    """Bands of held-out measures, and what happens outside them."""
    reward_workers: int = 0
    """How many processes score the clips; see `config.RewardSection.workers`."""
    parallel: config.Parallel = field(default_factory=config.Parallel)
    """How several processes share the weights."""


@dataclass
class Parts:
    """The finished objects of one run, which the trainer works with."""

    recipe: config.Recipe
    """The values of the run: its folder, seed, [train] options and guards. The run folder
    records them in config.toml, and a resumed run is compared with them."""
    workers: Workers
    """This process among the processes that share the work."""
    policy: Policy
    """The generator that is trained, on the device of `workers`."""
    algorithm: Algorithm
    """Turns scores into advantages, and a round's samples into a loss."""
    reward: Reward
    """Scores the clips of the rounds and of the held-out evaluations."""
    encode: PromptCache
    """Encodes prompts, and remembers the result."""
    files: Files
    """The rounds whose clips are read from files; `files.source` is "" where the policy
    samples the clips of every round."""
    prompts: Sequence[str]
    """The prompts that are trained on."""
    held_out: HeldOut
    """Measures the policy on the held-out prompts."""
    updater: Updater
    """Takes the optimiser steps of a round."""
    record: Record
    """Writes the files of the run folder."""
    pieces: dict[str, Pieces]
    """How many clips or rows the stages "sample", "decode" and "update" take at once."""
    learners: LearningRewards
    """The parts of the reward that learn beside the policy."""
    callback: Callback
    """Called between the rounds and at the end of the run; see `held_out.Callback`."""
    reward_workers: ChunkWorkers | None = None
    """Score the clips while the next ones are made; None: this process scores them."""

    @property
    def backbone(self) -> Denoiser:
        """The generator without its named sets of weights."""
        return self.policy.backbone

    @property
    def options(self) -> config.Train:
        """The options of the loop, [train] of the recipe."""
        return self.recipe.train

    @property
    def kept_on(self) -> torch.device:
        """The device that keeps a round's samples until they are learned from."""
        return torch.device("cpu") if self.options.rollouts_on_cpu else self.workers.device

    @property
    def evaluated_weights(self) -> str:
        """The name of the weights that are evaluated and saved: "ema" where an average is kept."""
        return "ema" if self.options.ema else "live"

    def close(self) -> None:
        """End the reward's workers, the trackers, and the group of processes."""
        if self.reward_workers is not None:
            self.reward_workers.close()
        self.workers.close()


def from_recipe(recipe: config.Recipe, callback: Callback = no_callback) -> Parts:
    """Return the parts of the run that a recipe describes.

    Raises the errors of `evaluate.check_recipe` and `plugin.load`.
    """
    evaluate.check_recipe(recipe)
    workers = Workers(
        recipe.train.mixed_precision, recipe.train.trackers, recipe.run, recipe.parallel
    )
    algorithm = plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
    reward = evaluate.build_reward(recipe.reward)
    # before the model is loaded, so that the workers start meanwhile
    scorers = open_workers(algorithm, reward, recipe.reward, workers.device)
    backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
    held_out = config.read_prompts(recipe.data.held_out)[: recipe.data.held_out_n]
    encode = PromptCache(backbone)
    encode_first(encode, [*_trained_on(recipe, algorithm), *held_out], workers.device, callback)
    policy = _placed(
        backbone, workers, lambda on: _policy(backbone.to(on), recipe.policy, recipe.seed)
    )
    return _assemble(
        recipe, workers, policy, algorithm, reward, scorers, None, held_out, callback, encode
    )


def from_objects(
    policy: Policy,
    algorithm: Algorithm,
    reward: Reward | Callable[..., Any],
    prompts: Sequence[str],
    held_out: Sequence[str],
    folder: str | Path,
    options: Options | None = None,
    callback: Callback = no_callback,
) -> Parts:
    """Return the parts of a run on the caller's own objects; no recipe is needed.

    `policy`: a `Policy` around any `Denoiser`; it is moved to the device of this process.
    `reward`: a `Reward`, or a function of samples that returns one number a clip.
    `prompts` are trained on, `held_out` are evaluated on. `folder`: the run folder.
    `options`: the loop's options, the seed and the guards. `callback`: called between
    rounds.

    Raises BadRecipe for a value of `options` outside its range, and ValueError for an
    algorithm that learns from clips of files: only a recipe names such files.
    """
    options, reward = options or Options(), as_reward(reward)
    recipe = _described(policy.backbone, algorithm, reward, options)
    recipe = dataclasses.replace(
        recipe, run=str(folder), data=config.Data(held_out_n=len(held_out))
    )
    config.build(recipe.to_dict(), where="options", files=False)  # checks the values
    _check_objects(algorithm, prompts, options)
    algorithm.check(reward, options.group)
    workers = Workers(options.mixed_precision, options.trackers, recipe.run, options.parallel)
    scorers = open_workers(algorithm, reward, recipe.reward, workers.device, by_name=False)
    encode = PromptCache(policy.backbone)
    encode_first(encode, [*prompts, *held_out], workers.device, callback)
    policy = _placed(policy.backbone, workers, policy.to)
    return _assemble(
        recipe, workers, policy, algorithm, reward, scorers, prompts, held_out, callback, encode
    )


def _assemble(
    recipe: config.Recipe,
    workers: Workers,
    policy: Policy,
    algorithm: Algorithm,
    reward: Reward,
    scorers: ChunkWorkers | None,
    prompts: Sequence[str] | None,
    held_out: Sequence[str],
    callback: Callback,
    encode: PromptCache,
) -> Parts:
    """Return the parts of a run; `prompts` None are those of the recipe's files."""
    options = recipe.train
    files = Files(recipe, algorithm, policy, workers, encode)
    updater = Updater(policy, algorithm, workers, options, recipe.seed)
    reward = reward.to(workers.device)
    if options.ema:
        policy.remember("ema")
    pieces = _pieces(updater, options)
    pieces["sample"].together = updater.pieces.together
    return Parts(
        recipe=recipe,
        workers=workers,
        policy=policy,
        algorithm=algorithm,
        reward=reward,
        encode=encode,
        files=files,
        prompts=files.prompts if prompts is None else prompts,
        held_out=HeldOut(
            held_out,
            reward,
            workers,
            encode,
            options.eval_steps,
            score_batch=pieces["decode"],
            show=options.show if workers.main else 0,
            eval_n=options.eval_n,
            reward_workers=scorers,
        ),
        updater=updater,
        record=Record(Path(recipe.run), workers.main, recipe.guard.bands, AboutReward.of(reward)),
        pieces=pieces,
        learners=LearningRewards(reward),
        callback=callback,
        reward_workers=scorers,
    )


def encode_first(
    encode: PromptCache, prompts: Sequence[str], device: torch.device, callback: Callback
) -> None:
    """Encode all prompts of a run and free the text encoders, if the backbone asks for it.

    The encoders are on the device meanwhile, and the network is not: the network comes when
    they are gone. A callback that makes clips of further prompts has a method
    `encode_with(cache)`, which encodes them too. Raises the errors of `PromptCache.complete`.
    """
    if not encode.backbone.drops_encoders:
        return
    with encode.backbone.encoding(device):
        if hasattr(callback, "encode_with"):
            callback.encode_with(encode)
        encode.complete(prompts)
        encode.backbone.drop_encoders()
    torch.cuda.empty_cache()  # else the encoders' memory would lie in pieces around the network


def _trained_on(recipe: config.Recipe, algorithm: Algorithm) -> list[str]:
    """Return the prompts of a recipe's rounds, and of the clips that its loss reads."""
    tables = file_rounds.tables(recipe, algorithm)
    of_files = [prompt for table in tables.values() for prompt in table.prompts]
    sampled = not config.offline(recipe, algorithm.data)
    return [*(config.read_prompts(recipe.data.prompts) if sampled else ()), *of_files]


def _placed(backbone: Denoiser, workers: Workers, make: Callable[[torch.device], Policy]) -> Policy:
    """Return the policy that `make` makes on a device, moved to this process's device.

    A policy whose weights are sharded is made in host memory, and its blocks are moved one by
    one, so that the device never holds all weights.
    """
    if not workers.sharded:
        return make(workers.device)
    mesh = workers.mesh()
    policy = make(torch.device("cpu"))
    policy.shard(mesh)
    backbone.to(workers.device)
    return policy


def _policy(backbone: Denoiser, section: config.PolicySection, seed: int) -> Policy:
    """Return the policy that a recipe's section [policy] describes."""
    return Policy(
        backbone,
        rank=section.lora_rank,
        alpha=section.lora_alpha,
        targets=section.lora_targets,
        lora=section.lora,
        full=section.full,
        seed=seed,
        partial=section.lora_partial,
    )


def _pieces(updater: Updater, options: config.Train) -> dict[str, Pieces]:
    """Return how many clips or rows each stage takes at once, by the name of the stage."""
    return {
        "update": updater.pieces,
        "sample": Pieces(updater.micro_batch, "sampling one clip", SMALLER_CLIP),
        "decode": Pieces(options.score_batch, "decoding one clip", SMALLER_CLIP),
    }


def _described(
    backbone: Denoiser, algorithm: Algorithm, reward: Reward, options: Options
) -> config.Recipe:
    """Return a recipe that names the caller's classes and holds the options.

    The run folder records this recipe, and resuming compares it. It does not build the run
    again, because options of the caller's model and reward are unknown.
    """
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    apart = {name: values.pop(name) for name in ("seed", "guard", "parallel")}
    count = values.pop("reward_workers")
    settings = {key: value for key, value in vars(algorithm).items() if _is_plain(value)}
    named = {field.name for field in dataclasses.fields(algorithm)}
    return config.Recipe(
        **apart,
        backbone=config.Backbone(_class_name(backbone), {}),
        policy=config.PolicySection(),
        reward=config.RewardSection(_class_name(reward), workers=count),
        algorithm=config.AlgorithmSection(
            _class_name(algorithm), {key: settings[key] for key in settings if key in named}
        ),
        train=config.Train(**values),
    )


def _class_name(thing: object) -> str:
    """Return `package.module:Class` of an object, or of the function of a plain reward."""
    named = thing.fn if isinstance(thing, Plain) else thing
    named = named if hasattr(named, "__qualname__") else type(named)
    return f"{named.__module__}:{named.__qualname__}"


def _is_plain(value: object) -> bool:
    """Return whether TOML can hold a value."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _check_objects(algorithm: Algorithm, prompts: Sequence[str], options: Options) -> None:
    """Raise ValueError where the objects need clips of files, or there are no prompts."""
    name = type(algorithm).__name__
    if algorithm.data == "clips" or options.data_weight:
        raise ValueError(
            f"expected an algorithm that learns from sampled clips, and data_weight = 0, got "
            f"{name} with data_weight = {options.data_weight:g}: a run that learns from clips of "
            "files needs a recipe, with data.clips or data.pairs"
        )
    if not prompts:
        raise ValueError("expected at least one prompt to train on, got none")
