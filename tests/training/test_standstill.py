"""vidrl.training.standstill: what is said of rounds that do not move the weights, and
silence where they do."""

import pytest
from toys import happened, recipe, rows

from vidrl.backbones.toy import Toy
from vidrl.rewards import Reward, Samples, Score
from vidrl.training import loop
from vidrl.training.policy import Policy
from vidrl.training.standstill import standstill


def row(round: int, grad: float | None = 1.0, drift: float = 0.0, **more) -> dict:
    return (
        {"round": round, "weight_drift": drift, "learning_rate": 1e-4}
        | more
        | ({} if grad is None else {"grad_norm": grad})
    )


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            [row(k, None) for k in (1, 2, 3)],
            "no pair says which clip is better.*leave the labels out",
        ),
        ([row(k, 0.0, zero_std_share=1.0) for k in (1, 2, 3)], "got the same reward.*train.group"),
        (
            [row(k, 1e-12, zero_std_share=0.5) for k in (1, 2, 3)],
            "the gradient is 0.*policy.lora_alpha",
        ),
        ([row(k, 0.0) for k in (5, 6, 7)], "in rounds 5 to 7: the gradient is 0"),
        (
            [row(k, 1.0) for k in (1, 2, 3)],
            "learning rate 0.0001 are lost in rounding: raise train.learning_rate",
        ),
        ([row(k, 1.0, 0.5) for k in (4, 5, 6, 7)], "in rounds 5 to 7: there is a gradient"),
        (
            [row(k, None, skipped_steps=2) for k in (1, 2, 3)],
            "overflowed: lower train.learning_rate",
        ),
        (
            [row(k, None, zero_std_share=1.0) for k in (1, 2, 3)],
            "nothing to learn from: raise train.group",
        ),
        (
            [row(k, 0.0, ratio={"mean": 1.0, "min": 1.0, "max": 1.0}) for k in (1, 2, 3)],
            "The ratio was 1 throughout",
        ),
    ],
)
def test_a_standstill_is_told_with_its_cure(made: list, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(standstill(made))


@pytest.mark.parametrize(
    "made",
    [
        [row(k, 0.0) for k in (1, 2)],  # too few
        [row(k, 1.0, 0.01 * k) for k in (1, 2, 3, 4)],
        [row(1, 0.0), row(2, 1.0, 0.01), row(3, 0.0, 0.01)],
        [row(k, 0.0) for k in (4, 5, 6, 7)],  # it was told after round 6
        [{"round": k} for k in (1, 2, 3)],
        [row(k, 1.0, 0.5) for k in (5, 6, 7)],  # nothing is known of what round 5 moved
    ],
)
def test_rounds_that_move_and_rounds_that_were_told_of_are_silent(made: list) -> None:
    assert standstill(made) == ""


def still(run) -> list[dict]:
    return [one for one in happened(run) if one["kind"] == "standstill"]


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_a_healthy_run_is_silent(tmp_path, algorithm: str) -> None:
    """With one update a round every ratio is 1, which is no standstill."""
    options = {"steps": 3, "updates": 1}
    run = loop.run(
        recipe(
            tmp_path,
            train_rounds=4,
            train_eval_every=100,
            algorithm={"name": algorithm, "options": options},
        )
    )
    assert still(run) == [] and all(one["grad_norm"] > 1e-6 for one in rows(run))
    if algorithm == "grpo":
        assert all(one["ratio"]["max"] - one["ratio"]["min"] < 1e-5 for one in rows(run))


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_a_learning_rate_that_is_lost_in_rounding_is_told_once(
    tmp_path, capsys, algorithm: str
) -> None:
    run = loop.run(
        recipe(
            tmp_path,
            train_rounds=5,
            train_eval_every=100,
            train_learning_rate=1e-30,
            algorithm={"name": algorithm, "options": {"steps": 3}},
        )
    )
    (told,) = still(run)
    assert told["round"] == 3 and "learning rate 1e-30 are lost in rounding" in told["message"]
    assert "warning: the weights did not move in rounds 1 to 3" in capsys.readouterr().err
    assert "lost in rounding" in (run / "report.html").read_text()


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_a_lora_that_adds_nothing_is_told(tmp_path, monkeypatch, algorithm: str) -> None:
    made = Policy.__init__

    def scaled(self, *arguments, **named):
        made(self, *arguments, **named)
        for module in self.backbone.network.modules():
            if hasattr(module, "scaling"):
                module.scaling["default"] = 0.0

    monkeypatch.setattr(Policy, "__init__", scaled)
    monkeypatch.setattr(Toy, "save_lora", lambda *_: None)  # it has no format of its own
    targets = [
        name
        for name, module in Toy().network.named_modules()
        if type(module).__name__ in ("Linear", "Conv3d")
    ]
    run = loop.run(
        recipe(
            tmp_path,
            train_rounds=3,
            train_eval_every=100,
            policy={"lora_targets": targets},
            algorithm={"name": algorithm, "options": {"steps": 3}},
        )
    )
    assert [
        ("the gradient is 0: look for a LoRA that adds nothing" in one["message"])
        for one in still(run)
    ] == [True]


class Same(Reward):
    """All clips are worth the same."""

    def forward(self, samples: Samples) -> Score:
        return Score(samples.frames.flatten(1).mean(1) * 0 + 0.5)


def test_rewards_that_are_all_tied_are_told(tmp_path) -> None:
    run = loop.run(
        recipe(
            tmp_path, train_rounds=3, train_eval_every=100, reward={"name": "test_standstill:Same"}
        )
    )
    assert ["got the same reward" in one["message"] for one in still(run)] == [True]


def test_a_resumed_run_tells_of_rounds_before_it(tmp_path) -> None:
    made = recipe(tmp_path, train_rounds=2, train_eval_every=100, train_learning_rate=1e-30)
    assert still(loop.run(made)) == []
    made["train"]["rounds"] = 5
    assert [one["round"] for one in still(loop.run(made, resume=True))] == [3]
