"""What the page of a run says of its reward: agreement of the fit, and people's expected choices."""

import math

import numpy as np
import pytest
from toys import recipe, summary

from vidrl.report import run_folder
from vidrl.report.page import page
from vidrl.rewards import compose
from vidrl.rewards._fitted.folder import Taste, write
from vidrl.rewards.fitted import Fitted, agreement
from vidrl.rewards.freeze import Freeze
from vidrl.training import loop
from vidrl.training.about_reward import AboutReward, chosen

ACCURACY = {"value": 0.7, "low": 0.6, "high": 0.78, "choices": 120}


def taste(**facts) -> Taste:
    tiny = Fitted.tiny().taste
    return Taste(tiny.features, tiny.tensors, tiny.form, tiny.familiar, facts)


def test_shares_of_choices_by_hand():
    """Gaps of ln 3 and −ln 3: the clip after training is chosen in 3/4 and in 1/4."""
    row = chosen(np.zeros(3), np.array([math.log(3), -math.log(3), np.nan]))
    assert row["share"] == pytest.approx(0.5) and row["n"] == 2 and row["low"] is None
    assert chosen(np.array([np.nan]), np.zeros(1)) is None


def test_a_composite_names_the_parts_in_logits_and_says_only_what_counts():
    fitted = Fitted.of(taste(accuracy=ACCURACY))
    for weight, sentences in ((1.0, fitted.remarks()), (0.0, [])):
        both = compose.Composite(
            {"fitted": fitted, "freeze": Freeze()}, weights={"fitted": weight, "freeze": 1.0}
        )
        assert AboutReward.of(both) == AboutReward(tuple(sentences), ("fitted",))
    assert AboutReward.of(Freeze()) == AboutReward()


@pytest.mark.parametrize(
    "found, says",
    [
        (ACCURACY, "agrees with 70.0 % [60.0, 78.0] of 120 choices"),
        (ACCURACY | {"low": 0.49}, "not shown to be above chance"),
        (ACCURACY | {"low": None, "high": None}, "not shown to be above chance"),
        ({"value": None, "note": "one prompt"}, "was not measured"),
        ({"value": "<b>", "choices": []}, "was not measured"),  # a folder from anybody
        (None, "was not measured"),
        ("0.9", "was not measured"),
    ],
)
def test_the_agreement_of_a_fit_in_words(found, says):
    assert says in agreement(found)


def test_the_page_of_a_run_says_how_people_would_choose(tmp_path, capsys):
    write(taste(accuracy=ACCURACY), tmp_path / "taste")
    made = recipe(tmp_path, train_rounds=1)
    made["reward"] = {"name": "fitted", "options": {"model": str(tmp_path / "taste")}}
    run = loop.run(made)
    told = capsys.readouterr().err
    assert "note: The fitted reward agrees with 70.0 % [60.0, 78.0] of 120 choices" in told
    found = summary(run)
    rows = [np.load(run / "evals" / f"{n:06d}.npz")["composite"] for n in (0, 1)]
    share = (1 / (1 + np.exp(rows[0] - rows[1]))).mean()
    assert found["choices"]["composite"]["share"] == pytest.approx(share)
    html = page(run_folder.read(run))
    assert "agrees with 70.0 % [60.0, 78.0] of 120 choices" in html
    assert f"over the clip before it in {100 * share:.1f} %" in html
