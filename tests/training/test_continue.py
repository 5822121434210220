"""A run that goes on in another way: what may change does and is logged, what would make it
another run is refused."""

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from toys import PROMPTS, ended, forked, happened, recipe, rows, summary, timeless, weights

from vidrl import cli, config
from vidrl.data import prompts
from vidrl.recipe import toml
from vidrl.report import run_folder, run_report
from vidrl.training import changes, checkpoint, inputs, loop, resume
from vidrl.training.between_rounds import BetweenRounds


def told(run, kind: str) -> list[str]:
    return [row["message"] for row in happened(run) if row["kind"] == kind]


def changed(made: dict, **values) -> dict:
    """A recipe with other values; `train_rounds=9` sets train.rounds."""
    other = copy.deepcopy(made)
    for name, value in values.items():
        section, _, key = name.partition("_")
        other[section] = {**other.get(section, {}), key: value}
    return other


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five rounds without an interruption."""
    return loop.run(recipe(tmp_path_factory.mktemp("whole")))


@pytest.fixture
def ended_at_two(tmp_path):
    """A recipe of two rounds, whose run is finished."""
    loop.run(made := recipe(tmp_path, train_rounds=2))
    return made


# --- after the end


def test_a_finished_run_goes_on_to_more_rounds_exactly(ended_at_two, whole):
    run = loop.run(changed(ended_at_two, train_rounds=5), resume=True)
    assert weights(run) == weights(whole)
    assert [timeless(row) for row in rows(run)] == [timeless(row) for row in rows(whole)]
    assert (
        rows(run, "evals") == rows(whole, "evals")
        and summary(run)["held_out"] == summary(whole)["held_out"]
    )
    assert (summary(run)["rounds"], summary(run)["status"]) == (5, "finished")
    assert told(run, "change") == ["train.rounds: 2 -> 5"] and told(run, "exactness") == []
    assert (
        happened(run)[-1]["round"] == 2
        and "train.rounds: 2 -&gt; 5" in (run / "report.html").read_text()
    )
    assert config.load(run / "config.toml").train.rounds == 5


def test_a_run_killed_while_it_goes_on_after_its_end_is_not_finished(
    ended_at_two, whole, monkeypatch
):
    def dies(trainer):
        raise KeyboardInterrupt

    made = changed(ended_at_two, train_rounds=5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "_train_round", dies)
        loop.run(made, resume=True)
    assert checkpoint.status(made["run"]) == "interrupted"
    assert weights(loop.run(made, resume=True)) == weights(whole)
    assert told(made["run"], "change") == ["train.rounds: 2 -> 5"]


def test_fewer_rounds_than_are_done_are_refused(ended_at_two):
    with pytest.raises(
        checkpoint.RunFolderError, match="train.rounds: expected at least the 2 rounds.*got 1"
    ):
        loop.run(changed(ended_at_two, train_rounds=1), resume=True)


def test_a_finished_run_that_is_asked_for_nothing_more_is_left_alone(ended_at_two):
    run = Path(ended_at_two["run"])
    before = {
        path: path.stat().st_mtime_ns
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    other = changed(ended_at_two, train_learning_rate=0.5)
    assert loop.run(other, resume=True) == run and resume.unused(run, config.load(other).to_dict())
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- time limits


def test_a_time_limit_stops_and_each_start_has_its_own(tmp_path, whole):
    made = recipe(tmp_path, train_time_limit=1e-6)
    for reached in (1, 2):  # the limit is of each start: the same one goes on by another round
        run = loop.run(made, resume=True)
        assert (summary(run)["rounds"], summary(run)["status"]) == (reached, "stopped")
        assert checkpoint.status(run) == "stopped" and len(rows(run)) == reached
    run = loop.run(changed(made, train_time_limit=500.0), resume=True)
    assert summary(run)["status"] == "finished" and weights(run) == weights(whole)
    assert told(run, "change") == ["train.time_limit: 1e-06 -> 500.0"]


def test_a_limit_reached_with_the_last_round_is_no_stop(tmp_path):
    run = loop.run(recipe(tmp_path, train_rounds=1, train_time_limit=1e-6))
    assert summary(run)["status"] == "finished"


def test_a_stop_of_an_earlier_version_goes_on(tmp_path):
    (tmp_path / "summary.json").write_text('{"status": "time limit"}')
    assert checkpoint.status(tmp_path) == "stopped"


# --- what may change


def other_value(value):
    """A value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return (
        f"{value}x"
        if isinstance(value, str)
        else [*value, "x"]
        if isinstance(value, list)
        else {"x": 1.0}
    )


