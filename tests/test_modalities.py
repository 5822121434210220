"""Generators other than films on the seams of films: their recipes, and what is written of
their scenes."""

import pytest

from vidrl import cli, config
from vidrl.report.run_folder import read
from vidrl.training import evaluate

JUDGE = "vidrl.synthetic.scene_verifier:SceneVerifier"
SHORT = ("train.show=2", "backbone.options.views=12", "train.eval_every=100")


@pytest.mark.parametrize("name", ["tiny_3d", "tiny_3d_gradient", "tiny_4d"])
def test_the_recipes_of_scenes_are_right(name) -> None:
    loaded = config.load(f"scripts/recipes/{name}.toml")
    evaluate.check_recipe(loaded)
    reward = evaluate.build_reward(loaded.reward)
    assert reward.weights[JUDGE] == 0
    assert loaded.guard.bands.keys() == {JUDGE, "diversity", "exposure"}


def test_a_gradient_through_a_judge_that_has_none_is_refused() -> None:
    changed = ["algorithm.options.blind_parts=false"]
    with pytest.raises(ValueError, match=f"parts that all carry gradient, but {JUDGE}"):
        evaluate.check_recipe(config.load("scripts/recipes/tiny_3d_gradient.toml", changed))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from vidrl.training import loop

    folder = tmp_path_factory.mktemp("scene") / "run"
    changes = [
        f"run={folder}",
        "train.rounds=1",
        "train.group=2",
        "train.prompts_per_round=2",
        "data.held_out_n=2",
        "train.eval_n=2",
        "train.eval_steps=2",
        "algorithm.options.steps=2",
        "algorithm.options.updates=1",
        "algorithm.options.noises=1",
        "guard.action='warn'",
    ]
    return loop.run(config.load("scripts/recipes/tiny_3d.toml", [*SHORT, *changes]))


def test_a_round_shows_orbits_and_a_scene_is_exported(run, tmp_path, capsys) -> None:
    page = (run / "report.html").read_text()
    assert page.count("<video") >= 4
    words = ["export", str(run), "--format", "ply", "--prompt", "a red cube left of a blue ball"]
    assert cli.main([*words, "--out", str(tmp_path / "a.ply")]) == 0
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat binary_little_endian")
    assert cli.main([*words, "--out", str(tmp_path / "a.obj")]) == 2
    assert "expected a file NAME.ply" in capsys.readouterr().err
    assert cli.main(words[:4]) == 2
    assert "expected --format ply and --prompt together" in capsys.readouterr().err


@pytest.mark.slow
def test_a_world_learns_to_follow_its_actions(tmp_path) -> None:
    """The recipe, shortened: the reward rises beyond doubt on held-out prompts, and the judge,
    whom no reward sees, does not fall."""
    from vidrl.training import loop

    changes = [f"run={tmp_path / 'run'}", "train.rounds=4", "train.show=2", "train.eval_every=100"]
    found = read(loop.run(config.load("scripts/recipes/tiny_world.toml", changes)))
    assert found.held_out["composite"]["low"] > 0
    judge = found.held_out["vidrl.synthetic.agent_verifier:ActionVerifier"]
    assert judge["after"] >= 0.965 * judge["before"]


@pytest.mark.slow
def test_gradients_through_the_renderer_mend_scenes(tmp_path) -> None:
    """The recipe, shortened: the reward rises beyond doubt on held-out captions, and the
    judge, whom no reward sees, does not fall."""
    from vidrl.training import loop

    changes = [f"run={tmp_path / 'run'}", "train.rounds=10", "data.held_out_n=64", *SHORT]
    found = read(loop.run(config.load("scripts/recipes/tiny_3d_gradient.toml", changes)))
    assert found.held_out["composite"]["low"] > 0
    assert found.held_out[JUDGE]["after"] >= 0.965 * found.held_out[JUDGE]["before"]


@pytest.mark.slow
def test_moving_scenes_learn_to_move_as_their_captions_say(tmp_path) -> None:
    """The recipe, shortened: the reward rises beyond doubt on held-out captions, and the
    judge, whom no reward sees, does not fall."""
    from vidrl.training import loop

    changes = [f"run={tmp_path / 'run'}", "train.rounds=6", "data.held_out_n=64", *SHORT]
    found = read(loop.run(config.load("scripts/recipes/tiny_4d.toml", changes)))
    assert found.held_out["composite"]["low"] > 0
    assert found.held_out[JUDGE]["after"] >= 0.965 * found.held_out[JUDGE]["before"]
