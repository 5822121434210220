"""Split tokens give the numbers of whole ones, or are refused before any work."""

import sys
from pathlib import Path

import pytest
import torch
from groups import in_group, trained
from test_sharding import alike, wan
from toys import recipe

from vidrl import config
from vidrl.algorithms.grpo import GRPO as GRPOAlgorithm
from vidrl.backbones.pipeline import Pipeline
from vidrl.backbones.wan import Wan
from vidrl.recipe.recipe_text import BadRecipe
from vidrl.training import context_parallel, loop
from vidrl.training.context_parallel import ContextError, networks
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from families import FAMILIES, PROMPTS

GRPO = {"name": "grpo", "options": {"steps": 3, "segments": 2, "eta": 0.5}}


def error(folder: Path, rank: int = 0) -> str:
    file = folder / f"error.{rank}"
    return file.read_text() if file.exists() else ""


def driven(name: str, **size: int) -> Pipeline:
    made = FAMILIES[name]
    call = {**made.call, **size}
    return Pipeline(made.build(), call=call)


def drawn(policy: Policy) -> Policy:
    """A LoRA that changes the prediction, and so has a gradient in each of its weights."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
    return policy


def proven(backbone, size: int = 2, kind: str = "ulysses") -> None:
    """Split the backbone's tokens over all processes, and prove its numbers."""
    Workers()
    policy = drawn(Policy(backbone, rank=4, alpha=4))
    x = backbone.noise([torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)])
    cond, t = backbone.encode(list(PROMPTS[:2])), torch.tensor([0.3, 0.8])
    context_parallel.prove(
        lambda: policy.predict(x.float(), t, cond),
        policy.weights,
        lambda: context_parallel.split(
            networks(backbone), context_parallel.mesh("cpu", size, kind), kind
        ),
    )


SPLIT = {
    "tiny": Wan.tiny,
    "wan": lambda: driven("wan", width=32),
    "wan22": lambda: driven("wan22", width=32),  # two networks
    "wan22_5b": lambda: driven("wan22_5b", width=64),
    "flux": lambda: driven("flux"),
}


