"""Sampling: each draw its own, however the batch is cut, and what an update needs is
kept."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vidrl.backbones.base import PromptCache
from vidrl.backbones.toy import Toy
from vidrl.diffusion import transition
from vidrl.diffusion.segments import pool
from vidrl.training.clips import generate
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, decoded, draws, join, sample, tree

TOY = Toy()
NAMES = [(0, 1, i) for i in range(5)]
PROMPTS = [f"prompt {i}" for i in range(5)]
PLAN = Plan(TOY.times(5), "dance_sde", 0.5, 3, stochastic=(0, 1, 3), keep=(1, 3))


def rolled(part=slice(None), plan=PLAN):
    return sample(TOY, TOY.encode(PROMPTS[part]), draws(0, NAMES[part]), plan)


# --- draws


def first(generator):
    return float(torch.randn(1, generator=generator))


def test_a_draw_is_named_by_seed_and_name_and_by_nothing_else():
    values = [
        first(g)
        for name in [(0, 1, 2), (0, 2, 1), (1, 1, 2), ("held out", 3)]
        for g in draws(0, [name])
    ]
    values += [first(g) for g in draws(1, [(0, 1, 2)])]
    assert len(set(values)) == 5
    torch.manual_seed(123)
    assert first(draws(0, [(9,), (0, 1, 2)])[1]) == values[0]


def test_draws_do_not_follow_each_other():
    a, b = (torch.randn(4000, generator=g) for g in draws(0, [(0,), (1,)]))
    assert abs(float((a * b).mean())) < 4 / 4000**0.5


# --- sample


def test_members_may_start_from_one_noise_and_differ_by_their_steps():
    plan = Plan(TOY.times(5), "dance_sde", 0.5, 1, (0,), (0,), forks=((0, 0),))
    members = [(0, 1, member) for member in range(5)]
    rollout = sample(TOY, TOY.encode(["x"] * 5), draws(0, members), plan, tree(plan, 0, members, 5))
    assert all(torch.equal(rollout.before[i], rollout.before[0]) for i in range(5))
    assert not torch.allclose(rollout.after[0, 0], rollout.after[1, 0], atol=1e-2)


TREE = Plan(TOY.times(5), "dance_sde", 0.5, 1, (0, 1, 2, 3), (0, 1, 2, 3), forks=((1, 2), (3, 2)))


def grown(members):
    names = [(0, prompt, member) for prompt, member in members]
    cond = TOY.encode([f"{prompt}" for prompt, _ in members])
    return sample(TOY, cond, draws(0, names), TREE, tree(TREE, 0, names, 4))


def test_siblings_share_every_step_before_they_part():
    """Of the tree of a group of four that forks at steps 1 and 3: who has the same state
    before each step."""
    made = grown([(7, 0), (7, 1), (7, 2), (7, 3)])
    same = [
        [
            [bool(torch.equal(made.before[i, k], made.before[j, k])) for j in range(4)]
            for i in range(4)
        ]
        for k in range(4)
    ]
    together = [[True] * 4] * 4
    pairs = [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2
    # a step's end differs first, so the state before the next
    assert same == [together, together, pairs, pairs]
    assert not torch.equal(made.latents[0], made.latents[1])


def test_a_tree_may_be_cut_anywhere():
    """A member is the same whoever is sampled with it, though what it shares is computed
    once."""
    members = [(3, 0), (3, 1), (3, 2), (3, 3), (4, 0), (4, 1), (4, 2), (4, 3)]
    whole, parts = grown(members), join([grown(members[:3]), grown(members[3:])])
    for name in ("latents", "before", "after", "log_density"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-5), name


def test_what_a_tree_shares_is_computed_once(monkeypatch):
    rows_asked, predict = [], Toy.predict
    monkeypatch.setattr(
        Toy,
        "predict",
        lambda self, x, t, cond: rows_asked.append(len(x)) or predict(self, x, t, cond),
    )
    grown([(7, 0), (7, 1), (7, 2), (7, 3)])
    assert rows_asked == [1, 2, 2, 4, 4]


def test_a_tree_of_another_size_than_the_group_is_refused():
    with pytest.raises(
        ValueError, match="expected train.group = 4, the product of the forks' children"
    ):
        tree(TREE, 0, [(0, 0, 0)], 8)


def test_a_batch_may_be_cut_anywhere():
    whole, parts = rolled(), join([rolled(slice(0, 2)), rolled(slice(2, 5))])
    for name in ("latents", "before", "after", "log_density"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-5), name
    assert torch.equal(whole.cond["text"], parts.cond["text"]) and len(parts) == 5


def test_a_member_is_the_same_whoever_its_neighbours_are():
    assert torch.allclose(rolled(slice(3, 4)).latents, rolled().latents[3:4], atol=1e-5)
    assert not torch.allclose(rolled().latents[0], rolled().latents[1], atol=1e-2)


def test_what_is_kept_is_the_chain_and_its_density():
    rollout = rolled(
        plan=Plan(TOY.times(5), "dance_sde", 0.5, 3, stochastic=(0, 1, 2), keep=(0, 1, 2))
    )
    assert rollout.before.shape == (5, 3, *TOY.shape) and rollout.log_density.shape == (5, 3, 3)
    # the end of a step begins the next
    assert torch.equal(rollout.after[:, :-1], rollout.before[:, 1:])
    start = TOY.noise(draws(0, NAMES))
    assert torch.equal(rollout.before[:, 0], start)
    for place, k in enumerate(rollout.plan.keep):
        with torch.no_grad():
            step = rollout.plan.step(TOY, rollout.before[:, place], k, rollout.cond)
        again = pool(transition.log_density(step, rollout.after[:, place]), 3)
        assert torch.allclose(again, rollout.log_density[:, place], atol=1e-5)
    assert not rollout.latents.requires_grad and rollout.latents.dtype == torch.float32


def test_the_noise_drawn_is_standard():
    plan = Plan(TOY.times(5), "dance_sde", 0.5, 1, stochastic=(1,), keep=(1,))
    names = [(i,) for i in range(400)]
    rollout = sample(TOY, TOY.encode(["x"] * 400), draws(0, names), plan)
    with torch.no_grad():
        step = plan.step(TOY, rollout.before[:, 0], 1, rollout.cond)
    z = (rollout.after[:, 0] - step.mean) / step.std
    assert abs(float(z.mean())) < 0.01 and abs(float(z.std()) - 1) < 0.01


def test_without_stochastic_steps_it_is_the_deterministic_sampler():
    plan = Plan(TOY.times(7))
    rollout = rolled(plan=plan)
    with torch.no_grad():
        expected = TOY.generate(TOY.noise(draws(0, NAMES)), TOY.encode(PROMPTS), steps=7)
    assert torch.allclose(rollout.latents, expected, atol=1e-5)
    assert rollout.log_density.shape[1] == 0 and len(join([rollout, rollout])) == 10


def test_a_policy_samples_under_the_weights_in_place():
    policy = Policy(Toy(), full=True)
    before = sample(policy, TOY.encode(PROMPTS), draws(0, NAMES), PLAN).latents
    policy.weights["out.bias"].data += 1
    assert not torch.allclose(
        sample(policy, TOY.encode(PROMPTS), draws(0, NAMES), PLAN).latents, before
    )
    with policy.using("reference"):
        assert torch.equal(
            sample(policy, TOY.encode(PROMPTS), draws(0, NAMES), PLAN).latents, before
        )


def test_clips_in_batches_are_those_of_one_batch():
    several = generate(TOY, PROMPTS, draws(0, NAMES), steps=3, batch=2)
    assert torch.allclose(
        several.video, generate(TOY, PROMPTS, draws(0, NAMES), steps=3).video, atol=1e-5
    )
    assert (
        several.video.shape == (5, 9, 3, 32, 32)
        and list(several.prompts) == PROMPTS
        and several.fps == TOY.fps
    )


# --- plans


def test_a_plan_that_cannot_be_is_told():
    with pytest.raises(ValueError, match="kept steps from 0 to 3"):
        Plan(TOY.times(4), stochastic=(0,), keep=(4,))
    with pytest.raises(ValueError, match="forks at rising steps from 0 to 3"):
        Plan(TOY.times(4), forks=((2, 2), (0, 2)))
    with pytest.raises(
        ValueError, match="stochastic steps below 3: the step to 0 is deterministic"
    ):
        Plan(TOY.times(4), stochastic=(3,))
    with pytest.raises(ValueError, match="stochastic steps below"):
        Plan(TOY.times(4), stochastic=(-1,))
    with pytest.raises(ValueError, match="1 to 3 segments"):
        rolled(plan=Plan(TOY.times(4), segments=4, stochastic=(0,), keep=(0,)))


# --- prompts


class Counting(Toy):
    """Counts what it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def encode(self, prompts):
        self.asked.append(list(prompts))
        return super().encode(prompts)


