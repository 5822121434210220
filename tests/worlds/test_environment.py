"""vidrl.worlds: true and learned worlds as Gymnasium environments, tasks, policies, agreement."""

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from vidrl.backbones.toy import Toy
from vidrl.backbones.world import World
from vidrl.synthetic import agents
from vidrl.synthetic.agents import State
from vidrl.worlds import agreement, policies, simulator, tasks
from vidrl.worlds.environment import WorldEnv
from vidrl.worlds.simulator import LearnedWorld, TrueWorld

NOTHING: frozenset = frozenset()
STATE = State((1, 1), (2, 1), (4, 1), frozenset({(1, 3)}), NOTHING)
GRID_ACTIONS = list(agents.ACTIONS)


def shown(state: State) -> torch.Tensor:
    return agents.render([state])[0]


def as_bytes(state: State) -> np.ndarray:
    return (shown(state) * 255).round().byte().permute(1, 2, 0).numpy()


def number(action: str) -> np.int64:
    return np.int64(GRID_ACTIONS.index(action))


@pytest.fixture(scope="module")
def learned() -> LearnedWorld:
    return simulator.load("assets/tiny-world", steps=2)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_true_world_passes_gymnasiums_check(task) -> None:
    check_env(WorldEnv(TrueWorld(), task, render_mode="rgb_array"))


def test_a_learned_world_passes_gymnasiums_check(learned) -> None:
    check_env(WorldEnv(learned, "push", render_mode="rgb_array"))


def test_an_episode_by_hand() -> None:
    env = WorldEnv(TrueWorld(), "push")
    frames, info = env.reset(options={"frame": as_bytes(STATE)})
    assert (frames == as_bytes(STATE)).all() and info == {"why": ""}
    frames, *rest = env.step(number("right"))
    assert rest == [0.0, False, False, {"why": ""}]
    assert frames.shape == env.observation_space.shape
    assert (frames[-1] == as_bytes(replace(STATE, agent=(2, 1), box=(3, 1)))).all()
    assert env.step(number("right"))[1:4] == (1.0, True, False)
    with pytest.raises(RuntimeError, match="expected reset"):
        env.step(number("right"))


def test_an_episode_is_truncated_at_its_limit() -> None:
    env = WorldEnv(TrueWorld(), "reach", limit=2)
    env.reset(options={"frame": as_bytes(STATE)})
    assert [env.step(number("stay"))[2:4] for _ in range(2)] == [(False, False), (False, True)]
    with pytest.raises(RuntimeError, match="expected reset"):
        env.step(number("stay"))


def test_a_hazard_ends_one_task_alone() -> None:
    on_hazard = shown(replace(STATE, agent=(1, 3)))
    assert tasks.task("avoid")(on_hazard) == tasks.Outcome(-1.0, True)
    assert tasks.task("reach")(on_hazard) == tasks.Outcome(0.0, False)
    assert tasks.task("push")(shown(replace(STATE, box=STATE.goal))) == (1.0, True, "")


