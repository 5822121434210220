"""A suite between rounds: it sees held-out prompts, says which dims were trained on, and
changes nothing of the run."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conditioned import conditioned
from groups import launched
from toys import recipe, rows, weights

from vidrl import cli, config
from vidrl.bench import callback, suite
from vidrl.bench.dims import Dim
from vidrl.recipe.toml import write
from vidrl.report import run_report
from vidrl.training import loop

ROOT = Path(__file__).parent.parent.parent


def asked(folder: Path, **changes) -> config.Recipe:
    """The toys' recipe with a suite of two prompts, one of which is trained on, every
    second round."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = ["a cat", "a dog that runs to the left", "a hen that runs to the right"]
    (folder / "mine.jsonl").write_text(
        "\n".join(json.dumps({"prompt": p, "kind": p[2:5]}) for p in prompts)
    )
    (folder / "mine.toml").write_text('prompts = "mine.jsonl"\n[dims.flicker]\n[dims.freeze]\n')
    made = recipe(folder, reward={"parts": {"flicker": 1.0}}, **({"train_rounds": 3} | changes))
    return config.load(
        made | {"bench": {"suite": str(folder / "mine.toml"), "every": 2, "steps": 2}}
    )


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    made = asked(tmp_path_factory.mktemp("looked"))
    return loop.run(made, callback=callback.build(made))


def test_a_look_every_second_round_and_at_the_end(looked):
    assert [row["round"] for row in rows(looked, "bench")] == [0, 2, 3]
    assert [row["n"] for row in rows(looked, "bench")] == [2, 2, 2]
    made = json.loads((looked / "bench" / "000002" / "results.json").read_text())
    clips = made["sets"][0]["clips"]
    assert [clip["prompt"] for clip in clips] == [
        "a dog that runs to the left",
        "a hen that runs to the right",
    ]
    assert (
        set(made["summary"]["round 2"]) == {"flicker", "freeze"} and made["suite"]["name"] == "mine"
    )
    assert made["breakdown"]["round 2"]["kind"]["dog"]["flicker"]["n"] == 1
    assert "1 prompts are left out, since they are trained on" in made["notes"]
    row = rows(looked, "bench")[1]["dims"]["flicker"]
    values = [clip["value"]["flicker"] for clip in clips]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["n"] == 2


def test_every_look_starts_from_the_same_noise_and_sees_the_weights_of_its_round(looked):
    seeds = {
        name: [(clip["prompt"], clip["seed"]) for clip in sets(looked, name)]
        for name in ("000000", "000003")
    }
    assert seeds["000000"] == seeds["000003"]
    ids = [[clip["id"] for clip in sets(looked, name)] for name in ("000000", "000003")]
    assert ids[0] != ids[1]  # the weights moved


def sets(run, name):
    return json.loads((run / "bench" / name / "results.json").read_text())["sets"][0]["clips"]


def test_dims_that_were_trained_on_are_marked(looked):
    dims = json.loads((looked / "bench" / "000002" / "results.json").read_text())["dims"]
    assert {dim["name"]: dim["trained"] for dim in dims} == {"flicker": True, "freeze": False}
    page = run_report.write(looked).read_text()
    assert (
        "flicker †" in page
        and "freeze</h3>" in page
        and "freeze †" not in page
        and "The suite mine" in page
    )


@pytest.mark.parametrize(
    ("section", "reward", "marked"),
    [
        ({}, "warp_error", True),
        ({}, "jerk", False),
        ({}, "default", True),
        ({"name": "jerk"}, "jerk", True),
        ({"name": "jerk"}, "default", False),
        ({"parts": {"jerk": 1.0}}, "jerk", True),
        ({"name": "motion_target"}, "vidrl.bench.expectations:Pace", True),
        ({"name": "motion_target"}, "vidrl.bench.expectations:Caption", False),
    ],
)
def test_what_counts_as_trained_on(section, reward, marked):
    assert callback.trained_on(Dim("x", reward), config.RewardSection(**section)) is marked


def test_training_is_the_same_to_the_last_bit_with_and_without_looks(looked, tmp_path):
    plain = loop.run(asked(tmp_path))
    assert weights(plain) == weights(looked)
    assert rows(plain, "evals") == rows(looked, "evals")


def test_a_resumed_run_looks_as_one_that_was_not_interrupted(looked, tmp_path):
    made = asked(tmp_path, train_checkpoint_every=1)
    look = callback.build(made)

    def killed(round, policy, name, workers, ends):
        look(round, policy, name, workers, ends)
        if round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(made, callback=killed)
    assert [row["round"] for row in rows(made.run, "bench")] == [0, 2]
    loop.run(made, resume=True, callback=callback.build(made))
    assert rows(made.run, "bench") == rows(looked, "bench")
    assert weights(made.run) == weights(looked)


