"""Clips of several chunks: sampled one after the other, learned from one at a time."""

from dataclasses import replace

import pytest
import torch

from vidrl import config
from vidrl.algorithms.base import Experience
from vidrl.algorithms.branch import Branch
from vidrl.algorithms.grpo import GRPO
from vidrl.algorithms.nft import NFT
from vidrl.algorithms.reward_backprop import RewardBackprop
from vidrl.backbones.base import SharedCond, rows
from vidrl.backbones.long import Long
from vidrl.credit import influence
from vidrl.diffusion import transition
from vidrl.rewards import Score, load
from vidrl.rewards._scoring.plain import as_reward
from vidrl.training import rollout
from vidrl.training.assembly import Options
from vidrl.training.chunks import columns, sample, segments_of_chunk, split
from vidrl.training.clips import generate
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, draws, tree

STEPS = {"sampler": "cps", "eta": 0.3, "stochastic": (0, 1), "keep": (0, 1)}


@pytest.fixture(scope="module")
def long():
    return Long.tiny()


def plan_of(long, **options):
    return Plan(long.times(3), chunks=long.chunks, **{**STEPS, **options})


def sampled(long, plan, prompts=("a", "b")):
    return sample(long, long.encode(prompts), draws(0, [(p,) for p in prompts]), plan)


def test_a_chunk_is_denoised_under_the_finished_one_before(long):
    """By hand: chunk 0 alone, then chunk 1 with the last latent frame of chunk 0 at time 0."""
    plan = plan_of(long, stochastic=(), keep=())
    made = sampled(long, plan, ["a"]).latents
    noise = draws(0, [("a",)])[0]
    text, network = long.encode(["a"])["text"], long.network
    done = []
    for _ in range(2):
        x = torch.randn(1, 4, 2, 2, 2, generator=noise)
        for t, s in zip(plan.times, plan.times[1:], strict=False):
            seen = torch.cat([*done[-1:], x], 2)
            given = seen.shape[2] - 2
            time = torch.full((1, 4 * seen.shape[2]), 1000 * t)  # 4 tokens a latent frame
            time[:, : 4 * given] = 0
            with torch.no_grad():
                raw = network(seen, time, text, return_dict=False)[0][:, :, given:]
            x = x + (s - t) * raw
        done.append(x[:, :, -1:])
        assert torch.allclose(made[:, :, 2 * len(done) - 2 : 2 * len(done)], x, atol=1e-5)


def test_later_noise_leaves_earlier_chunks_alone_and_earlier_noise_reaches_later_ones(long):
    cond = long.encode(["a", "a"])
    first = long.noise(draws(0, [(0,)]))
    other = first.clone()
    other[:, :, 2:] = 0
    with torch.no_grad():
        made = long.generate(torch.cat([first, other]), cond, steps=2)
        moved = long.generate(torch.cat([first, 0.5 * first]), cond, steps=2)
    assert torch.equal(made[0, :, :2], made[1, :, :2])
    assert not torch.allclose(made[0, :, 2:], made[1, :, 2:])
    same_late = first.clone()
    same_late[:, :, :2] *= 0.5
    with torch.no_grad():
        late = long.generate(same_late, rows(cond, slice(0, 1)), steps=2)
    assert not torch.allclose(late[0, :, 2:], moved[0, :, 2:], atol=1e-4)


def test_clips_have_all_frames(long):
    clips = generate(long, ["a"], draws(0, [("a",)]), steps=2)
    assert clips.video.shape == (1, 13, 3, 16, 16)


def test_log_densities_of_chunks_are_those_of_their_steps(long):
    made = sampled(long, plan_of(long, segments=2))
    assert made.log_density.shape == (2, 2, 2)  # clips, steps, chunks
    chunks = split(made, long)
    assert chunks.log_density.shape == (4, 2, 1) and chunks.latents.shape == (4, 4, 2, 2, 2)
    assert torch.equal(chunks.log_density[:, :, 0].view(2, 2, 2).permute(1, 2, 0), made.log_density)
    assert chunks.cond["follows"].tolist() == [0, 0, 1, 1]
    assert torch.equal(chunks.cond["history"][2:], made.latents[:, :, 1:2])
    for k in (0, 1):
        step = chunks.plan.step(long, chunks.before[:, k], k, chunks.cond)
        again = transition.log_density(step, chunks.after[:, k]).flatten(1).mean(1)
        assert torch.allclose(again, chunks.log_density[:, k, 0], atol=1e-4)


def test_one_chunk_is_the_base_itself():
    base = Long.tiny().base
    one = Long(base.pipe, chunks=1, options=SIZE)
    plan = Plan(base.times(3), **STEPS)
    alone, made = (sampled(model, plan) for model in (base, one))
    assert torch.equal(alone.latents, made.latents)
    assert torch.equal(alone.log_density, made.log_density)


SIZE = {"height": 16, "width": 16, "frames": 5, "fps": 8.0, "text_length": 16}


def test_a_fork_in_a_later_chunk_shares_the_chunks_before(long):
    plan = plan_of(long, forks=((3, 2),), segments=2)  # step 0 of chunk 1
    names = [(0, 0, member) for member in range(2)]
    levels, own = tree(plan, 0, names, 2), draws(0, names)
    made = sample(long, long.encode(["a", "a"]), own, plan, levels)
    assert torch.equal(made.latents[0, :, :2], made.latents[1, :, :2])
    assert not torch.allclose(made.latents[0, :, 2:], made.latents[1, :, 2:])
    again = split(made, long)
    step = again.plan.step(long, again.before[:, 1], 1, again.cond)
    logs = transition.log_density(step, again.after[:, 1]).flatten(1).mean(1)
    assert torch.allclose(logs, again.log_density[:, 1, 0], atol=1e-4)


