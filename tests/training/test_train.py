"""The loop: what a run leaves behind, how guards hold it, and what it refuses."""

import importlib.util
import json
import math
import threading
from pathlib import Path

import pytest
import torch
from test_record import strict
from toys import happened, recipe, rows, summary, timeless, weights

from vidrl import config
from vidrl.algorithms.grpo import GRPO
from vidrl.attention import AttentionError
from vidrl.backbones.toy import Toy
from vidrl.config import PolicySection
from vidrl.diffusion.path import flow
from vidrl.recipe.toml import write
from vidrl.rewards import Score
from vidrl.training import checkpoint, evaluate, loop
from vidrl.training.policy import Policy, load_adapter, unused

SHORT = {"train_rounds": 2, "train_eval_every": 100}


def small(folder: Path, **changes) -> dict:
    return recipe(folder, **(SHORT | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return loop.run(recipe(tmp_path_factory.mktemp("finished")))


# --- what a run leaves


def test_every_round_is_logged_whole(finished):
    found = [strict(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in found] == [1, 2, 3, 4, 5]
    named = {
        "reward",
        "parts",
        "ratio",
        "clip_share",
        "kl",
        "grad_norm",
        "unscored_share",
        "zero_std_share",
        "diversity",
        "seconds",
        "total_seconds",
    }
    for row in found:
        assert named <= set(row) and set(row["seconds"]) == {"sample", "decode", "reward", "update"}
        assert set(row["reward"]) == {"mean", "std", "within_group_std"} and row["diversity"] > 0
    assert [row["total_seconds"] for row in found] == sorted(row["total_seconds"] for row in found)


def test_the_folder_holds_all_that_looks_back(finished):
    held_out = summary(finished)["held_out"]
    assert {"composite", "exposure", "diversity", "unscored_share"} <= set(held_out)
    assert {"before", "after", "difference", "low", "high"} <= set(held_out["composite"])
    assert summary(finished) | {"rounds": 5, "seed": 0, "status": "finished"} == summary(finished)
    assert [row["round"] for row in rows(finished, "evals")] == [0, 2, 4, 5]
    for name in (
        "config.toml",
        "credit.json",
        "timelines.json",
        "report.html",
        "clips/before/0000.mp4",
        "clips/after/0000.mp4",
        "clips/train/best.mp4",
        "evals/000005.npz",
    ):
        assert (finished / name).stat().st_size > 0, name
    (line,) = strict((finished / "timelines.json").read_text())
    assert set(line["before"]) == set(line["after"]) == {"value", "parts", "curves"}
    assert config.load(finished / "config.toml").train.rounds == 5


def test_the_saved_weights_are_those_that_were_evaluated_last(finished):
    saved, state = load_adapter(Toy(), finished / "lora"), checkpoint.load(finished)
    fresh = Policy(Toy(), full=True)
    fresh.load_state(state["policy"])
    assert saved.checksum() == fresh.checksum() != Policy(Toy(), full=True).checksum()


def test_a_dict_a_file_and_a_recipe_are_one_run(tmp_path):
    made = small(tmp_path / "a")
    first = loop.run(made)
    (tmp_path / "toy.toml").write_text(write(config.load(small(tmp_path / "b")).to_dict()))
    second, third = loop.run(tmp_path / "toy.toml"), loop.run(config.load(small(tmp_path / "c")))
    assert weights(first) == weights(second) == weights(third)
    assert [timeless(row) for row in rows(first)] == [timeless(row) for row in rows(second)]


def test_seeds_differ_in_training_and_agree_in_evaluation(tmp_path):
    one, other = loop.run(small(tmp_path / "a")), loop.run(small(tmp_path / "b", seed=1))
    assert weights(one) != weights(other)
    assert rows(one, "evals")[0] == rows(other, "evals")[0]


def test_it_does_not_depend_on_the_global_generator(tmp_path):
    one = loop.run(small(tmp_path / "a"))
    torch.manual_seed(77)
    assert weights(one) == weights(loop.run(small(tmp_path / "b")))


def test_it_runs_outside_the_main_thread(tmp_path):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(loop.run(small(tmp_path))))
    thread.start()
    thread.join()
    assert ended and summary(ended[0])["status"] == "finished"


def test_a_composite_of_parts_is_logged_by_part(tmp_path):
    run = loop.run(
        small(tmp_path, reward={"parts": {"toys:Brightness": 1.0, "frame_quality": 0.5}})
    )
    assert (
        set(rows(run)[0]["parts"])
        == {"toys:Brightness", "frame_quality"}
        <= set(summary(run)["held_out"])
    )


def test_every_prompt_has_its_turn_before_any_comes_again(tmp_path):
    trainer, seen = (
        loop.Trainer.from_recipe(config.load(small(tmp_path, train_prompts_per_round=2))),
        [],
    )
    for trainer.state.round in range(5):
        prompts, index = trainer._round_prompts()
        assert prompts == [prompts[0]] * 4 + [prompts[4]] * 4 and index == list(range(8))
        seen += [prompts[0], prompts[4]]
    assert sorted(seen[:5]) == sorted(seen[5:]) == sorted(set(seen))
    assert seen[:5] != seen[5:]  # each time in another order


def test_a_group_may_start_from_one_noise(tmp_path):
    options = {"steps": 4, "segments": 3, "eta": 0.5, "same_start": True}
    trainer = loop.Trainer.from_recipe(
        config.load(small(tmp_path, algorithm={"name": "grpo", "options": options}))
    )
    prompts, index = trainer._round_prompts()
    first = trainer._sample(prompts, index, trainer._plan()).before[:, 0]
    assert all(torch.equal(first[i], first[4 * (i // 4)]) for i in range(8)) and not torch.equal(
        first[0], first[4]
    )


def test_averaged_weights_are_what_is_evaluated_and_saved(tmp_path):
    run = loop.run(small(tmp_path, train_ema=0.9))
    state = checkpoint.load(run)["policy"]
    saved = load_adapter(Toy(), run / "lora").weights
    assert all(torch.equal(saved[k], state[f"ema/{k}"]) for k in saved)
    assert any(not torch.equal(saved[k], state[f"live/{k}"]) for k in saved)


def test_notes_of_the_backbone_are_events_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "notes", ("group_offload saves nothing without a GPU",))
    run = loop.run(small(tmp_path))
    notes = [row["message"] for row in rows(run, "events") if row["kind"] == "note"]
    assert "group_offload saves nothing without a GPU" in notes


@pytest.mark.parametrize(
    "backend, message",
    [
        ("sage", "is for inference only"),
        ("_native_cudnn", "it needs a CUDA device"),
        ("fast", "did you mean 'flash'"),
    ],
)
def test_an_attention_backend_that_cannot_train_is_refused_before_any_work(
    tmp_path, backend, message
):
    wan = {
        "name": "wan",
        "options": {"model": "assets/tiny-wan-32", "text_length": 24, "attention": backend},
    }
    made = recipe(tmp_path, backbone=wan, policy={"lora_rank": 2, "lora_alpha": 2})
    with pytest.raises(AttentionError, match=message):
        loop.run(made)
    assert not Path(made["run"]).exists()


def test_a_backbone_without_an_adapter_format_says_so(tmp_path):
    with pytest.raises(NotImplementedError, match="no adapter format: leave policy.lora empty"):
        loop.run(small(tmp_path, policy={"lora": str(tmp_path)}))


# --- notes


def test_values_of_the_policy_that_are_not_used_are_told(tmp_path, capsys):
    policy = {"full": True, "lora_rank": 8, "lora_targets": ["to_q"]}
    run = loop.run(small(tmp_path, policy=policy, train_rounds=1))
    notes = [row["message"] for row in rows(run, "events") if row["kind"] == "note"]
    assert notes[:2] == [
        "policy.lora_rank = 8 is not used: policy.full = true trains all weights",
        "policy.lora_targets = ['to_q'] is not used: policy.full = true trains all weights",
    ]
    assert "note: policy.lora_rank = 8 is not used" in capsys.readouterr().err


def test_values_that_a_lora_file_brings_are_told_where_the_recipe_says_otherwise():
    file = {"r": 8, "lora_alpha": 4, "target_modules": ["to_k", "to_q"]}
    same = PolicySection(8, 4, ["to_q", "to_k"], lora="a")
    assert (
        unused(same, file)
        == unused(PolicySection(lora="a"), file)
        == unused(PolicySection(lora_rank=8), file)
        == []
    )
    other = PolicySection(2, 4, ["ffn"], lora="a")
    assert unused(other, file) == [
        "policy.lora_rank = 2 is not used: the LoRA in policy.lora has 8",
        "policy.lora_targets = ['ffn'] is not used: the LoRA in policy.lora has ['to_k', 'to_q']",
    ]


class Short(Toy):
    """A toy that reads five letters of a prompt."""

    def truncated(self, prompts):
        return [prompt for prompt in prompts if len(prompt) > 5]


def test_cut_prompts_and_a_shared_prompt_file_are_told_at_the_start(tmp_path, capsys):
    made = small(tmp_path, backbone={"name": "test_train:Short", "options": {}}, train_rounds=1)
    Path(made["data"]["prompts"]).write_text("# mine\na cat\na horse\na giraffe\na dog\na bee\n")
    run = loop.run(made)
    notes = [row["message"] for row in rows(run, "events") if row["kind"] == "note"]
    assert (
        "1 lines begin with #" in notes[0] and "are one file: 5 of 5 held-out prompts" in notes[1]
    )
    assert (
        notes[2].startswith("data.prompts: 2 of 5 prompts are longer")
        and "'a horse'. Shorten" in notes[2]
    )
    assert notes[3].startswith("data.held_out: 2 of 5 prompts are longer") and len(notes) == 4
    said = capsys.readouterr().err
    assert all(f"note: {note}\n" in said for note in notes)
    assert notes[2].split(":")[0] in (run / "report.html").read_text()


# --- guards


def guarded(folder: Path, action: str, band, measure: str = "composite") -> Path:
    return loop.run(
        recipe(folder, train_rounds=6, guard={"action": action, "bands": {measure: band}})
    )


NARROW = [0.98, 1.015]  # brightness is rewarded and leaves it within a few rounds


def test_a_guard_that_is_left_stops_the_run_with_the_best_weights(tmp_path):
    run = guarded(tmp_path, "stop", NARROW)
    events = happened(run)
    assert [row["kind"] for row in events] == ["guard", "stop"]
    assert "composite: expected" in events[0]["message"] and "put back" in events[1]["message"]
    assert summary(run)["status"] == "guard" and len(rows(run)) < 6
    state = checkpoint.load(run)
    best = checkpoint.load(run, state["best"]["checkpoint"])
    assert f"weights of round {best['round']} " in events[1]["message"]
    saved = load_adapter(Toy(), run / "lora").weights
    assert all(torch.equal(saved[k], best["policy"][f"live/{k}"]) for k in saved)
    held_out = summary(run)["held_out"]["composite"]
    assert 0.98 * held_out["before"] <= held_out["after"] <= 1.015 * held_out["before"]


def test_a_guard_that_is_left_rolls_back_and_goes_on(tmp_path):
    run = guarded(tmp_path, "rollback", NARROW)
    assert {row["kind"] for row in happened(run)} == {"guard", "rollback"}
    assert summary(run)["status"] == "finished" and len(rows(run)) == 6
    held_out = summary(run)["held_out"]["composite"]
    assert held_out["after"] <= 1.015 * held_out["before"]  # also at the very end


def test_a_warning_changes_nothing(tmp_path):
    run, free = (
        guarded(tmp_path / "a", "warn", NARROW),
        loop.run(recipe(tmp_path / "b", train_rounds=6)),
    )
    assert {row["kind"] for row in happened(run)} == {"guard"}
    assert weights(run) == weights(free)


def test_where_nothing_was_better_the_base_model_is_put_back(tmp_path):
    run = guarded(tmp_path, "stop", [0.9999, 1.0001])
    assert "weights of round 0 put back" in happened(run)[-1]["message"]
    assert load_adapter(Toy(), run / "lora").checksum() == Policy(Toy(), full=True).checksum()
    assert summary(run)["held_out"]["composite"]["difference"] == 0


def test_the_best_checkpoint_outlives_the_newer_ones(tmp_path):
    made = recipe(
        tmp_path,
        train_rounds=8,
        train_checkpoint_every=1,
        train_keep_checkpoints=2,
        train_eval_every=2,
        guard={"action": "rollback", "bands": {"composite": NARROW}},
    )
    state = checkpoint.load(loop.run(made))
    assert (
        Path(made["run"]) / "checkpoints" / state["best"]["checkpoint"] / "state.json"
    ).is_file()


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
def test_bands_that_cannot_be_held_are_told_before_the_first_round(tmp_path, bands, said):
    made = recipe(tmp_path, guard={"bands": bands})
    with pytest.raises(ValueError, match=said):
        loop.run(made)
    assert rows(made["run"]) == []


# --- refusals


def test_unscored_clips_are_counted_and_left_out(tmp_path):
    made = small(tmp_path, reward={"name": "toys:Picky"}, train_prompts_per_round=5)
    run = loop.run(made)
    assert all(row["unscored_share"] == pytest.approx(0.2) for row in rows(run))
    assert summary(run)["held_out"]["unscored_share"]["before"] == pytest.approx(0.2)
    assert rows(run, "evals")[0]["measures"]["composite"]["n_scored"] == 4


@pytest.mark.parametrize("how", ["nan", "raise"])
def test_too_many_unscored_stop_the_run_with_the_reason(tmp_path, how):
    made = small(
        tmp_path, reward={"name": "toys:Picky", "options": {"how": how}}, train_max_unscored=0.1
    )
    with pytest.raises(
        RuntimeError, match=r"20% of the samples are unscored, at most 10% .*no cat, please"
    ):
        loop.run(made)


def test_the_share_of_unscored_clips_may_be_just_what_is_allowed():
    """3 of 5 is 0.6, which is more in float32 than the 0.6 of a recipe."""
    score = Score(torch.tensor([torch.nan] * 3 + [1.0] * 2), why=["no"] * 3 + [None] * 2)
    evaluate.check_scored(score, 0.6, 0)
    with pytest.raises(RuntimeError, match="60% of the samples are unscored, at most 59% may be"):
        evaluate.check_scored(score, 0.59, 0)


def test_too_many_unscored_in_a_round_stop_it_there(tmp_path):
    made = small(tmp_path, train_rounds=9, train_prompts_per_round=1, reward={"name": "toys:Picky"})
    with pytest.raises(RuntimeError, match=r"round \d: 100% of the samples are unscored"):
        loop.run(made)
    assert checkpoint.latest(made["run"])  # what came before is kept


class Dropping(Toy):
    """A toy that drops a random tenth of what it predicts."""

    def predict(self, x, t, cond):
        return torch.nn.functional.dropout(super().predict(x, t, cond), 0.1, training=True)


def test_a_round_with_nothing_to_learn_from_takes_no_step_and_says_so(tmp_path, monkeypatch):
    """As where the samples of every group tie, and an algorithm of pairs has no pair."""
    whole, seen = GRPO.minibatches, []

    def minibatches(self, experience):
        return iter(()) if experience.round == 1 else whole(self, experience)

    monkeypatch.setattr(GRPO, "minibatches", minibatches)
    monkeypatch.setattr(GRPO, "after", lambda self, policy, round: seen.append(policy.checksum()))
    run = loop.run(small(tmp_path, train_rounds=3))
    assert [[name in row for name in ("kl", "ratio", "grad_norm")] for row in rows(run)] == [
        [True] * 3,
        [False] * 3,
        [True] * 3,
    ]
    assert seen[0] == seen[1] != seen[2]
    assert [
        (row["round"], row["message"][:17]) for row in happened(run) if row["kind"] == "skipped"
    ] == [(2, "no optimiser step")]
    assert (run / "report.html").stat().st_size > 0


def test_a_ratio_that_is_not_one_is_an_error(tmp_path):
    made = small(tmp_path, backbone={"name": "test_train:Dropping", "options": {}})
    with pytest.raises(RuntimeError, match="expected ratio 1 before the first update"):
        loop.run(made)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"segments": 4}, "1 to 3 segments"),
        ({"steps": 1}, "expected a stochastic step"),
        ({"sampler": "sde"}, "sampler"),
    ],
)
def test_options_that_do_not_fit_the_backbone_are_told_before_any_work(tmp_path, options, said):
    made = small(tmp_path, algorithm={"name": "grpo", "options": {"steps": 4} | options})
    with pytest.raises(ValueError, match=said):
        loop.run(made)
    assert not Path(made["run"]).exists()


