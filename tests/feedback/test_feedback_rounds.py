"""`vidrl loop`: which step comes next, what is refused, and what is measured of people."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidrl import config
from vidrl.cli import label, loop, main
from vidrl.feedback import loop_folder, loop_measures, loop_page, loop_plan
from vidrl.feedback.loop_plan import LoopError, Plan
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.store import Answer, Shown, Store
from vidrl.rewards import video

PROMPTS = [f"a circle moves left, number {n}" for n in range(20)]


def recipe(folder, **tables):
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{text}\n" for text in PROMPTS))
    data = {"prompts": str(prompts), "held_out": str(prompts), "held_out_n": 20}
    return config.load({"run": "x", "reward": {"name": "fitted"}, "data": data} | tables)


def begun(folder, **settings):
    """A loop whose base clips are there: two prompts' clips of one grey each."""
    plan = Plan(folder / "loop", **{"count": 20, "samples": 2} | settings)
    loop_folder.begin(plan, recipe(folder))
    return plan


def sampled(plan, number):
    folder = plan.clips(number)
    folder.mkdir(parents=True)
    rows = ["path,prompt"]
    for place, prompt in enumerate(PROMPTS):
        for copy in range(plan.samples):
            name = f"{plan.samples * place + copy:04d}.mp4"
            light = 0.2 + 0.1 * copy + 0.3 * number
            video.write(folder / name, torch.full((3, 3, 32, 32), light), 8.0)
            rows.append(f'{name},"{prompt}"')
    (folder / "prompts.csv").write_text("\n".join(rows))


def answer(plan, first, second, given="A", reason="random", rater="Ann", prompt=PROMPTS[0]):
    store = Store(plan.store, Questionnaire())
    shown = (Shown(str(first.resolve())), Shown(str(second.resolve())))
    store.add(Answer(rater, shown, {"overall": given} if given else {}, (), prompt, reason))
    store.close()


def base_answers(plan, count, **options):
    for place in range(count):
        pair = [plan.clips(0) / f"{2 * place + copy:04d}.mp4" for copy in (0, 1)]
        answer(plan, *pair, prompt=PROMPTS[place], **options)


def fit_file(plan, number, low):
    plan.reward(number).mkdir(parents=True)
    accuracy = {"value": 0.8, "low": low, "high": 0.9, "choices": 20}
    text = json.dumps({"facts": {"accuracy": accuracy}})
    (plan.reward(number) / "fit.json").write_text(text)


def names(plan):
    step = loop_plan.next_step(plan, loop_folder.read_rounds(plan))
    return step and (step.name, step.number)


def test_each_step_comes_when_the_one_before_is_done(tmp_path):
    plan = begun(tmp_path)
    assert names(plan) == ("sample", 0)
    sampled(plan, 0)
    assert names(plan) == ("label", 1)
    base_answers(plan, 19)
    step = loop_plan.next_step(plan, {})
    assert (step.name, step.why) == ("label", "1 answer is missing of 20")
    base_answers(plan, 20)
    assert names(plan) == ("fit", 1)
    fit_file(plan, 1, low=0.6)
    assert names(plan) == ("fit", 1), "a fit that was killed is fitted again"
    loop_plan.write_fitted(plan, 1, loop_plan.answers_hash(plan))
    assert names(plan) == ("train", 1)
    plan.run(1).mkdir(parents=True)
    (plan.run(1) / "summary.json").write_text('{"status": "finished"}')
    assert names(plan) == ("sample", 1)
    sampled(plan, 1)
    assert names(plan) == ("measure", 1)


def test_the_second_round_compares_before_and_after_where_the_policy_left_the_labels(tmp_path):
    plan = begun(tmp_path)
    for number in (0, 1):
        sampled(plan, number)
    base_answers(plan, 20)
    fit_file(plan, 1, low=0.6)
    loop_plan.write_fitted(plan, 1, loop_plan.answers_hash(plan))
    plan.run(1).mkdir(parents=True)
    (plan.run(1) / "summary.json").write_text('{"status": "finished"}')
    known, left = ({"unfamiliar_before": 0.1, "unfamiliar_after": share} for share in (0.15, 0.151))
    assert loop_plan.next_step(plan, {1: known}) is None
    step = loop_plan.next_step(plan, {1: left})
    assert (step.name, step.number) == ("label", 2)
    assert step.words[1:3] == (str(plan.clips(0)), str(plan.clips(1)))
    assert "--reward" in step.words
    words = loop_plan._train_words(plan, 2)
    assert f"policy.lora={plan.run(1) / 'lora'}" in words
    assert f"reward.options.model={plan.reward(2)}" in words