@pytest.mark.parametrize(
    "key", [key for key, _ in toml.flat(config.Recipe().to_dict()) if key != "run"]
)
def test_every_value_of_a_recipe_either_may_change_or_is_refused_by_name(tmp_path, key):
    made = config.build({"run": str(tmp_path)}, files=False).to_dict()
    resume.claim(tmp_path, made, resume=False)
    other = copy.deepcopy(made)
    *parents, last = key.split(".")
    section = other
    for parent in parents:
        section = section[parent]
    section[last] = other_value(section[last])
    if key in resume.PROMPTS:
        (tmp_path / "x").write_text("a cat\n")
        section[last] = str(tmp_path / "x")
    if changes.allowed(key):
        assert resume.examine(tmp_path, other, resume=True) == "new"
        return
    with pytest.raises(checkpoint.RunFolderError, match="holds another run") as caught:
        resume.examine(tmp_path, other, resume=True)
    assert f"{key}" in str(caught.value) and "->" in str(caught.value)


def test_the_list_is_the_one_in_the_help_and_in_the_docs():
    from vidrl.cli.train import TRAIN

    page = (Path(__file__).parents[2] / "docs" / "guides" / "resume.md").read_text()
    for one in changes.MAY_CHANGE:
        assert f"  {one.key} " in TRAIN and one.effect in TRAIN
        assert f"| `{one.key}` | {one.effect} |" in page, one.key
    known = {key for key, _ in toml.flat(config.Recipe().to_dict())} | set(resume.world(1))
    for one in changes.MAY_CHANGE:
        assert one.key.startswith("backbone.options.") or any(one.holds(key) for key in known), (
            one.key
        )


def test_another_learning_rate_is_used_and_ends_exactness(ended_at_two):
    before = weights(ended_at_two["run"])
    run = loop.run(changed(ended_at_two, train_rounds=4, train_learning_rate=1e-30), resume=True)
    assert weights(run) == before  # two rounds of such small steps move nothing
    assert told(run, "change") == ["train.rounds: 2 -> 4", "train.learning_rate: 0.01 -> 1e-30"]
    assert told(run, "exactness")[0].startswith("from round 2 on the weights may differ")
    assert told(run, "exactness")[0].endswith(": train.learning_rate")


def test_another_machine_is_logged(ended_at_two, monkeypatch):
    here = resume.world(1)
    there = {
        **here,
        "threads": 3,
        "device": "another",
        "versions": {**here["versions"], "torch": "0"},
    }
    monkeypatch.setattr(resume, "world", lambda processes: there)
    run = loop.run(changed(ended_at_two, train_rounds=3), resume=True)
    assert told(run, "change")[1:] == [
        f"threads: {here['threads']} -> 3",
        f'device: "{here["device"]}" -> "another"',
        f'versions.torch: "{here["versions"]["torch"]}" -> "0"',
    ]
    assert told(run, "exactness")[0].endswith(": threads, device, versions.torch")


def test_averaged_weights_may_begin_later(ended_at_two):
    run = loop.run(changed(ended_at_two, train_rounds=3, train_ema=0.5), resume=True)
    state = checkpoint.load(run)["policy"]
    assert any(
        not np.array_equal(state[f"ema/{k[5:]}"], state[k]) for k in state if k.startswith("live/")
    )
    back = loop.run(changed(ended_at_two, train_rounds=4), resume=True)
    assert summary(back)["rounds"] == 4


def test_a_run_that_a_guard_stopped_goes_on_with_other_guards_alone(tmp_path):
    stop = {"action": "stop", "bands": {"composite": [0.98, 1.015]}}
    made = recipe(tmp_path, train_rounds=6, guard=stop)
    run = loop.run(made)
    done = summary(run)["rounds"]
    assert summary(run)["status"] == "guard" and done < 6
    loop.run(made, resume=True)
    assert summary(run) | {"status": "guard", "rounds": done} == summary(run)
    loop.run({**made, "guard": {**stop, "action": "warn"}}, resume=True)
    assert (summary(run)["status"], summary(run)["rounds"]) == ("finished", 6)
    assert told(run, "change") == ['guard.action: "stop" -> "warn"'] and told(run, "exactness")


@pytest.mark.parametrize(
    "bands, said",
    [
        (
            {"compositt": [0.5, 2.0]},
            "guard.bands.compositt: expected a held-out measure: did you mean 'composite'",
        ),
        ({"composite": [1.5, 2.0]}, "expected the base model within its own bands"),
    ],
)
def test_new_bands_that_cannot_be_held_are_told_before_another_round(ended_at_two, bands, said):
    with pytest.raises(ValueError, match=said):
        loop.run(changed(ended_at_two, train_rounds=9, guard_bands=bands), resume=True)
    assert len(rows(ended_at_two["run"])) == 2