class Curved(Toy):
    """A toy on a path of another kind."""

    def __init__(self) -> None:
        super().__init__()
        straight = flow()
        self.path = type(straight)(straight.alpha, straight.sigma, "flow", "vp")


def test_a_sampler_of_another_path_is_told(tmp_path):
    options = {"steps": 4, "segments": 3, "eta": 0.5, "sampler": "dance_sde"}
    algorithm = {"name": "grpo", "options": options}
    made = small(
        tmp_path, backbone={"name": "test_train:Curved", "options": {}}, algorithm=algorithm
    )
    with pytest.raises(ValueError, match="dance_sde needs the flow path"):
        loop.run(made)
    assert not Path(made["run"]).exists()


def test_nothing_already_written_is_lost_when_a_round_fails(tmp_path, monkeypatch):
    made, whole = recipe(tmp_path), loop.Trainer._sample

    def fails(trainer, *arguments):
        if trainer.state.round == 3:
            raise OSError("the cable was pulled")
        return whole(trainer, *arguments)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="cable"):
        patch.setattr(loop.Trainer, "_sample", fails)
        loop.run(made)
    assert len(rows(made["run"])) == 3 and checkpoint.load(made["run"])["round"] == 2
    assert weights(loop.run(made, resume=True)) == weights(loop.run(recipe(tmp_path / "whole")))