def test_a_prompt_is_encoded_once_and_alone_so_that_a_resumed_run_gets_the_same_bits():
    backbone = Counting()
    cache = PromptCache(backbone)
    cache.learn(["b", "a", "b"])
    assert backbone.asked == [["b"], ["a"]]
    made = cache(["a", "b", "a"])
    cache(["b", "c"])
    assert backbone.asked == [["b"], ["a"], ["c"]]
    assert torch.equal(made["text"], TOY.encode(["a", "b", "a"])["text"])


class Guided(Counting):
    """Conditions of 400 bytes a prompt, and a negative one that is the same for all, new in
    each call."""

    def encode(self, prompts):
        self.asked.append(list(prompts))
        text = torch.stack([torch.full((100,), float(ord(prompt[0]))) for prompt in prompts])
        return {"text": text, "negative": torch.full((len(prompts), 100), 7.0)}


def storages(cache):
    return {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for cond in cache.kept.values()
        for value in cond.values()
    }


def test_what_all_prompts_share_is_kept_once_and_given_out_whole():
    cache = PromptCache(Guided())
    made = cache(["a", "b", "c", "a"])
    assert len(storages(cache)) == 4 and cache.bytes == sum(storages(cache).values()) == 4 * 400
    assert made["negative"].shape == (4, 100) and bool((made["negative"] == 7).all())
    assert made["text"][:, 0].tolist() == [97, 98, 99, 97]
    assert cache(["b"])["negative"].shape == (1, 100)