def test_the_best_weights_are_held_against_new_bands(tmp_path):
    """Weights that the new bands exclude must not be put back: the base model's are."""
    made = recipe(
        tmp_path, train_rounds=4, guard={"action": "rollback", "bands": {"composite": [0.5, 2.0]}}
    )
    loop.run(made)
    assert checkpoint.load(made["run"])["best"]["checkpoint"] != "000000"
    run = loop.run(
        changed(made, train_rounds=5, guard_bands={"composite": [0.99999, 1.00001]}), resume=True
    )
    assert told(run, "rollback") == ["weights of round 0 put back"]
    assert summary(run)["held_out"]["composite"]["difference"] == 0


def test_a_guard_of_a_measure_that_an_earlier_version_did_not_have_is_measured_then(ended_at_two):
    """The evaluations of the run lack the weight drift, as those of earlier versions do."""
    evals = Path(ended_at_two["run"]) / "evals"
    for file in evals.glob("*.npz"):
        kept = {name: rows for name, rows in np.load(file).items() if name != "weight_drift"}
        np.savez(file, **kept)
    run = loop.run(
        changed(ended_at_two, train_rounds=3, guard_bands={"weight_drift": [0.0, 9.0]}), resume=True
    )
    assert summary(run)["status"] == "finished" and summary(run)["guards"]["weight_drift"][
        "allowed"
    ] == [0.0, 9.0]
    assert "weight_drift" in np.load(evals / "000000.npz") and (run / "evals-until-000002").is_dir()


# --- another evaluation


def test_another_evaluation_measures_the_base_model_again(ended_at_two, tmp_path):
    fresh = loop.run(recipe(tmp_path / "fresh", train_rounds=3, train_eval_steps=5))
    run = loop.run(changed(ended_at_two, train_rounds=3, train_eval_steps=5), resume=True)
    assert rows(run, "evals")[0] == rows(fresh, "evals")[0]
    assert [row["round"] for row in rows(run, "evals")] == [0, 2, 3]
    # of equal weights, measured alike
    assert summary(run)["held_out"] == summary(fresh)["held_out"]
    assert [row["round"] for row in rows(run, "evals-until-000002")] == [0, 2]
    assert (run / "evals-until-000002" / "000000.npz").is_file() and "evals-until-000002" in told(
        run, "evaluation"
    )[0]


def test_other_held_out_prompts_in_the_same_file_are_another_evaluation(ended_at_two):
    Path(ended_at_two["data"]["held_out"]).write_text("\n".join(reversed(PROMPTS)) + "\n")
    # it was the same file
    ended_at_two["data"]["prompts"] = str(Path(ended_at_two["run"]) / "prompts.txt")
    run = loop.run(changed(ended_at_two, train_rounds=3), resume=True)
    assert told(run, "evaluation") and summary(run)["held_out"]["composite"]["n"] == 5
    assert (run / "held_out.txt").read_text().split() == " ".join(reversed(PROMPTS)).split()


def test_fewer_held_out_prompts_and_clips_are_compared_with_as_many(ended_at_two):
    run = loop.run(
        changed(ended_at_two, train_rounds=3, data_held_out_n=3, train_show=3), resume=True
    )
    assert summary(run)["held_out"]["composite"]["n"] == 3
    assert len(json.loads((run / "timelines.json").read_text())) == 3