def test_a_tree_that_forks_at_a_chunk_credits_no_shared_chunk():
    long = Long.tiny()
    algorithm = Branch(sampler="cps", steps=3, segments=2, at=[1], factors=[2], scale="none")
    algorithm.setup(Policy(long, rank=2), _light, 2)
    plan = algorithm.plan(long, 0, torch.Generator().manual_seed(0))
    assert plan.forks == ((3, 2),)
    curve = torch.zeros(2, 13)
    curve[0, 5:] = 1.0  # only chunk 1 of clip 0 is bright
    score = Score(curve.mean(1), curve)
    found = algorithm.advantages(score, torch.tensor([0, 0]), ["a", "a"], plan)
    assert bool((found[..., 0] == 0).all())
    assert bool((found[0, :, 1] > 0).all() and (found[1, :, 1] < 0).all())
    merged, trained = algorithm.merge_rows(torch.cat(columns(found, 2)), plan)
    assert trained.view(2, 2, -1).any(2).tolist() == [[False, False], [True, True]]
    assert torch.equal(merged[2:], found[..., 1:])


def _light(samples):
    return samples.frames.mean((2, 3, 4))


def test_rows_of_chunks_belong_to_the_groups_of_their_place(long):
    made = sampled(long, plan_of(long, segments=2))
    advantage = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    group, index = torch.tensor([0, 0]), torch.tensor([0, 1])
    found = Experience(made, advantage, group, ["a", "b"], index, 0, 0).by_chunk(long)
    assert found.advantage.flatten().tolist() == [1, 3, 2, 4]
    assert found.group.tolist() == [0, 0, 1, 1] and found.index.tolist() == [0, 1, 2, 3]
    assert found.prompts == ["a", "b", "a", "b"] and len(found.rollout) == 4


def test_shared_conditions_stay_shared(long):
    made = sampled(long, plan_of(long))
    table = long.encode(["a"])
    shared = SharedCond(table, torch.tensor([0, 0]))
    found = split(rollout.join([made], shared), long).cond
    assert isinstance(found, SharedCond) and len(found.table["text"]) == 1
    assert found["text"].shape[0] == len(found["history"]) == 4
    assert rows(found, torch.tensor([3]))["follows"].tolist() == [1]


def test_first_and_later_chunks_of_one_batch_are_predicted_as_alone(long):
    made = split(sampled(long, plan_of(long)), long)
    order = torch.tensor([2, 0, 3, 1])
    x, t = made.before[:, 0], torch.tensor([0.9, 0.3, 0.5, 0.7])
    with torch.no_grad():
        together = long.predict(x[order], t[order], rows(made.cond, order))
        for place, i in enumerate(order.tolist()):
            one = torch.tensor([i])
            alone = long.predict(x[one], t[one], rows(made.cond, one))
            assert torch.allclose(together[place], alone[0], atol=1e-5)


@pytest.mark.parametrize("segments, chunks, own", [(1, 4, 1), (2, 4, 1), (4, 4, 1), (8, 4, 2)])
def test_segments_of_a_chunk(segments, chunks, own):
    assert segments_of_chunk(segments, chunks) == own


def test_segments_across_chunks_are_refused():
    with pytest.raises(ValueError, match="multiple or a divisor of 4, .* got 3"):
        segments_of_chunk(3, 4)


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda: GRPO(
            sampler="cps", steps=3, segments=2, discount=0.9, scale="batch", same_start=True
        ),
        lambda: GRPO(sampler="cps", steps=3, segments=1),
        lambda: Branch(
            sampler="cps", steps=3, segments=2, at=[0, 1], factors=[2, 2], scale="batch"
        ),
        lambda: NFT(steps=3, segments=2, scale="batch"),
    ],
    ids=["grpo", "whole", "branch", "nft"],
)
def test_a_round_on_chunks_moves_the_weights(tmp_path, algorithm):
    policy = Policy(Long.tiny(), rank=2, alpha=2)
    trainer = Trainer.from_objects(
        policy=policy,
        algorithm=algorithm(),
        reward=_light,
        prompts=["a cat", "a dog"],
        held_out=["a cow"],
        folder=tmp_path,
        options=Options(rounds=1, prompts_per_round=1, group=4, eval_steps=1, learning_rate=1e-2),
    )
    before = policy.checksum()
    trainer.go()  # raises where the ratio before the first update is not 1
    assert policy.checksum() != before


@pytest.mark.parametrize(
    "algorithm, told",
    [
        (lambda: RewardBackprop(steps=3), "one piece for a gradient of the reward, got Long"),
        (lambda: GRPO(steps=3, segments=2, credit="gls", scale="batch"), 'for credit = "gls"'),
        (lambda: Branch(steps=3, segments=1), "multiple of the 2 chunks"),
    ],
)
def test_what_knows_no_chunks_is_refused(algorithm, told):
    with pytest.raises(ValueError, match=told):
        algorithm().setup(Policy(Long.tiny(), rank=2), load("drift"), 2)


def test_influence_is_refused(long):
    with pytest.raises(ValueError, match="one piece for a measured influence"):
        influence.measure(long, as_reward(_light), plan_of(long), ["a"])


def test_an_estimate_of_cost_is_refused():
    from vidrl import cost

    recipe = config.load("scripts/recipes/tiny_long.toml")
    told = "one piece for an estimate of cost, got long with 3"
    with pytest.raises(ValueError, match=told):
        cost.estimate(recipe)
    unread = replace(recipe.backbone, options={"model": "an/unread-model", "chunks": 3})
    with pytest.raises(ValueError, match=told):
        cost.estimate(replace(recipe, backbone=unread))
