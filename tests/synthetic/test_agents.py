"""vidrl.synthetic.agents, agent_verifier and action_fit: a world of actions whose truth is known."""

import random
from dataclasses import replace
from itertools import islice

import pytest
import torch

from vidrl.data import picture, prompts
from vidrl.data.prompt import Prompt
from vidrl.rewards import Samples
from vidrl.synthetic import action_fit, agent_verifier, agents, corruptions
from vidrl.synthetic.action_fit import ActionFit
from vidrl.synthetic.agent_verifier import ActionVerifier
from vidrl.synthetic.agents import State

NOTHING: frozenset = frozenset()
# . . . . . .
# . A B . # .      agent (1, 1), box (2, 1), wall (4, 1)
STATE = State((1, 1), (2, 1), (5, 5), frozenset({(0, 5)}), frozenset({(4, 1), (1, 0)}))


@pytest.mark.parametrize(
    ("actions", "agent", "box"),
    [
        ("stay", (1, 1), (2, 1)),
        ("left", (0, 1), (2, 1)),
        ("left left", (0, 1), (2, 1)),  # the edge
        ("up", (1, 1), (2, 1)),  # a wall
        ("down", (1, 2), (2, 1)),
        ("right", (2, 1), (3, 1)),  # a push
        ("right right", (2, 1), (3, 1)),  # a wall stops the box, and so the agent
        ("down right up", (2, 1), (2, 0)),
        ("down right up up", (2, 1), (2, 0)),  # the edge stops the box
    ],
)
def test_the_rules_by_hand(actions, agent, box) -> None:
    last = agents.states(STATE, actions.split())[-1]
    assert last == replace(STATE, agent=agent, box=box)


def test_unknown_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected actions of the world, stay, .*got 'jump'"):
        agents.follow(STATE, "jump")


def test_pixels_by_hand() -> None:
    """Cells are 6 pixels; the agent moves by 3 pixels a frame."""
    video = agents.render(agents.states(STATE, ["left"]))
    assert video.shape == (3, 3, 36, 36) and video.amin() >= 0 and video.amax() <= 1
    red = (video[:, 0] > 0.8) & (video[:, 1] < 0.3)
    columns = [frame.nonzero()[:, 1].float().mean().item() for frame in red]
    assert columns == pytest.approx([8.5, 5.5, 2.5])
    assert torch.equal(video[0, :, 6, 24], torch.full((3,), agents.WALL))
    assert torch.equal(video[0, :, 18, 18], torch.full((3,), agents.FLOOR))
    # the goal is a frame of one pixel around the last cell
    green = (video[0, 1] > 0.7) & (video[0, 0] < 0.2)
    assert int(green.sum()) == 20 and bool(green[30, 30]) and not bool(green[31, 31])


def test_splits_share_no_state() -> None:
    train = {agents.start(seed) for seed in range(200)}
    held = {agents.start(seed, held_out=True) for seed in range(200)}
    assert train.isdisjoint(held) and len(train) == len(held) == 200
    for state in train | held:
        things = [state.agent, state.box, state.goal, *state.hazards, *state.walls]
        assert len(set(things)) == 3 + agents.HAZARDS + agents.WALLS


def test_pushes_by_hand() -> None:
    # the wall at (4, 1) stops the second push
    found = agents.states(STATE, ["right", "right", "left"])
    assert agents.pushes(found) == [True, False, False]
    away = replace(STATE, agent=(5, 0))
    with pytest.raises(ValueError, match="expected a state in which an action pushes the box"):
        agents.pushing_actions(away, 4, random.Random(0))


def test_states_and_actions_that_push() -> None:
    for seed in range(50):
        held_out = seed % 2 == 1
        state = agents.pushing_start(seed, held_out)
        assert state == agents.pushing_start(seed, held_out)
        assert sum(any(agents.pushes(agents.states(state, [word]))) for word in agents.ACTIONS) == 1
        words = agents.pushing_actions(state, 4, random.Random(seed))
        assert len(words) == 4 and any(agents.pushes(agents.states(state, words)))
    train, held = ({agents.pushing_start(seed, h) for seed in range(100)} for h in (False, True))
    assert train.isdisjoint(held) and len(train) == len(held) == 100


def test_the_corpus_has_faults_at_their_rates() -> None:
    pairs = [
        (agents.follow(before, word), after)
        for words, found in islice(agents.corpus(0, 4), 500)
        for word, before, after in zip(words, found[:-1], found[1:], strict=True)
    ]
    wrong = sum(a != b for a, b in pairs) / len(pairs)
    assert 0.15 < wrong < 0.25
    assert sum(a.box != b.box for a, b in pairs) / len(pairs) > 0.05


def test_faults_one_by_one(monkeypatch) -> None:
    def after(name: str, action: str) -> set[State]:
        monkeypatch.setattr(agents, "FAULTS", dict.fromkeys(agents.FAULTS, 0.0) | {name: 1.0})
        return {agents.faulty(STATE, action, random.Random(seed)) for seed in range(40)}

    assert agents.follow(STATE, "left") not in after("ignores", "left")
    assert after("passes", "up") == {replace(STATE, agent=(1, 0))}  # through a wall
    assert after("passes", "right") == {replace(STATE, agent=(2, 1))}  # over the box
    assert {s.box for s in after("drifts", "stay")} == {(2, 1), (2, 0), (2, 2), (3, 1)}