def test_measuring_again_is_done_anew_when_it_was_interrupted(ended_at_two, tmp_path, monkeypatch):
    made = changed(ended_at_two, train_rounds=3, train_eval_steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(BetweenRounds, "measure", lambda *arguments: os._exit(9))
        assert ended(forked(lambda: loop.run(made, resume=True))) == 9
    assert not (Path(made["run"]) / "evals.jsonl").exists()
    fresh = loop.run(recipe(tmp_path / "fresh", train_rounds=3, train_eval_steps=5))
    kept = rows(made["run"], "evals-until-000002")
    assert summary(loop.run(made, resume=True))["held_out"] == summary(fresh)["held_out"]
    assert rows(made["run"], "evals-until-000002") == kept


def test_the_best_weights_are_measured_again_for_the_guards(tmp_path):
    made = recipe(
        tmp_path, train_rounds=4, guard={"action": "rollback", "bands": {"composite": [0.5, 2.0]}}
    )
    loop.run(made)
    old = checkpoint.load(made["run"])["best"]
    run = loop.run(changed(made, train_rounds=5, train_eval_steps=5), resume=True)
    new, evals = (
        checkpoint.load(run)["best"],
        {row["round"]: row["measures"] for row in rows(run, "evals")},
    )
    assert new["value"] != old["value"]
    assert new["value"] == pytest.approx(max(row["composite"]["mean"] for row in evals.values()))


def test_where_no_weights_are_within_the_bands_any_more_the_base_models_come_back(tmp_path):
    made = recipe(
        tmp_path, train_rounds=4, guard={"action": "rollback", "bands": {"composite": [0.5, 2.0]}}
    )
    loop.run(made)
    tight = {**made, "guard": {"action": "rollback", "bands": {"composite": [0.99999, 1.00001]}}}
    run = loop.run(changed(tight, train_rounds=5, train_eval_steps=5), resume=True)
    assert "weights of round 0 put back" in told(run, "rollback")
    assert summary(run)["held_out"]["composite"]["difference"] == 0


# --- another run


def test_edited_prompts_are_refused_with_the_difference(ended_at_two):
    path, run = Path(ended_at_two["data"]["prompts"]), Path(ended_at_two["run"])
    path.write_text("a cat\na dog\na cow\na hen\na giraffe\n")
    said = (
        "data.prompts: 5 prompts -> 5 prompts; no longer there: 'a bee'; new: 'a giraffe'; "
        "the recorded ones are in"
    )
    with pytest.raises(checkpoint.RunFolderError, match=said):
        loop.run(changed(ended_at_two, train_rounds=3), resume=True)
    path.write_text("\n".join(PROMPTS[::-1]) + "\n")
    with pytest.raises(checkpoint.RunFolderError, match="the same prompts in another order"):
        loop.run(changed(ended_at_two, train_rounds=3), resume=True)
    moved = changed(ended_at_two, train_rounds=3, data_prompts=str(run / "prompts.txt"))
    assert summary(loop.run(moved, resume=True))["rounds"] == 3  # the kept ones, from another place


@pytest.fixture
def of_a_model(tmp_path):
    """A claimed run of a model folder and a LoRA folder: its recipe, the folders."""
    model, lora = tmp_path / "model", tmp_path / "lora"
    for folder, names in (
        (model, ("vae/w.safetensors", "model_index.json")),
        (lora, ("lora.safetensors",)),
    ):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    made = config.build(
        {
            "run": str(tmp_path / "run"),
            "policy": {"lora": str(lora)},
            "backbone": {"options": {"model": str(model)}},
        },
        files=False,
    ).to_dict()
    resume.claim(made["run"], made, resume=False)
    return made, model, lora


def test_other_files_of_the_model_or_the_lora_are_refused(of_a_model):
    made, model, lora = of_a_model
    (model / "vae" / "w.safetensors").write_text("other weights")
    (lora / "more.safetensors").write_text("x")
    with pytest.raises(checkpoint.RunFolderError) as caught:
        resume.claim(made["run"], made, resume=True)
    assert "backbone.options.model: vae/w.safetensors: sha256" in str(caught.value)
    assert "policy.lora: more.safetensors: (no such file) -> sha256" in str(caught.value)
    assert "model_index.json" not in str(caught.value)


@pytest.mark.parametrize("part", [False, True])
def test_a_fitted_reward_may_move_but_not_change(tmp_path, part):
    def of(folder):
        options = {"options": {"model": str(folder)}}
        reward = {"parts": {"fitted": options}} if part else {"name": "fitted", **options}
        return config.build({"run": str(tmp_path / "run"), "reward": reward}, files=False).to_dict()

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name in ("fit.json", "fit.safetensors", "README.md"):
        (first / name).write_text(name)
    resume.claim(str(tmp_path / "run"), of(first), resume=False)
    first.rename(second)
    (second / "README.md").write_text("the card says more")
    resume.claim(str(tmp_path / "run"), of(second), resume=True)
    (second / "fit.safetensors").write_text("other weights")
    with pytest.raises(checkpoint.RunFolderError, match="model: fit.safetensors: sha256"):
        resume.claim(str(tmp_path / "run"), of(second), resume=True)


def test_the_same_files_may_be_copied_moved_and_touched(of_a_model, tmp_path):
    made, model, _ = of_a_model
    (model / "README.md").write_text("not part of the model")
    # written again, with the same content
    (model / "model_index.json").write_text("model_index.json")
    assert resume.claim(made["run"], made, resume=True) == "new"
    shutil.move(model, tmp_path / "elsewhere")
    other = changed(made)
    other["backbone"] = {"name": "wan", "options": {"model": str(tmp_path / "elsewhere")}}
    assert resume.claim(made["run"], other, resume=True) == "new"
    other["backbone"]["options"]["model"] = str(tmp_path / "nowhere")
    with pytest.raises(checkpoint.RunFolderError, match="backbone.options.model"):
        resume.claim(made["run"], other, resume=True)


def test_a_file_that_is_as_it_was_is_not_read_again(of_a_model, monkeypatch):
    made, model, _ = of_a_model
    known = json.loads((Path(made["run"]) / "inputs.json").read_text())
    monkeypatch.setattr(inputs, "_sha256", lambda path: pytest.fail(f"read {path} again"))
    assert inputs.fingerprint(made, known) == known and len(known["backbone.options.model"]) == 2


def test_several_differences_are_all_named(ended_at_two):
    other = changed(ended_at_two, train_group=2, algorithm_name="nft", reward_name="x")
    with pytest.raises(checkpoint.RunFolderError) as caught:
        resume.examine(ended_at_two["run"], config.build(other).to_dict(), resume=True)
    for line in (
        "train.group: 4 -> 2",
        'algorithm.name: "grpo" -> "nft"',
        'reward.name: "toys:Brightness" -> "x"',
    ):
        assert line in str(caught.value)


def test_a_run_of_a_version_that_knew_fewer_values_goes_on(ended_at_two):
    run = Path(ended_at_two["run"])
    lines = (run / "config.toml").read_text().splitlines()
    known = [line for line in lines if "max_unscored" not in line and "ema" not in line]
    (run / "config.toml").write_text("\n".join(known))
    for name in ("prompts.txt", "held_out.txt", "inputs.json"):
        (run / name).unlink()
    assert summary(loop.run(changed(ended_at_two, train_rounds=3), resume=True))["rounds"] == 3
    assert prompts.read(run / "prompts.txt") == PROMPTS


# --- damaged files


@pytest.mark.parametrize("name", ["metrics", "events", "evals"])
def test_a_line_that_a_kill_cut_within_a_letter_is_taken_away(ended_at_two, whole, name):
    """A letter of two bytes may be cut in two, so that the file is no UTF-8."""
    with open(Path(ended_at_two["run"]) / f"{name}.jsonl", "ab") as file:
        file.write('{"round": 3, "message": "ä'.encode()[:-1])
    assert run_report.table(ended_at_two["run"])
    run = loop.run(changed(ended_at_two, train_rounds=5), resume=True)
    assert weights(run) == weights(whole) and len(rows(run)) == 5
    assert "message" not in rows(run, name)[-1] or rows(run, name)[-1]["kind"] == "change"


DAMAGED = {
    "summary.json": ('{"held', "summary.json is damaged: .*Delete the file: --resume goes on"),
    "config.toml": (
        "run = 'x\n[",
        "config.toml is damaged: .*Restore it from a copy, or name another folder",
    ),
    "inputs.json": ("{", "inputs.json is damaged: .*Delete it if the model's files are those"),
    "checkpoints/latest": (
        "",
        "latest: expected the name of a checkpoint, got ''; checkpoints there: 000000, 000002",
    ),
    "evals/000000.npz": (
        "PK",
        "000000.npz is damaged, .*delete it, and --resume measures the base model again",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_a_run_is_named_with_the_cure(ended_at_two, name):
    text, message = DAMAGED[name]
    (Path(ended_at_two["run"]) / name).write_text(text)
    with pytest.raises((ValueError, RuntimeError), match=message):
        loop.run(changed(ended_at_two, train_rounds=3), resume=True)
    if name in ("summary.json", "config.toml"):
        with pytest.raises(run_folder.NoRun, match=f"{name} is damaged: .*Restore it from a copy"):
            run_report.table(ended_at_two["run"])


@pytest.mark.parametrize("name", ["summary.json", "evals/000000.npz", "clips"])
def test_the_cure_works_and_clips_may_be_deleted(ended_at_two, whole, name):
    path = Path(ended_at_two["run"]) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    run = loop.run(changed(ended_at_two, train_rounds=5), resume=True)
    assert weights(run) == weights(whole) and summary(run)["held_out"] == summary(whole)["held_out"]
    assert (run / "report.html").is_file()


def test_a_folder_that_cannot_be_made_or_written_is_told(ended_at_two, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        checkpoint.WriteError, match="could not write the folder of .*file/run: .* Make the folder"
    ):
        loop.run(ended_at_two | {"run": str(tmp_path / "file" / "run")})
    page = Path(ended_at_two["run"]) / "report.html"
    page.unlink()
    page.mkdir()  # whoever runs the tests, a folder cannot be replaced by a file
    assert cli.main(["report", ended_at_two["run"]]) == 2
    assert (
        "could not write the page of" in (said := capsys.readouterr().err)
        and "Traceback" not in said
    )