@pytest.mark.parametrize(
    "name", ["tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in SPLIT if n != "tiny")]
)
def test_split_tokens_give_the_numbers_of_whole_ones(tmp_path, name):
    """`prove` raises for other numbers; the next two tests show that it does."""
    assert in_group(tmp_path, lambda rank: proven(SPLIT[name]())) == [0, 0], error(tmp_path)


def test_a_prediction_that_differs_is_refused(tmp_path, monkeypatch):
    from diffusers.hooks.context_parallel import EquipartitionSharder

    gather = EquipartitionSharder.unshard
    monkeypatch.setattr(
        EquipartitionSharder, "unshard", staticmethod(lambda *given: gather(*given).roll(1, 1))
    )
    assert in_group(tmp_path, lambda rank: proven(Wan.tiny())) == [1, 1]
    assert "expected the same prediction with split tokens" in error(tmp_path)
    assert error(tmp_path) == error(tmp_path, 1)


def test_a_gradient_that_differs_is_refused(tmp_path, monkeypatch):
    from diffusers.hooks.context_parallel import AllGatherFunction

    monkeypatch.setattr(
        AllGatherFunction,
        "backward",
        staticmethod(lambda ctx, grad: (0 * grad.chunk(2, 1)[0], None, None)),
    )
    assert in_group(tmp_path, lambda rank: proven(Wan.tiny())) == [1, 1]
    assert "expected the same gradient of the trained weights" in error(tmp_path)


def test_a_number_of_tokens_that_does_not_divide_is_refused(tmp_path):
    assert in_group(tmp_path, lambda rank: proven(driven("wan"))) == [1, 1]
    assert "expected a number of tokens that parallel.context divides" in error(tmp_path)


def test_a_ring_needs_a_kernel_that_returns_its_normaliser(tmp_path):
    assert in_group(tmp_path, lambda rank: proven(Wan.tiny(), kind="ring")) == [1, 1]
    assert "does not support return_lse" in error(tmp_path)
    assert "expected a network that runs with split tokens" in error(tmp_path)


def test_networks_without_a_plan_and_heads_that_do_not_divide_are_refused():
    with pytest.raises(ContextError, match="got CogVideoXTransformer3DModel, which has none"):
        context_parallel.check(networks(driven("cogvideox")), 2, "ulysses")
    with pytest.raises(ContextError, match="divides, got 2 of WanTransformer3DModel"):
        context_parallel.check(networks(Wan.tiny()), 3, "ulysses")
    context_parallel.check(networks(Wan.tiny()), 3, "ring")


def test_the_proof_goes_on_without_a_gradient_that_memory_does_not_hold(tmp_path, monkeypatch):
    def short_of_memory(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(context_parallel, "_with_gradient", short_of_memory)
    assert in_group(tmp_path, lambda rank: proven(Wan.tiny())) == [0, 0], error(tmp_path)


def test_processes_that_share_samples_go_on_with_the_numbers_of_the_first(tmp_path):
    """As where a server of the reward answered one of them alone."""

    def body(rank: int) -> None:
        workers = Workers(parallel=config.Parallel(context=2))
        assert workers.all(torch.tensor([float(rank)])).tolist() == [0.0]
        assert workers.everywhere(torch.tensor([float(rank)])).tolist() == [0.0, 1.0]

    assert in_group(tmp_path, body) == [0, 0], error(tmp_path)


# --- whole runs


@pytest.mark.parametrize("kind", ["mixed_precision", "dtype"])
def test_half_precision_is_proven_to_its_own_tolerance(tmp_path, kind):
    """Predictions are float32 in any case, and once were compared as float32 ones."""
    half = (
        {"train_mixed_precision": "bf16"}
        if kind == "mixed_precision"
        else {"options": {"dtype": "bfloat16"}}
    )
    made = wan(tmp_path / "half", GRPO, parallel={"context": 2}, **half)
    assert len(list(trained(made).glob("report.html"))) == 1


@pytest.mark.slow
def test_one_trained_network_of_two_is_split_and_proven(tmp_path):
    """The trained network is that of late times, and the early times alone would not reach it."""

    def body(rank: int) -> None:
        made = FAMILIES["wan22"]
        call = {**made.call, "width": 32}
        two = Pipeline(made.build(), call=call, train=["transformer_2"])
        parallel = config.Parallel(context=2)
        sizes = {"rounds": 1, "prompts_per_round": 1, "group": 2, "eval_steps": 2}
        loop.Trainer.from_objects(
            Policy(two, rank=2, alpha=2),
            GRPOAlgorithm(steps=4),
            lambda samples: samples.frames.mean((1, 2, 3, 4)),
            ["a cat"],
            ["a cow"],
            tmp_path / "run",
            loop.Options(**sizes, parallel=parallel),
        )

    assert in_group(tmp_path, body) == [0, 0], error(tmp_path)


def test_processes_that_split_tokens_learn_as_one_does(tmp_path):
    one = loop.run(wan(tmp_path / "one", GRPO))
    two = trained(wan(tmp_path / "two", GRPO, parallel={"context": 2}))
    alike(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "full"), [(GRPO, False), ({"name": "nft", "options": {"steps": 3}}, True)]
)
def test_two_samples_at_once_each_split_in_two(tmp_path, algorithm, full):
    one = loop.run(wan(tmp_path / "one", algorithm, full))
    made = wan(tmp_path / "four", algorithm, full, parallel={"context": 2})
    alike(one, trained(made, n=4))


def test_what_cannot_be_split_is_an_error_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="parallel.context: expected a divisor of .*, 1, got 2"):
        loop.run(recipe(tmp_path, parallel={"context": 2}))
    for section in ({"context": 0}, {"context": 2, "shard": "fsdp"}):
        with pytest.raises(BadRecipe, match="parallel.context: expected 1, or more with"):
            config.build(recipe(tmp_path, parallel=section))
    with pytest.raises(BadRecipe, match="expected 1 with bench.suite, got 2"):
        config.build(recipe(tmp_path, parallel={"context": 2}, bench={"suite": "temporal"}))
    made = recipe(tmp_path, parallel={"context": 2})
    assert in_group(tmp_path, lambda rank: loop.run(made)) == [1, 1]
    assert "context parallelism, got _Net, which has none: set parallel.context = 1" in error(
        tmp_path
    )
    assert not (tmp_path / "run").exists()
