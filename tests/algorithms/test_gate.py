"""A KL that holds the uncertain samples alone, to a reference that moves (GARDO): by hand,
and in runs."""

from dataclasses import replace

import pytest
import torch
from noised import exact, move, round_of
from toys import recipe, rows, weights

from vidrl import config, plugin
from vidrl.algorithms._gate import kl_weights, uncertainty, win_rate
from vidrl.rewards import Score
from vidrl.training import checkpoint, loop

SCORE = Score(
    torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]),
    parts={
        "a": Score(torch.tensor([0.0, 5.0, 3.0, 2.0, 4.0, 1.0])),
        "b": Score(torch.tensor([1.0, 4.0, 5.0, 3.0, 2.0, 0.0])),
    },
)  # of the six clips, both parts rank the first far lower than the reward does


def draws(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_the_win_rate_counts_wins_and_half_of_ties_against_the_others() -> None:
    value = torch.tensor([2.0, 1.0, 2.0, 0.0, float("nan")])
    assert win_rate(value)[:4].tolist() == pytest.approx([2.5 / 3, 1 / 3, 2.5 / 3, 0.0])
    assert bool(win_rate(value)[4].isnan()) and win_rate(torch.tensor([7.0])).tolist() == [0.0]


def test_uncertainty_is_the_difference_of_ranks_of_the_public_code() -> None:
    """GARDO's script: ranks, 1 for the best; the mean rank by the other rewards minus that
    by the trained one."""
    value, a, b = draws(30, 0), draws(30, 1), draws(30, 2)
    ranks = [(x[:, None] < x).sum(1) + 1.0 for x in (value, a, b)]
    theirs = (ranks[1] + ranks[2]) / 2 - ranks[0]
    ours = uncertainty(Score(value, parts={"a": Score(a), "b": Score(b)}))
    assert torch.allclose(ours * 29, theirs, atol=1e-4)
    other = uncertainty(Score(value.exp(), parts={"a": Score(a * 100), "b": Score(b**3)}))
    assert torch.allclose(ours, other)  # ranks alone count, whatever the units


def test_a_part_with_a_band_says_what_it_adds_and_a_part_of_weight_0_its_value() -> None:
    value, a, b = (
        torch.tensor([3.0, 2.0, 1.0]),
        torch.tensor([9.0, 5.0, 1.0]),
        torch.tensor([0.0, 1.0, 2.0]),
    )
    adds = {"a": torch.tensor([[-4.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), "b": torch.zeros(3, 2)}
    score = Score(
        value, parts={"a": Score(a), "b": Score(b)}, weights={"a": 1.0, "b": 0.0}, adds=adds
    )
    rate_a, rate_b = torch.tensor([0.0, 0.75, 0.75]), torch.tensor([0.0, 0.5, 1.0])
    assert torch.allclose(uncertainty(score), torch.tensor([1.0, 0.5, 0.0]) - (rate_a + rate_b) / 2)


@pytest.mark.parametrize(
    ("share", "chosen"), [(0.01, [1]), (0.34, [1, 3]), (0.67, [1, 3, 4]), (1.0, [0, 1, 3, 4])]
)
def test_held_are_the_most_uncertain_of_those_above_zero(share: float, chosen: list[int]) -> None:
    made = kl_weights(torch.tensor([0.1, 0.5, -0.9, 0.3, 0.2, 0.0]), share)
    assert made.nonzero().flatten().tolist() == chosen and float(made.mean()) == pytest.approx(1.0)


def test_nothing_is_held_where_nothing_is_uncertain_and_unscored_samples_never() -> None:
    assert kl_weights(torch.tensor([-0.1, 0.0]), 0.5).tolist() == [0.0, 0.0]
    assert kl_weights(torch.tensor([float("nan"), 0.4, -0.4]), 1.0).tolist() == [0.0, 3.0, 0.0]


KINDS = {
    "grpo": ("beta", {"steps": 3}),
    "nft": ("kl_beta", {"steps": 3, "noises": 2}),
    "awm": ("kl_beta", {"steps": 3, "noises": 2}),
    "rwr": ("kl_beta", {"steps": 3, "noises": 2}),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kl_of_the_loss_is_the_mean_over_the_held_samples(name: str) -> None:
    coefficient, options = KINDS[name]
    algorithm = plugin.load(
        "algorithms", name, updates=1, gate=0.5, **options, **{coefficient: 0.25}
    )
    monkey, policy = algorithm.check, exact()
    algorithm.check = lambda reward, group: None  # this reward has no parts; the score below has
    seen = replace(round_of(algorithm, policy), score=SCORE)
    algorithm.check = monkey
    move(policy, 1)
    (batch,) = algorithm.minibatches(seen)
    with torch.no_grad():
        whole = float(algorithm.loss(policy, batch).value)
        setattr(algorithm, coefficient, 0.0)
        bare = float(algorithm.loss(policy, batch).value)
        mine = batch["kl_weight"] > 0
        share = {key: value[mine] for key, value in batch.data.items() if key != "kl_weight"}
        cond = {key: value[mine] for key, value in batch.cond.items()}
        prompts = [one for one, kept in zip(batch.prompts, mine.tolist(), strict=True) if kept]
        by_hand = float(
            algorithm.divergence(policy, replace(batch, data=share, cond=cond, prompts=prompts))
        )
    assert int(mine.sum()) * 6 == len(batch) and by_hand > 0  # one of six samples
    assert whole - bare == pytest.approx(0.25 * by_hand, rel=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_without_a_gate_all_samples_are_held_alike(name: str) -> None:
    coefficient, options = KINDS[name]
    algorithm = plugin.load("algorithms", name, updates=1, **options, **{coefficient: 0.25})
    policy = exact()
    (batch,) = algorithm.minibatches(replace(round_of(algorithm, policy), score=SCORE))
    assert "kl_weight" not in batch.data


def gated(folder, name: str = "grpo", **options):
    own = KINDS[name][1] | {KINDS[name][0]: 0.1, "gate": 0.5, "reference_every": 2} | options
    parts = {"flicker": 1.0, "frame_quality": 0.0, "toys:Brightness": 1.0}
    return recipe(
        folder,
        algorithm={"name": name, "options": own},
        reward={"parts": parts},
        train_rounds=5,
        train_eval_every=100,
        train_checkpoint_every=1,
        train_keep_checkpoints=9,
    )


@pytest.mark.parametrize("name", ["grpo", "nft"])
def test_the_reference_of_the_loss_moves_and_a_resumed_run_knows_it(tmp_path, name: str) -> None:
    whole = loop.run(gated(tmp_path / "whole", name))
    states = {k: checkpoint.load(whole, f"{k:06d}")["policy"] for k in (1, 2, 3, 4)}
    keys = [key.removeprefix("live/") for key in states[1] if key.startswith("live/")]
    same = lambda k, one, j, other: all(  # noqa: E731
        torch.equal(states[k][f"{one}/{key}"], states[j][f"{other}/{key}"]) for key in keys
    )
    assert (
        same(1, "anchor", 1, "reference")
        and same(2, "anchor", 2, "live")
        and same(3, "anchor", 2, "live")
    )
    assert (
        same(4, "anchor", 4, "live")
        and not same(4, "anchor", 2, "live")
        and same(4, "reference", 1, "reference")
    )
    assert all(row["kl"] > 0 for row in rows(whole))  # it stays that to the base model
    made = gated(tmp_path / "cut", name)
    made["train"]["time_limit"] = 1e-6
    loop.run(made)
    made["train"]["time_limit"] = 0.0
    assert weights(loop.run(made, resume=True)) == weights(whole)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "grpo",
            {"gate": 1.5, "beta": 0.1},
            r"expected gate in \[0, 1\] and reference_every ≥ 0, got \(1.5, 0\)",
        ),
        ("grpo", {"gate": 0.1}, "expected a KL in the loss.*set algorithm.options.beta above 0"),
        ("nft", {"reference_every": 3}, "set algorithm.options.kl_beta above 0"),
        ("dpo", {"gate": 0.1}, "this algorithm has no KL; set both to 0"),
    ],
)
def test_a_gate_that_cannot_be_is_told(name: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plugin.load("algorithms", name, **options)


def test_a_reward_without_parts_cannot_disagree_with_itself(tmp_path) -> None:
    made = recipe(tmp_path, algorithm={"name": "grpo", "options": {"beta": 0.1, "gate": 0.1}})
    with pytest.raises(
        ValueError, match="expected a composite of two or more parts for algorithm.options.gate"
    ):
        loop.Trainer.from_recipe(config.load(made))