def test_only_new_choices_between_the_clips_of_the_round_count(tmp_path):
    plan = begun(tmp_path)
    for number in (0, 1):
        sampled(plan, number)
    one, two = (plan.clips(0) / f"{n:04d}.mp4" for n in (0, 1))
    new = plan.clips(1) / "0000.mp4"
    answer(plan, one, two)
    answer(plan, one, two, given="", rater="Bob")  # a skip
    answer(plan, two, one, reason="repeat")
    answer(plan, one, new)
    assert (loop_plan.answered(plan, 1), loop_plan.answered(plan, 2)) == (1, 1)


def test_people_prefer_the_clip_after_the_training_on_either_side(tmp_path):
    plan = begun(tmp_path)
    for number in (0, 1):
        sampled(plan, number)
    old, new = (plan.clips(n) / "0000.mp4" for n in (0, 1))
    for given, pair in (("B", (old, new)), ("A", (new, old)), ("tie", (old, new))):
        answer(plan, *pair, given=given, rater=given)
    store = Store(plan.store)
    rows = [
        loop_measures._choice(row, "overall", plan.clips(1).resolve()) for row in store.answers()
    ]
    assert [row["choice"] for row in rows] == [1, 1, 0]
    assert {row["new"].parent.name for row in rows} == {"1"}
    assert loop_measures._shares(rows).mean == pytest.approx(2.5 / 3)


def test_a_reward_near_chance_is_not_trained_on(tmp_path):
    plan = begun(tmp_path)
    fit_file(plan, 1, low=0.49)
    assert "80 % of 20 held-out choices, 95 % interval 0.49 to 0.90" in loop_plan.doubt(plan, 1)
    fit_file(plan, 2, low=None)
    assert "agrees with 80 % of 20 held-out choices:" in loop_plan.doubt(plan, 2)
    fit_file(plan, 3, low=0.51)
    assert loop_plan.doubt(plan, 3) == ""