def test_the_cache_is_bounded_by_bytes_and_the_least_recently_used_prompt_goes():
    backbone = Guided()
    # the shared tensor, the first prompt's, and those of three prompts
    cache = PromptCache(backbone, limit=5 * 400)
    prompts = "abcdefgh"
    for prompt in prompts:
        cache([prompt])
        assert cache.bytes <= 5 * 400 and sum(storages(cache).values()) <= cache.bytes
    assert list(cache.kept)[-3:] == ["f", "g", "h"]
    cache(["f"])
    cache(["z"])
    assert "f" in cache.kept and "g" not in cache.kept
    many = [*prompts] * 2
    made = cache(many)  # more than it can keep: all are given out none the less
    assert made["text"][:, 0].tolist() == [float(ord(prompt)) for prompt in many]
    small = PromptCache(Guided(), limit=1)
    assert small(["a", "b"])["text"].shape == (2, 100) and not small.kept


def test_learning_stops_where_the_cache_is_full_instead_of_pushing_out_what_it_learnt():
    backbone = Guided()
    cache = PromptCache(backbone, limit=5 * 400)
    cache(["x"])
    cache.learn("abcdefgh")
    learnt = len(backbone.asked) - 1
    assert 2 <= learnt <= 4 and list(cache.kept)[-learnt:] == list("abcdefgh")[:learnt]


class Full(Toy):
    def encode(self, prompts):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_prompt_that_cannot_be_encoded_for_lack_of_memory_is_told():
    cache = PromptCache(Full())
    cache.learn(["a"])  # whoever asks for the prompt is told
    with pytest.raises(
        torch.OutOfMemoryError,
        match='encoding one prompt alone does not fit .*text_encoder = "offload"',
    ):
        cache(["a"])


class Stacked(TorchDispatchMode):
    """Counts the numbers that are put together into one tensor."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.numbers += made.numel() if func is torch.ops.aten.stack.default else 0
        return made


def test_means_take_memory_only_where_a_plan_asks_for_them():
    counts = []
    for means in (False, True):
        with Stacked() as seen:
            made = rolled(plan=replace(PLAN, means=means))
        counts.append(seen.numbers)
    assert made.mean.shape == made.before.shape
    assert counts[1] - counts[0] == made.mean.numel()


def test_clips_that_do_not_fit_the_frame_map_are_refused_by_its_name():
    toy = Toy()
    toy.frame_map = toy.frame_map[:-1]
    with pytest.raises(ValueError, match="end of the backbone's frame_map, got 9 from decode"):
        decoded(toy, torch.zeros(1, *toy.shape), ["a cat"])