# --- trackers


@pytest.mark.parametrize(
    "names, said",
    [
        (["tensorbord"], "got 'tensorbord': did you mean 'tensorboard'"),
        (["mine"], "got 'mine': known: aim, all"),
    ],
)
def test_an_unknown_tracker_is_told_before_any_work(tmp_path, capsys, names, said):
    from vidrl.cli import main

    made = small(tmp_path, train_trackers=names)
    with pytest.raises(ValueError, match=said):
        loop.run(made)
    (tmp_path / "toy.toml").write_text(write(config.load(made).to_dict()))
    assert main(["train", str(tmp_path / "toy.toml")]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown and not Path(made["run"]).exists()


def test_a_tracker_that_cannot_begin_is_told(tmp_path, monkeypatch):
    """wandb without a login raises an error of its own."""

    class UsageError(Exception):
        pass

    def fails(name):
        raise UsageError("no API key configured")

    trainer = loop.Trainer.from_recipe(config.load(small(tmp_path)))
    trainer.workers.trackers = True
    monkeypatch.setattr(trainer.workers.engine, "init_trackers", fails)
    with pytest.raises(
        RuntimeError, match="train.trackers: .*could not begin: UsageError: no API key.*login"
    ):
        trainer.go(resume=False)


@pytest.mark.filterwarnings("ignore:.*no supported trackers:UserWarning")
def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    missing = next(
        (name for name in ("comet_ml", "aim", "clearml") if importlib.util.find_spec(name) is None),
        "",
    )
    if not missing:
        pytest.skip("all trackers are installed")
    with pytest.raises(ImportError, match=f"trackers.*{missing}"):
        loop.run(small(tmp_path, train_trackers=[missing]))
    assert not Path(tmp_path / "run").exists()


def test_tensorboard_beside_the_log(tmp_path):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    run = loop.run(small(tmp_path, train_trackers=["tensorboard"]))
    assert list((run / "vidrl").rglob("events.out.tfevents*"))


def test_a_tracker_gets_numbers_named_with_slashes(tmp_path, monkeypatch):
    from accelerate.tracking import GeneralTracker

    class Notebook(GeneralTracker):
        name, requires_logging_directory = "notebook", False

        def __init__(self):
            super().__init__()
            self.pages = []

        tracker = property(lambda self: self.pages)

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None, **more):
            self.pages.append((step, values))

    notebook = Notebook()
    made = config.load(small(tmp_path))
    trainer = loop.Trainer.from_recipe(made)
    trainer.workers.trackers, trainer.workers.engine.log_with = True, [notebook]
    trainer.go(resume=False)
    assert [step for step, _ in notebook.pages] == [1, 2]
    assert (
        math.isfinite(notebook.pages[0][1]["reward/mean"]) and "ratio/max" in notebook.pages[0][1]
    )
    assert json.dumps(notebook.pages)


def test_a_run_may_show_no_clips(tmp_path):
    folder = loop.run(recipe(tmp_path, train_rounds=1, train_show=0))
    assert json.loads((folder / "clips" / "after.json").read_text()) == []
    assert (folder / "report.html").is_file()