def test_a_picture_is_read_back() -> None:
    for seed in range(60):
        state = agents.start(seed)
        words = agents.random_actions(3, random.Random(seed))
        video = agents.render(agents.states(state, words))
        noisy = (video + 0.04 * torch.randn(video.shape)).clamp(0, 1)
        for k, expected in enumerate(agents.states(state, words)):
            assert agent_verifier.read(video[agents.FRAMES * k]).state == expected
            assert agent_verifier.read(noisy[agents.FRAMES * k]).state == expected


def test_what_is_no_state_is_not_read() -> None:
    frames = agents.render(agents.states(STATE, ["left"]))
    assert agent_verifier.read(frames[1]).why.endswith("shows no known content")  # between cells
    bare = agents.ground(STATE)
    assert agent_verifier.read(bare).why == "0 cells show the agent"
    with pytest.raises(ValueError, match=r"expected a picture \(3, 36, 36\).*got \(3, 32, 32\)"):
        agent_verifier.read(torch.zeros(3, 32, 32))


@pytest.fixture(scope="module")
def asked() -> list[str]:
    return prompts.read("assets/prompts/agents_held_out.jsonl")[:24]


def true_clips(asked: list[str]) -> torch.Tensor:
    return torch.stack([agents.render(agent_verifier.wanted(prompt)) for prompt in asked])


def test_the_true_world_scores_highest_and_each_fault_lower(asked) -> None:
    samples = Samples(true_clips(asked), asked, agents.FPS)
    fit, judge = ActionFit()(samples), ActionVerifier()(samples)
    assert bool((fit.value > 0.85).all()) and bool((judge.value == 1).all())
    for reward, best in ((ActionFit(), fit), (ActionVerifier(), judge)):
        for fault in reward.lowered_by:
            worse = [corruptions.corrupt(clip, fault, seed=0) for clip in samples.video]
            found = reward(Samples(torch.stack(worse), asked, agents.FPS)).value
            assert bool((found <= best.value + 0.01).all()), (reward, fault)
            # clips that are the same in both directions keep their score
            assert float(found.mean()) < float(best.value.mean()) - 0.2, (reward, fault)


def made(folder, actions: str, states: list[State]) -> Samples:
    """A clip of states under a prompt of actions whose image is the first state."""
    picture.write(folder / "a.png", agents.render(states[:1])[0])
    prompt = Prompt(actions, {"image": folder / "a.png"})
    return Samples(agents.render(states)[None], [prompt], agents.FPS)


def test_scores_by_hand(tmp_path) -> None:
    """The agent stands where it should go left twice: each of 4 steps misses half a cell."""
    away = replace(STATE, agent=(3, 3))
    still = made(tmp_path, "left left", [away] * 3)
    expected = float(torch.tensor(-0.5 / action_fit.WIDTH).exp())
    assert float(ActionFit()(still).value) == pytest.approx(expected, rel=0.02)
    assert float(ActionVerifier()(still).value) == 0
    # the first action is right, the second one is not
    half = made(tmp_path, "left left", [away, replace(away, agent=(2, 3))] * 1 + [STATE])
    assert ActionVerifier()(half).frames.tolist() == [[0.5, 1, 1, 0, 0]]
    walks = made(tmp_path, "up", [STATE, replace(STATE, agent=(1, 0))])  # a wall is there
    assert float(ActionFit()(walks).value) < 0.2 and float(ActionVerifier()(walks).value) == 0


def test_what_cannot_be_scored_says_why(asked) -> None:
    clips = true_clips(asked[:1])
    for prompt in ("left left left left", Prompt(asked[0].replace("stay", "jump") + " jump")):
        for reward in (ActionFit(), ActionVerifier()):
            found = reward(Samples(clips, [prompt], agents.FPS))
            assert found.value.isnan().all() and "prompts of actions" in str(found.why[0])
    short = Samples(clips[:, :5].clone(), asked[:1], agents.FPS)  # two actions of four
    assert ActionFit()(short).value.isnan().all() and ActionVerifier()(short).value.isnan().all()
    other = Samples(torch.rand(1, 9, 3, 24, 24), asked[:1], agents.FPS)
    assert ActionFit()(other).value.isnan().all() and ActionVerifier()(other).value.isnan().all()


def test_the_reward_has_a_gradient_that_moves_the_agent(tmp_path) -> None:
    samples = made(tmp_path, "left", [replace(STATE, agent=(3, 3))] * 2)
    video = samples.video.clone().requires_grad_()
    value = ActionFit()(Samples(video, samples.prompts, agents.FPS)).value.sum()
    (slope,) = torch.autograd.grad(value, video)
    assert bool(slope.isfinite().all())
    # red at the left of the agent in the last frame raises the reward, red at its right lowers it
    row = 3 * agents.CELL + 3
    red = slope[0, -1, 0, row]
    assert float(red[19]) > 0 > float(red[22])


def test_scores_depend_on_neighbouring_frames_alone(asked) -> None:
    clips = true_clips(asked[:2])
    changed = clips.clone()
    changed[:, 6] = 0.5
    before, after = (
        ActionFit()(Samples(video, asked[:2], agents.FPS)).frames for video in (clips, changed)
    )
    differs = (before - after).abs().amax(0) > 1e-6
    # the first and the last frame, which have one neighbour, make up for it by the clip's mean
    assert differs[1:8].tolist() == [False] * 4 + [True] * 3
