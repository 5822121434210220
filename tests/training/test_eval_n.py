"""Fewer held-out prompts between rounds (`train.eval_n`): evaluations are compared on the
prompts of both."""

from pathlib import Path

import numpy as np
import pytest
from toys import happened, recipe, rows, summary, weights

from vidrl.backbones.toy import Toy
from vidrl.report import run_report
from vidrl.training import checkpoint, evaluate, loop
from vidrl.training.held_out import HeldOut
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.record import Record

FEW = {"train_eval_n": 2, "train_eval_every": 1}  # of the five held-out prompts
WIDE = {"action": "rollback", "bands": {"composite": [0.5, 2.0]}}


def counted(monkeypatch) -> list[tuple[int, bool]]:
    """(clips with twins, all prompts) of each evaluation of the runs that follow."""
    seen, measure, made = [], HeldOut.measure, HeldOut._clips

    def measured(self, policy, weights, batch, all_prompts=True):
        seen.append([0, all_prompts])
        return measure(self, policy, weights, batch, all_prompts)

    def clips(self, policy, places, *rest):
        seen[-1][0] += len(places)
        return made(self, policy, places, *rest)

    monkeypatch.setattr(HeldOut, "measure", measured)
    monkeypatch.setattr(HeldOut, "_clips", clips)
    return seen


def test_the_ends_are_measured_on_all_prompts_and_the_rest_on_the_first(tmp_path, monkeypatch):
    seen = counted(monkeypatch)
    run = loop.run(recipe(tmp_path / "few", train_rounds=3, **FEW))
    assert seen == [[10, True], [4, False], [4, False], [10, True]]  # each prompt has a twin here
    assert [row["n"] for row in rows(run, "evals")] == [5, 2, 2, 5]
    whole = loop.run(recipe(tmp_path / "all", train_rounds=3, train_eval_every=1))
    assert weights(run) == weights(whole) and summary(run)["held_out"] == summary(whole)["held_out"]
    for row, other in zip(rows(run, "evals"), rows(whole, "evals"), strict=True):
        clips = evaluate.load(whole / "evals", row["round"])
        measured = (row.get("first") or row)["measures"]
        assert (row.get("first") or row)["n"] == 2 and "first" not in other
        for name, told in measured.items():
            assert told["mean"] == pytest.approx(np.nanmean(clips[name][:2]), abs=1e-6), name


@pytest.mark.parametrize("few", [0, 5])
def test_all_prompts_are_the_run_without_the_option(tmp_path, few):
    run = loop.run(recipe(tmp_path / "a", train_rounds=2, train_eval_n=few, train_eval_every=1))
    other = loop.run(recipe(tmp_path / "b", train_rounds=2, train_eval_every=1))
    assert (
        rows(run, "evals") == rows(other, "evals")
        and checkpoint.load(run)["protocol"] == checkpoint.load(other)["protocol"]
    )


def test_a_guard_compares_the_prompts_that_both_evaluations_measured(tmp_path):
    """Weights that do not move stay in the narrowest band, although the first prompts' mean
    is not that of all."""
    bands = {"action": "stop", "bands": {"composite": [0.99999, 1.00001]}}
    run = loop.run(recipe(tmp_path, train_rounds=3, train_learning_rate=1e-30, guard=bands, **FEW))
    base = evaluate.load(run / "evals", 0)["composite"]
    assert abs(base[:2].mean() / base.mean() - 1) > 1e-3
    assert summary(run)["status"] == "finished" and {row["kind"] for row in happened(run)} <= {
        "standstill"
    }


def test_the_best_weights_are_chosen_on_the_first_prompts_at_every_evaluation(tmp_path):
    run = loop.run(recipe(tmp_path, train_rounds=4, guard=WIDE, **FEW))
    found = {
        round: evaluate.load(run / "evals", round)["composite"][:2].mean() for round in range(5)
    }
    best = checkpoint.load(run)["best"]
    assert best["value"] == pytest.approx(max(found.values())) and found[
        int(best["checkpoint"])
    ] == max(found.values())


def test_weights_that_only_the_first_prompts_found_good_do_not_end_the_run(tmp_path, monkeypatch):
    """At the end all prompts decide: the base model stays where the best weights of the
    looks between leave a band."""
    base, measure = Policy(Toy(), full=True).checksum(), HeldOut.measure

    def measured(self, policy, weights, batch, all_prompts=True):
        measures, clips, score = measure(self, policy, weights, batch, all_prompts)
        if policy.checksum() != base:
            measures["composite"][self.eval_n :] = -1.0
        return measures, clips, score

    monkeypatch.setattr(HeldOut, "measure", measured)
    run = loop.run(recipe(tmp_path, train_rounds=4, guard=WIDE, **FEW))
    back = [row["message"] for row in happened(run) if row["kind"] == "rollback"]
    assert back[-1] == "weights of round 0 put back" and len(back) == 2 and back[0] != back[1]
    assert (
        summary(run)["held_out"]["composite"]["difference"] == 0
        and summary(run)["status"] == "finished"
    )
    assert load_adapter(Toy(), run / "lora").checksum() == base


def test_a_resumed_run_with_fewer_prompts_ends_like_the_whole_one(tmp_path):
    whole = loop.run(recipe(tmp_path / "whole", guard=WIDE, **FEW))
    made = recipe(tmp_path / "cut", guard=WIDE, train_time_limit=1e-6, **FEW)
    loop.run(made)
    made["train"]["time_limit"] = 0.0
    run = loop.run(made, resume=True)
    assert weights(run) == weights(whole) and summary(run)["held_out"] == summary(whole)["held_out"]
    assert checkpoint.load(run)["best"] == checkpoint.load(whole)["best"]


def test_another_number_of_prompts_is_another_evaluation(tmp_path):
    made = recipe(tmp_path, train_rounds=2, guard=WIDE, **FEW)
    run = loop.run(made)
    made["train"] |= {"rounds": 3, "eval_n": 4}
    assert loop.run(made, resume=True) == run and (run / "evals-until-000002.jsonl").is_file()
    assert [row["n"] for row in rows(run, "evals")] == [5, 4, 5] and rows(run, "evals")[0]["first"][
        "n"
    ] == 4
    assert checkpoint.load(run)["best"]["value"] == pytest.approx(
        evaluate.load(run / "evals", int(checkpoint.load(run)["best"]["checkpoint"]))["composite"][
            :4
        ].mean()
    )


def test_the_page_draws_one_curve_of_the_same_prompts(tmp_path):
    run = loop.run(recipe(tmp_path, train_rounds=2, **FEW))
    Record(run).progress(1)
    text = (run / "report.html").read_text()
    assert "held out: composite, first 2 prompts" in text and "On 5 held-out prompts" in text
    # as of a run that goes on: its comparison is of the first prompts on both sides
    (run / "summary.json").unlink()
    text = Path(run_report.write(run)).read_text()
    assert "on 2 held-out prompts" in text
    (run / "progress.json").unlink()