def test_a_look_leaves_global_generators_alone(tmp_path):
    made = asked(tmp_path)
    look, before = callback.build(made), []

    def watched(*given):
        before.append((torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()))
        look._look = lambda *_: (torch.rand(3), np.random.rand(), random.random())
        look(*given)
        after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert (
            torch.equal(before[-1][0], after[0])
            and (before[-1][1] == after[1]).all()
            and before[-1][2] == after[2]
        )

    loop.run(made, callback=watched)
    assert len(before) == 4


def test_a_look_that_fails_is_told_and_ends_no_run(tmp_path, capsys, monkeypatch):
    made = asked(tmp_path, train_rounds=2)
    monkeypatch.setattr(callback.measure, "run", lambda *a, **k: 1 / 0)
    run = loop.run(made, callback=callback.build(made))
    assert [row["why"] for row in rows(run, "bench")] == ["ZeroDivisionError: division by zero"] * 2
    assert "could not be measured: ZeroDivisionError" in capsys.readouterr().err
    # no dims, no section
    assert "Not measured: round 0: ZeroDivisionError" not in run_report.write(run).read_text()


# --- the recipe -----------------------------------------------------------------------


def test_off_by_default(tmp_path):
    assert callback.build(config.load(recipe(tmp_path))) is None


def test_a_suite_without_prompts_takes_the_held_out_ones(tmp_path):
    (tmp_path / "held.txt").write_text("a fox\na cat\n")
    made = config.load(
        recipe(tmp_path, data_held_out=str(tmp_path / "held.txt"), data_held_out_n=2)
        | {"bench": {"suite": "temporal"}}
    )
    assert [row["prompt"] for row in callback.build(made).rows] == ["a fox"]
    same = config.load(recipe(tmp_path) | {"bench": {"suite": "temporal"}})
    with pytest.raises(suite.BadSuite, match="every prompt of 'temporal' is trained on"):
        callback.build(same)


def test_a_suite_without_pictures_is_refused_before_any_clip_of_a_model_that_needs_them(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a fox"}')
    (tmp_path / "mine.toml").write_text('prompts = "mine.jsonl"\n[dims.flicker]\n')
    made = config.load(conditioned(tmp_path) | {"bench": {"suite": str(tmp_path / "mine.toml")}})
    said = (
        "the suite 'mine' .* expected prompts with image, .* got 'a fox' without image.* "
        ".jsonl, .csv or .parquet"
    )
    with pytest.raises(suite.BadSuite, match=said):
        loop.Trainer.from_recipe(made, callback.build(made))
    assert not Path(made.run).exists()


def test_the_motion_suite_on_tiny_wan_takes_held_out_captions():
    made = config.load(
        ROOT / "scripts" / "recipes" / "demo.toml", ["bench.suite=motion", "bench.prompts=8"]
    )
    look = callback.build(made)
    assert len(look.rows) == 8 and {row["kind"] for row in look.rows} >= {"left", "rest", "grow"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"suit": "motion"}, "did you mean 'bench.suite'"),
        ({"every": 0}, "bench.every: expected at least 1"),
        ({"every": "often"}, "bench.every: expected int"),
    ],
)
def test_the_section_is_read_strictly(tmp_path, table, message):
    with pytest.raises(config.BadRecipe, match=message):
        config.load(recipe(tmp_path) | {"bench": table})


def test_an_unknown_suite_is_an_error_before_any_work(tmp_path, capsys):
    made = recipe(tmp_path) | {"bench": {"suite": "motoin"}}
    (tmp_path / "r.toml").write_text(write(made))
    assert cli.main(["train", str(tmp_path / "r.toml")]) != 0
    assert "did you mean 'motion'" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_hands_the_suite_over(tmp_path):
    made = asked(tmp_path, train_rounds=1)
    (tmp_path / "r.toml").write_text(made.to_toml())
    assert cli.main(["train", str(tmp_path / "r.toml")]) == 0
    assert [row["round"] for row in rows(made.run, "bench")] == [0, 1]


@pytest.mark.slow
def test_a_run_without_a_suite_may_be_resumed_with_one(tmp_path):
    made = asked(tmp_path, train_checkpoint_every=1)
    plain = config.load(made, ["bench.suite="])

    def killed(round, *_):
        if round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(plain, callback=killed)
    loop.run(made, resume=True, callback=callback.build(made))
    assert [row["round"] for row in rows(made.run, "bench")] == [2, 3]


@pytest.mark.slow
def test_two_processes_share_the_clips_and_measure_all(tmp_path):
    made = asked(tmp_path, train_rounds=2)
    # processes of their own: a fork of one that has threads may hang
    with launched(made.to_dict()) as child:
        said = child.communicate(timeout=120)[0]
    assert child.returncode == 0, said
    alone = asked(tmp_path / "alone", train_rounds=2)
    loop.run(alone, callback=callback.build(alone))
    found = [
        json.loads((Path(one.run) / "bench" / "000000" / "results.json").read_text())
        for one in (made, alone)
    ]
    ids = [[clip["id"] for clip in one["sets"][0]["clips"]] for one in found]
    assert ids[0] == ids[1] and len(ids[0]) == 2 and found[0]["summary"] == found[1]["summary"]
    assert [row["round"] for row in rows(made.run, "bench")] == [0, 2]
