"""Modules that stand for trainers which are not installed: their names, and what the
adapters and docs use of them."""

import sys
import types
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field

TRAINERS = {}  # Flow-Factory's registry: name to "module.Class"


class BaseRewardModel(ABC):
    required_fields = ()
    use_tensor_inputs = False

    def __init__(self, config, accelerator):
        self.accelerator, self.config, self.device, self.model = accelerator, config, "cpu", None

    @abstractmethod
    def __call__(self, *args, **kwargs): ...


class PointwiseRewardModel(BaseRewardModel):
    required_fields = ("image", "prompt")


class GroupwiseRewardModel(BaseRewardModel):
    required_fields = ("image", "prompt")


@dataclass
class GRPOTrainingArguments:
    trainer_type: str = "grpo"
    clip_range: tuple = (-1e-4, 1e-4)


class GRPOGuardTrainer:
    """What the page's trainer inherits and uses: the names of components, and the std of a
    step."""

    adapter = types.SimpleNamespace(trajectory_component_order=("latent",))

    def _effective_transition_std(self, component, std_dev_t, dt, *, context):
        scale = std_dev_t * (-dt).sqrt()
        assert bool((scale > 0).all()), context
        return scale


def register_trainer(name):
    def register(cls):
        TRAINERS[name] = cls
        return cls

    return register


def get_trainer_class(identifier):
    """By the registry in small letters, else as a path, as theirs."""
    known = {"grpo-guard": GRPOGuardTrainer, **TRAINERS}
    return known[identifier.lower()] if identifier.lower() in known else _by_path(identifier)


def get_training_args_class(identifier):
    """By the registry, else as a path of a subclass of their arguments, else an
    ImportError, as theirs."""
    if identifier.lower() in ("grpo", "grpo-guard"):
        return GRPOTrainingArguments
    found = _by_path(identifier)
    if not issubclass(found, GRPOTrainingArguments):
        raise ImportError(f"Could not resolve TrainingArguments for trainer_type={identifier!r}")
    return found


def _by_path(identifier):
    module, name = identifier.rsplit(".", 1)
    return getattr(sys.modules[module], name)


class RewardBackend(ABC):
    """UniRL's."""

    input_kind = "image"

    def __init__(self, model_name="", batch_size=8, timeout=60.0, **kwargs):
        self.model_name, self.batch_size, self.timeout = model_name, batch_size, timeout

    @abstractmethod
    def compute_rewards(self, request): ...

    @abstractmethod
    def is_available(self): ...


@dataclass
class RewardResponse:
    rewards: list = field(default_factory=list)
    component_rewards: dict = field(default_factory=dict)
    successes: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    compute_time: float = 0.0


MODULES = {
    "flow_factory.rewards.abc": {
        "PointwiseRewardModel": PointwiseRewardModel,
        "GroupwiseRewardModel": GroupwiseRewardModel,
        "RewardModelOutput": types.SimpleNamespace,
    },
    "flow_factory.hparams": {
        "GRPOTrainingArguments": GRPOTrainingArguments,
        "get_training_args_class": get_training_args_class,
    },
    "flow_factory.trainers.registry": {
        "get_trainer_class": get_trainer_class,
        "register_trainer": register_trainer,
    },
    "unirl.reward.base": {"RewardBackend": RewardBackend},
    "unirl.types.reward": {"RewardResponse": RewardResponse},
}


@contextmanager
def installed():
    """The stand-ins as modules, and their packages; gone again afterwards."""
    kept = dict(sys.modules)
    for name, content in MODULES.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        sys.modules[name].__dict__.update(content)
    try:
        yield
    finally:
        for name in set(sys.modules) - set(kept):
            if name.split(".")[0] in ("flow_factory", "unirl"):
                del sys.modules[name]
