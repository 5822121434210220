"""Worlds by name: gymnasium.make, gymnasium.make_vec, and what a user of Gymnasium may try."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from vidrl.worlds import registration, simulator
from vidrl.worlds.environment import WorldEnv
from vidrl.worlds.vector import WorldVectorEnv

LEARNED, TRUE = registration.NAMES
FAST = {LEARNED: {"steps": 2}, TRUE: {}}


def python(code: str) -> str:
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_the_import_registers_and_loads_no_torch() -> None:
    code = "import sys, vidrl.worlds, gymnasium; gymnasium.spec('vidrl/World-v0'); "
    assert python(code + "print('torch' in sys.modules)") == "False"


def test_a_name_with_its_module_needs_no_import() -> None:
    code = "import gymnasium; print(gymnasium.make('vidrl.worlds:vidrl/TrueWorld-v0', task='push'))"
    assert "TrueWorldEnv<vidrl/TrueWorld-v0>" in python(code)


def test_worlds_are_imported_without_gymnasium() -> None:
    code = "import sys; sys.modules['gymnasium'] = None; from vidrl.worlds import simulator; "
    assert python(code + "print(len(simulator.load().actions))") == "5"


@pytest.mark.parametrize("name", registration.NAMES)
def test_environments_by_name_pass_gymnasiums_check(name) -> None:
    check_env(gymnasium.make(name, task="push", **FAST[name]).unwrapped)


def test_an_environment_by_name_is_the_one_by_hand() -> None:
    """Seeds, noise and weights are the same; a seed given twice gives one episode."""
    named = gymnasium.make(LEARNED, task="push", steps=2)
    by_hand = WorldEnv(simulator.load(steps=2), "push", limit=20)
    actions = (1, np.int32(2), np.array(3))
    first, *others = (
        [env.reset(seed=5)[0], *(env.step(action)[0] for action in actions)]
        for env in (named, by_hand, named)
    )
    for other in others:
        assert all((a == b).all() for a, b in zip(first, other, strict=True))


def test_gymnasium_limits_the_episode() -> None:
    for name, steps in ((None, 20), (25, 25)):
        env = gymnasium.make(TRUE, max_episode_steps=name)
        env.reset(seed=0)
        flags = [env.step(0)[3] for _ in range(steps)]
        assert flags == [False] * (steps - 1) + [True]


def test_a_spec_survives_json() -> None:
    spec = gymnasium.make(LEARNED, task="avoid", steps=2).spec
    again = EnvSpec.from_json(spec.to_json()).make().unwrapped
    assert again.world.steps == 2 and again.observation_space.shape == (2, 36, 36, 3)


def test_wrong_input_by_name_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="expected a task, reach, push, avoid, got 'pushh'"):
        gymnasium.make(LEARNED, task="pushh")
    with pytest.raises(ValueError, match="expected a run folder .*found no such folder"):
        gymnasium.make(LEARNED, run="runs/none")
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make(TRUE).step(0)
    with pytest.warns(UserWarning, match="HumanRendering"):
        env = gymnasium.make(TRUE, render_mode="human")
    assert env.unwrapped.render_mode == "rgb_array"


@pytest.mark.parametrize("name", registration.NAMES)
def test_a_batch_of_environments_plays_the_episodes_of_single_ones(name) -> None:
    """Rewards, ends, infos and resets are those of gymnasium's SyncVectorEnv."""
    draw, options = np.random.default_rng(0), {"task": "reach", "max_episode_steps": 6}
    batch, single = (
        gymnasium.make_vec(name, 3, mode, **options, **FAST[name])
        for mode in ("vector_entry_point", "sync")
    )
    assert isinstance(batch, WorldVectorEnv) and not isinstance(single, WorldVectorEnv)
    assert batch.observation_space == single.observation_space
    assert batch.action_space == single.action_space
    assert batch.metadata["autoreset_mode"] == single.metadata["autoreset_mode"]
    ends = np.zeros(3, int)
    _same(batch.reset(seed=3), single.reset(seed=3))
    for _ in range(12):
        actions = draw.integers(5, size=3)
        found = batch.step(actions)
        _same(found, single.step(actions))
        ends += found[2] | found[3]
    assert (ends >= 1).all()


def _same(found: tuple, expected: tuple) -> None:
    """Frames of the learned world may differ by rounding, all else is equal."""
    assert np.abs(found[0].astype(int) - expected[0]).max() <= 1
    assert found[0].dtype == expected[0].dtype
    for one, other in zip(found[1:-1], expected[1:-1], strict=True):
        assert one.dtype == other.dtype and (one == other).all()
    assert found[-1].keys() == expected[-1].keys() == {"why", "_why"}
    assert all((found[-1][key] == expected[-1][key]).all() for key in found[-1])


def test_processes_step_the_true_world() -> None:
    envs = gymnasium.make_vec(TRUE, 2, "async")
    frames, _ = envs.reset(seed=0)
    assert frames.shape == (2, 2, 36, 36, 3)
    assert envs.step(np.array([0, 1]))[1].tolist() == [0, 0]
    envs.close()


def test_wrong_input_of_a_batch_is_refused_before_any_step() -> None:
    envs = WorldVectorEnv(simulator.TrueWorld(), 2)
    with pytest.raises(RuntimeError, match="expected reset"):
        envs.step(np.array([0, 0]))
    envs.reset(seed=[1, None])
    with pytest.raises(ValueError, match="expected 2 actions, one a row, got .3,."):
        envs.step(np.zeros(3, int))
    with pytest.raises(ValueError, match="expected the number of an action"):
        envs.step(np.array([0, 5]))
    assert [env.steps for env in envs.envs] == [0, 0]
    with pytest.raises(ValueError, match="expected 2 seeds, got 1"):
        envs.reset(seed=[1])
    with pytest.raises(ValueError, match="expected 1 environment or more"):
        WorldVectorEnv(simulator.TrueWorld(), 0)