def test_bad_input_is_refused_in_words() -> None:
    env = WorldEnv(TrueWorld())
    with pytest.raises(RuntimeError, match="expected reset"):
        env.step(number("left"))
    env.reset(seed=0)
    for action in (5, -1, "left", 1.5):
        with pytest.raises(ValueError, match="the number of an action, 0 stay, 1 left"):
            env.step(action)
    with pytest.raises(ValueError, match="expected a first frame .*got .32, 32, 3. in uint8"):
        env.reset(options={"frame": np.zeros((32, 32, 3), np.uint8)})
    with pytest.raises(ValueError, match="expected a first frame .*got .36, 36, 3. in float64"):
        env.reset(options={"frame": as_bytes(STATE) / 255})
    with pytest.raises(ValueError, match="expected the option frame of reset, got 'frames'"):
        env.reset(options={"frames": as_bytes(STATE)})
    with pytest.raises(ValueError, match="expected a world, .*got 'assets/tiny-world'"):
        WorldEnv("assets/tiny-world", "push")
    with pytest.raises(ValueError, match="expected a task, reach, push, avoid, got 3"):
        WorldEnv(TrueWorld(), 3)
    for limit in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="expected a limit of 1 or more"):
            WorldEnv(TrueWorld(), limit=limit)
    with pytest.raises(ValueError, match="expected a task, reach, push, avoid, got 'fly'"):
        WorldEnv(TrueWorld(), "fly")
    with pytest.raises(ValueError, match="expected start"):
        WorldEnv(TrueWorld(), lambda picture: tasks.Outcome(0, False))
    with pytest.raises(ValueError, match="render_mode.*gymnasium.make opens a window"):
        WorldEnv(TrueWorld(), render_mode="human")
    with pytest.raises(ValueError, match="expected an action of the world, .*got 'jump'"):
        TrueWorld().follow(shown(STATE)[None], ["jump"], [torch.Generator()])
    with pytest.raises(ValueError, match="expected frames .*resize"):
        TrueWorld().follow(torch.zeros(1, 3, 8, 8), ["left"], [torch.Generator()])
    with pytest.raises(ValueError, match="expected a frame of the true world"):
        TrueWorld().follow(torch.zeros(1, 3, 36, 36), ["left"], [torch.Generator()])
    with pytest.raises(ValueError, match="goes on from the image.*Toy, which reads no image"):
        LearnedWorld(Toy.tiny(), ["left"])
    with pytest.raises(ValueError, match="expected a start and a limit of 1 or more, got 0, 20"):
        agreement.play(TrueWorld(), policies.Planner("reach"), "reach", [])
    with pytest.raises(ValueError, match="expected a start and a limit of 1 or more, got 1, 0"):
        agreement.play(TrueWorld(), policies.Planner("reach"), "reach", [STATE], 0)
    for words in ([["left"]], [["left"], ["left", "up"]], [[], []]):
        with pytest.raises(ValueError, match="expected actions for each of 2 starts"):
            agreement.distances(TrueWorld(), [STATE] * 2, words)
    with pytest.raises(ValueError, match="expected slips in"):
        policies.Planner("reach", 1.5)


def test_a_named_task_needs_the_world_of_agents() -> None:
    """A world of another size is refused when the environment is made, not at its reset."""
    world = LearnedWorld(World(actions=1), ["stay", "left", "right"], steps=1)
    with pytest.raises(ValueError, match=r"'push' reads, got frames \(3, 12, 12\)"):
        WorldEnv(world, "push")


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (torch.zeros(3, 8, 8), r"of \(3, 36, 36\), got Tensor of .*8, 8.*resize"),
        (np.zeros((3, 36, 36)), "got ndarray of .*float64.*convert"),
        (torch.zeros(3, 36, 36, dtype=torch.uint8), "got Tensor of .*uint8.*convert"),
        (torch.full((3, 36, 36), 255.0), "divide by 255"),
        (None, "got NoneType"),
    ],
)
def test_starts_of_the_user_that_are_no_picture_are_refused(drawn, message) -> None:
    env = WorldEnv(TrueWorld(), start=lambda draw: drawn)
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0)


def test_a_task_of_the_user_that_returns_a_number_is_refused() -> None:
    env = WorldEnv(TrueWorld(), lambda picture: 1.0, start=lambda draw: shown(STATE))
    with pytest.raises(ValueError, match="expected a task that returns tasks.Outcome, got 1.0"):
        env.reset(seed=0)


def test_wrong_models_runs_and_steps_are_refused(tmp_path) -> None:
    for steps in (-1, 1.5, "8"):
        with pytest.raises(ValueError, match="expected 1 denoising step or more"):
            simulator.load(steps=steps)
    with pytest.raises(ValueError, match="expected a run folder .*found no such folder"):
        simulator.load(run=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="expected a model of worlds"):
        simulator.load(str(tmp_path))


def test_the_model_of_the_checkout_is_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert simulator.load().shape == (2, 3, 36, 36)


def test_a_picture_is_enlarged_for_people_alone() -> None:
    env = WorldEnv(TrueWorld(), render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="expected reset"):
        env.render()
    frames, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (288, 288, 3) and (picture[::8, ::8] == frames[-1]).all()
    # a step renders one picture of the two frames, of which the world makes four a second
    assert env.metadata["render_fps"] == 2
    blind = WorldEnv(TrueWorld())
    blind.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert blind.render() is None