def test_another_loop_is_not_mixed_with_this_one(tmp_path):
    plan = begun(tmp_path)
    loop_folder.begin(Plan(plan.out, count=20, samples=2, rounds=9), recipe(tmp_path))
    with pytest.raises(LoopError, match="--samples 2 -> 3"):
        loop_folder.begin(Plan(plan.out, count=20, samples=3), recipe(tmp_path))
    with pytest.raises(LoopError, match="seed: 0 -> 1"):
        loop_folder.begin(plan, recipe(tmp_path, seed=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(LoopError, match="holds other files"):
        loop_folder.begin(Plan(tmp_path / "full", count=20, samples=2), recipe(tmp_path))


def test_what_cannot_work_is_refused_before_any_work(tmp_path):
    with pytest.raises(LoopError, match="reward is `fitted`"):
        loop_folder.begin(Plan(tmp_path / "a"), recipe(tmp_path, reward={"name": "flicker"}))
    with pytest.raises(LoopError, match="offers by name, got mine:Reward"):
        loop_folder.begin(Plan(tmp_path / "a", features="picture,mine:Reward"), recipe(tmp_path))
    with pytest.raises(LoopError, match="at least 20 answers"):
        loop_folder.begin(Plan(tmp_path / "a", count=5), recipe(tmp_path))
    with pytest.raises(LoopError, match="got 20 of 20 prompts with 2 clips each"):
        loop_folder.begin(Plan(tmp_path / "a", count=60, samples=2), recipe(tmp_path))
    assert not (tmp_path / "a").exists()


def test_a_wrong_feature_is_refused_before_people_answer(tmp_path):
    with pytest.raises(ValueError, match="no feature 'pictures'"):
        loop_folder.begin(Plan(tmp_path / "a", features="pictures"), recipe(tmp_path))
    assert not (tmp_path / "a").exists()


def test_other_prompts_are_refused_and_the_same_in_another_file_are_not(tmp_path):
    plan, made = Plan(tmp_path / "loop", count=20, samples=3), recipe(tmp_path)
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    for file, lines in ((same, PROMPTS[:10]), (other, PROMPTS[5:15])):
        file.write_text("\n".join(lines))
    loop_folder.begin(plan, made, str(same))
    (tmp_path / "copy.txt").write_text(same.read_text())
    loop_folder.begin(plan, made, str(tmp_path / "copy.txt"))
    with pytest.raises(LoopError, match=r"the prompts: .*loop/prompts.txt -> .*other.txt"):
        loop_folder.begin(plan, made, str(other))


def test_a_start_that_was_killed_at_once_is_begun_again(tmp_path):
    plan = begun(tmp_path)
    plan.recipe.unlink()  # the last file that a start writes
    loop_folder.begin(plan, recipe(tmp_path))
    assert plan.recipe.is_file()


def test_two_loops_at_once_in_one_folder_are_refused(tmp_path):
    plan = begun(tmp_path)
    words = "from test_feedback_rounds import *; import sys; from pathlib import Path; "
    words += "begun(Path(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    other = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert f"another process is at work in {plan.out}: wait until it has ended" in other.stderr


def test_a_missing_package_is_named_before_clips_are_sampled(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(label, "PACKAGES", ("no_such_package",))
    out = tmp_path / "loop"
    assert main(f"loop scripts/recipes/tiny_taste.toml --out {out}".split()) == 2
    assert "found no no_such_package" in capsys.readouterr().err and not out.exists()


def test_a_file_is_no_folder_of_a_loop(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(f"loop scripts/recipes/tiny_taste.toml --out {tmp_path / 'file'}".split())
    assert "expected a folder, got the file" in capsys.readouterr().err


def labelled_and_fitted(folder):
    plan = begun(folder)
    sampled(plan, 0)
    base_answers(plan, 20)
    fit_file(plan, 1, low=0.6)
    loop_plan.write_fitted(plan, 1, loop_plan.answers_hash(plan))
    assert names(plan) == ("train", 1)
    return plan


def test_an_answer_that_was_undone_and_given_again_is_fitted_again(tmp_path):
    plan = labelled_and_fitted(tmp_path)
    store = Store(plan.store)
    last = store.undo("Ann")
    store.close()
    assert names(plan) == ("label", 1)
    answer(plan, *(Path(clip.path) for clip in last.shown), given="B", prompt=last.prompt)
    assert names(plan) == ("fit", 1), "20 answers again, but others"


def test_another_store_in_place_of_a_deleted_one_is_fitted_again(tmp_path):
    plan = labelled_and_fitted(tmp_path)
    plan.store.unlink()
    assert names(plan) == ("label", 1)
    base_answers(plan, 20)
    assert names(plan) == ("fit", 1)


def test_a_clip_that_was_deleted_is_sampled_again(tmp_path):
    plan = labelled_and_fitted(tmp_path)
    (plan.clips(0) / "0003.mp4").unlink()
    assert names(plan) == ("sample", 0)


def test_a_round_that_asks_in_any_case_claims_no_rise(tmp_path):
    shares = {"unfamiliar_before": 0.2, "unfamiliar_after": 0.1}
    text = loop_page.verdict(Plan(tmp_path, unfamiliar=-1.0), 1, shares)
    assert text.endswith(
        "20 % of those before it. With --unfamiliar -1, labels are asked for in any case."
    )


def test_a_folder_that_was_moved_keeps_its_answers(tmp_path):
    plan = labelled_and_fitted(tmp_path)
    plan.out.rename(tmp_path / "moved")
    moved = Plan(tmp_path / "moved", count=20, samples=2)
    assert loop_plan.answered(moved, 1) == 20 and names(moved) == ("train", 1)


def run_step(plan, status, before=lambda: None):
    def command(words):
        before()
        return status

    step = loop_plan.next_step(plan, {})
    return loop._status(plan, step, list(step.words), argparse.Namespace(command_of=command))


def test_a_step_that_fails_ends_the_loop_and_says_what_to_do(tmp_path, capsys):
    plan = begun(tmp_path)
    assert run_step(plan, 1) == 1
    assert "sample ended with exit status 1: the same command does this" in capsys.readouterr().err
    assert run_step(plan, 1, before=lambda: sampled(plan, 0)) == 1  # one clip was not made
    assert "goes on without what is named above" in capsys.readouterr().err
    base_answers(plan, 20, given="tie")
    assert run_step(plan, 2) == 2 and names(plan) == ("fit", 1)
    assert "where answers are too few, raise --count" in capsys.readouterr().err


def test_an_answer_that_comes_during_a_fit_is_fitted_again(tmp_path):
    plan = begun(tmp_path)
    sampled(plan, 0)
    base_answers(plan, 20)

    def late():
        fit_file(plan, 1, low=0.6)
        base_answers(plan, 1, rater="Bob")

    assert run_step(plan, 0, before=late) == 1 and names(plan) == ("fit", 1)


def test_what_people_said_stays_known_if_rounds_are_lowered(tmp_path, monkeypatch):
    plan = begun(tmp_path, rounds=1)
    for number in (0, 1):
        sampled(plan, number)
    assert loop_measures.of_people(plan, 1) == {}
    answer(plan, *(plan.clips(n) / "0000.mp4" for n in (0, 1)), given="B")
    monkeypatch.setattr(loop_measures.plugin, "load", lambda *name, **options: None)
    monkeypatch.setattr(loop_measures, "scored", lambda reward, folder: ({}, {}))
    found = loop_measures.of_people(plan, 1)
    assert found["wins"]["mean"] == 1.0
    assert found["agreement"]["n"] == 0, "a clip that is no longer in the table is left out"


def test_a_pair_that_is_not_scored_is_no_loss(tmp_path, monkeypatch):
    plan = begun(tmp_path)
    prompts = {"a.mp4": PROMPTS[0], "b.mp4": PROMPTS[1]}
    before = {"a.mp4": (0.0, 0.5), "b.mp4": (0.0, 0.5)}
    after = {"a.mp4": (0.0, 0.5), "b.mp4": (math.nan, math.nan)}
    found = iter([(before, prompts), (after, prompts)])
    monkeypatch.setattr(loop_measures.plugin, "load", lambda *name, **options: None)
    monkeypatch.setattr(loop_measures, "scored", lambda reward, folder: next(found))
    measured = loop_measures.of_round(plan, 1)
    assert measured["wins"]["mean"] == 0.5 and measured["wins"]["n"] == 1


def test_a_part_of_a_composite_gets_the_model(tmp_path):
    found = recipe(tmp_path, reward={"parts": {"fitted": {"weight": 1.0}, "flicker": 0.5}})
    assert loop_plan.model_key(found) == "reward.parts.fitted.options.model"


def test_a_share_without_pairs_says_why():
    row = loop_measures._row(loop_measures._shares([]))
    assert row["mean"] is None and loop_page.share(row).startswith("an unknown share (")


def test_the_page_closes_when_there_are_enough_answers(monkeypatch):
    serve = pytest.importorskip("vidrl.feedback.labelling.serve")
    monkeypatch.setattr(serve, "LAST_LOOK", 0.0)
    asked: list[int] = []

    async def app(scope, receive, send):
        raise AssertionError("nobody opens the page")

    with serve.bind(0) as listener:
        serve.run(app, listener, lambda: bool(asked) or asked.append(1))
    assert asked == [1], "the server ended at the second look"


def test_an_undo_after_the_last_answer_keeps_the_page_open(monkeypatch):
    serve = pytest.importorskip("vidrl.feedback.labelling.serve")
    monkeypatch.setattr(serve, "LAST_LOOK", 0.0)
    found = iter([True, False, True, True])  # enough; an answer is taken back; enough again
    with serve.bind(0) as listener:
        serve.run(None, listener, lambda: next(found))
    assert list(found) == []


def test_a_prompt_is_sampled_several_times(tmp_path):
    out = tmp_path / "clips"
    words = ["sample", "--model", "assets/tiny-wan-32", "--prompt", "a red circle moves left"]
    assert main([*words, "--samples", "2", "--steps", "1", "--frames", "5", "--out", str(out)]) == 0
    table = (out / "prompts.csv").read_text().splitlines()
    assert len(table) == 3
    first, second = (video.read(out / f"000{n}.mp4")[0] for n in (0, 1))
    assert (first != second).any(), "the noise differs"


@pytest.mark.slow
def test_a_loop_of_two_rounds_runs_with_people_in_between(tmp_path, capsys):
    """Simulated people, who like light clips, answer through the store each time they are asked."""
    out = tmp_path / "evening"
    options = "--no-page --train-anyway --count 24 --unfamiliar -1 --features picture"
    few = "train.rounds=2 train.prompts_per_round=2 train.eval_every=2 algorithm.options.noises=2"
    words = f"loop scripts/recipes/tiny_taste.toml {options} --out {out} {few}".split()
    words += ["data.held_out_n=8", "train.eval_n=8"]
    plan = Plan(out, count=24, unfamiliar=-1.0, features="picture")
    assert main(words) == 0 and "answers are needed" in capsys.readouterr().out
    answer_all(plan, 1)
    assert main(words) == 0 and names(plan) == ("label", 2)
    answer_all(plan, 2)
    assert main(words) == 0
    text = (out / "loop.md").read_text()
    assert "## Round 1" in text and "## Round 2" in text
    assert "People preferred the clip after the training in" in text
    assert text.count("| diversity | ") == 2, "the cost on the guards of each run"


def answer_all(plan, number):
    """Answer `count` pairs of a round by the light of the clips."""
    from vidrl.feedback.labelling import clip_sets

    found = clip_sets.read(plan.judged(number))
    light = {clip.path: float(video.read(clip.path)[0].float().mean()) for clip in found.clips}
    for a, b in found.pairs[:: len(found.pairs) // plan.count][: plan.count]:
        one, two = found.clips[a], found.clips[b]
        given = "A" if light[one.path] > light[two.path] else "B"
        answer(plan, one.path, two.path, given=given, prompt=one.prompt)