def test_a_missing_gymnasium_names_the_extra() -> None:
    code = """
import importlib, sys
sys.modules["gymnasium"] = None
for name in ("environment", "vector", "registered"):
    try:
        importlib.import_module(f"vidrl.worlds.{name}")
    except ImportError as error:
        print(error)
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = made.stdout.splitlines()
    assert len(lines) == 3, made.stderr
    assert all("expected gymnasium" in line and "[world]" in line for line in lines)


def test_a_learned_world_repeats_with_its_seed(learned) -> None:
    env = WorldEnv(learned)
    runs = []
    for seed in (3, 3, 4):
        env.reset(seed=seed, options={"frame": as_bytes(STATE)})
        runs.append(env.step(number("left"))[0])
    assert (runs[0] == runs[1]).all() and not (runs[0] == runs[2]).all()


def test_a_row_of_a_learned_world_ignores_the_others(learned) -> None:
    frames = torch.stack([shown(STATE), shown(replace(STATE, agent=(4, 4)))])

    def draw(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    both = learned.follow(frames, ["left", "up"], [draw(0), draw(1)])
    alone = learned.follow(frames[1:], ["up"], [draw(1)])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)
    assert learned.follow(frames[:0], [], []).shape == (0, 2, 3, 36, 36)


def test_a_world_of_another_size_gets_its_own_starts() -> None:
    """A user's own world: other frames, other actions, and a task of its own."""
    world = LearnedWorld(World(actions=1), ["stay", "left", "right"], steps=1)
    env = WorldEnv(
        world,
        lambda picture: tasks.Outcome(float(picture.mean() > 2), False),
        start=lambda draw: torch.full((3, 12, 12), draw.random()),
        limit=1,
    )
    env.reset(seed=0)
    frames, reward, *_ = env.step(np.int64(2))
    assert frames.shape == (2, 12, 12, 3) and reward == 0


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_planner_succeeds_in_the_true_world(task) -> None:
    starts = [policies.start(task, random.Random(seed)) for seed in range(4)]
    played = agreement.play(TrueWorld(), policies.Planner(task), task, starts)
    assert played.reward.tolist() == [1] * 4
    shortest = [len(policies.plan(state, task)) for state in starts]
    assert played.length.tolist() == shortest and min(shortest) >= 3


def test_a_plan_by_hand() -> None:
    walled = replace(STATE, box=(2, 2), walls=frozenset({(2, 1), (3, 3)}))
    assert policies.plan(walled, "reach") == ("up", "right", "right", "right", "down")
    cornered = replace(STATE, box=(0, 0))
    assert policies.plan(cornered, "push") is None
    assert len(policies.plan(replace(STATE, hazards=frozenset({(3, 1)})), "avoid")) == 5


def test_slips_are_the_same_in_two_worlds() -> None:
    act = policies.Planner("reach", 0.5)
    choices = [[act(shown(STATE), draw) for _ in range(50)] for draw in map(random.Random, (0, 0))]
    assert choices[0] == choices[1] and len(set(choices[0])) > 2
    lost = act(torch.zeros(3, 36, 36), random.Random(0))
    assert lost in agents.ACTIONS


class Stuck(TrueWorld):
    """A world in which nothing happens."""

    def follow(self, frames, actions, draws):
        return super().follow(frames, ["stay"] * len(actions), draws)


def test_agreement_and_distance_by_hand() -> None:
    starts = [STATE, replace(STATE, agent=(3, 1), box=(2, 1))]
    act = policies.Planner("reach")
    truth, stuck = (
        agreement.play(world, act, "reach", starts, 5) for world in (TrueWorld(), Stuck())
    )
    assert truth.reward.tolist() == [1, 1] and truth.length.tolist() == [3, 1]
    assert stuck.reward.tolist() == [0, 0] and stuck.length.tolist() == [5, 5]
    assert agreement.agreement(stuck, truth).tolist() == [0, 0]
    assert agreement.agreement(truth, truth).tolist() == [1, 1]
    one = agreement.play(TrueWorld(), act, "reach", starts[:1], 5)
    with pytest.raises(ValueError, match="the same episodes in both worlds, got 1 and 2"):
        agreement.agreement(one, truth)
    same = [["left", "left", "stay"], ["right", "right", "up"]]
    found = agreement.distances(Stuck(), starts, same)
    expected = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 5**0.5]])
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)
    assert float(agreement.distances(TrueWorld(), starts, same).amax()) < 0.01
