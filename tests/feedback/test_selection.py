"""Which pair comes next: the information by hand, the share of random pairs, the checks."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from tests.feedback.clips_of_colour import write_clip
from vidrl.feedback.bradley_terry import TIE_STD
from vidrl.feedback.labelling import clip_sets, taste
from vidrl.feedback.labelling.clip_sets import Clip
from vidrl.feedback.selection import Past, Selection, Shares, gains, mutual_information, reserved
from vidrl.rewards.base import Score

PAIRS = ((0, 1), (0, 2), (1, 2))


def test_the_information_of_three_clips_without_an_answer_by_hand():
    # A prior of N(0, 1) for each clip: Var(θ_i − θ_j) = 2. At equal strength and τ = 0 the three
    # answers have probability 1/3, so the score of an answer, ±1/2 or 0, has variance 1/6.
    assert gains(PAIRS, ()) == pytest.approx([math.log1p(2 / 6) / 2] * 3)


def test_the_information_of_three_clips_after_one_tie_by_hand():
    # A tie leaves equal strengths, by symmetry, and τ at the root of 1 − p(τ) = τ / TIE_STD²,
    # where p = e^τ / (2 + e^τ). The answer's information about the gap is then (1 − p) / 4, and
    # the gap's posterior precision 1/2 + (1 − p) / 4; the gap to the third clip keeps half of
    # the variance of clip 0 around their common mean: (variance of the gap) / 4 + 1/2, plus 1.
    low, high = 0.0, 10.0
    for _ in range(100):
        tau = (low + high) / 2
        p = math.exp(tau) / (2 + math.exp(tau))
        low, high = (tau, high) if 1 - p > tau / TIE_STD**2 else (low, tau)
    about = (1 - p) / 4
    gap = 1 / (0.5 + about)
    other = gap / 4 + 0.5 + 1
    expected = [math.log1p(about * gap) / 2, math.log1p(about * other) / 2]
    found = gains(PAIRS, ((0, 1, 0),))
    assert found[:2] == pytest.approx(expected, rel=1e-6)
    assert found[2] == pytest.approx(found[1])


def test_the_pair_of_most_information_is_chosen():
    known = [Past("Bob", (0, 1), "informative", 1)] * 3
    selection = Selection((PAIRS,), Shares(0, 0, 0))
    picks = {selection.pick("Ann", known, (), random.Random(i)).item for i in range(20)}
    assert picks == {(0, 2), (1, 2)}  # the pair that was compared says least, the others are equal


def test_an_ensemble_that_disagrees_makes_a_pair_informative():
    disagreement = {(0, 1): 0.0, (0, 2): mutual_information([0.9, 0.1]), (1, 2): 0.0}
    selection = Selection((PAIRS,), Shares(0, 0, 0), disagreement=disagreement.get)
    assert selection.pick("Ann", [], (), random.Random(0)).item == (0, 2)
    # H(1/2) − H(0.9), in nats
    by_hand = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    assert disagreement[0, 2] == pytest.approx(by_hand)


def shown_to(selection, rater, draw, answer=lambda item: 1):
    """All items that a rater sees, in order."""
    past = []
    while pick := selection.pick(rater, past, (), draw):
        past.append(Past(rater, pick.item, pick.reason, answer(pick.item)))
    return past


def test_each_rater_sees_each_pair_once():
    groups = tuple(tuple((3 * g + a, 3 * g + b) for a, b in PAIRS) for g in range(5))
    past = shown_to(Selection(groups, Shares(0.2, 0, 0)), "Ann", random.Random(0))
    assert sorted(one.item for one in past) == sorted(item for group in groups for item in group)


def test_the_random_pairs_do_not_depend_on_answers():
    """Which pairs are random is fixed by rater and seed, so their average is unbiased."""
    groups = tuple(tuple((3 * g + a, 3 * g + b) for a, b in PAIRS) for g in range(40))
    drawn = []
    for answers in (lambda item: 1, lambda item: -1, lambda item: item[0] % 3 - 1):
        past = shown_to(
            Selection(groups, Shares(0.3, 0, 0), seed="s"), "Ann", random.Random(1), answers
        )
        drawn.append({one.item for one in past if one.reason == "random"})
    assert drawn[0] == drawn[1] == drawn[2]
    selection = Selection(groups, seed="s")
    expected = {i for group in groups for i in group if selection.drawn("Ann", i) < 0.3}
    assert drawn[0] == expected
    assert 120 * 0.3 - 3 * 5 < len(expected) < 120 * 0.3 + 3 * 5  # three standard deviations


def test_a_clip_that_is_added_changes_no_other_pair_that_is_set_apart():
    """The places of clips change with a new clip or another order of folders; the names do not."""
    names = [f"clips/{i}.mp4" for i in range(12)]
    found = []
    for order in (names, names[::-1], ["clips/00.mp4", *names]):
        pairs = tuple(itertools.combinations(range(len(order)), 2))
        selection = Selection((pairs,), names=tuple(order), seed="s")
        apart = {
            frozenset(order[place] for place in item)
            for item in pairs
            if selection.drawn("Ann", item) < 0.3
        }
        found.append({pair for pair in apart if pair <= {*names}})
    assert found[0] == found[1] == found[2] and len(found[0]) > 5
    assert reserved("Ann", ("a", "b"), "s") != reserved("Bob", ("a", "b"), "s")


def test_the_averages_of_random_pairs_are_those_of_all_pairs():
    """Over many raters, the share of hard pairs among the random ones is that among all."""
    groups = tuple((((2 * g), (2 * g + 1)),) for g in range(40))
    hard = {(2 * g, 2 * g + 1) for g in range(10)}
    selection = Selection(groups, Shares(0.2, 0, 0), seed="s")
    counts = Counter(
        one.item in hard
        for rater in map(str, range(60))
        for one in shown_to(selection, rater, random.Random(rater))[:20]
        if one.reason == "random"
    )
    share = counts[True] / counts.total()
    assert abs(share - 0.25) < 3 * math.sqrt(0.25 * 0.75 / counts.total())


def test_a_repeated_pair_has_its_sides_exchanged_and_comes_once():
    selection = Selection((PAIRS,), Shares(0, 0.5, 0))
    past = [Past("Ann", (1, 0), "informative", 1)] + [Past("Ann", (0, 2), "repeat", 1)] * 5
    picks = [selection.pick("Ann", past, (), random.Random(i)) for i in range(40)]
    repeats = [pick for pick in picks if pick.reason == "repeat"]
    assert {pick.item for pick in repeats} == {(0, 1)}
    assert 10 <= len(repeats) <= 30
    past.append(Past("Ann", (0, 1), "repeat", 1))
    assert all(
        selection.pick("Ann", past, (), random.Random(i)).reason != "repeat" for i in range(40)
    )


def test_each_gold_pair_comes_once_to_a_rater():
    selection = Selection((PAIRS,), Shares(0, 0, 0.5), gold=(0, 1))
    past = [Past("Ann", (1,), "gold", 1)]
    picks = [selection.pick("Ann", past, (), random.Random(i)) for i in range(40)]
    assert {pick.item for pick in picks if pick.reason == "gold"} == {(0,)}
    assert any(
        pick.reason == "gold" and pick.item == (1,)
        for pick in [selection.pick("Bob", past, (), random.Random(i)) for i in range(40)]
    )


def test_pairs_that_wait_for_others_come_last():
    selection = Selection((PAIRS,), Shares(0, 0, 0))
    for i in range(10):
        assert selection.pick("Ann", [], {(0, 1), (1, 2)}, random.Random(i)).item == (0, 2)
    assert selection.pick("Ann", [], set(PAIRS), random.Random(0)) is not None


def test_points_go_to_the_clip_with_the_fewest_answers():
    selection = Selection((((0,), (1,), (2,)),), Shares(0, 0, 0), pairs=False)
    past = [Past("Bob", (clip,), "random", 0) for clip in (0, 2, 2)]
    assert selection.pick("Ann", past, (), random.Random(0)).item == (1,)


@pytest.mark.parametrize("shares", [(1.5, 0, 0), (0.2, -0.1, 0), (0, 0.4, 0.4)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="expected"):
        Shares(*shares)


def test_a_fitted_reward_makes_the_pair_of_which_it_is_unsure_informative(tmp_path):
    """The information is an integral over the gap, here by a fine sum in place of quadrature."""
    for i in range(3):
        write_clip(tmp_path / f"{i}.mp4", i)
    clips = [Clip(tmp_path / f"{i}.mp4", "a dog", tmp_path) for i in range(3)]
    clips.append(Clip(tmp_path / "gone.mp4", "a dog", tmp_path))
    values, stds = iter([0.2, 0.2, 1.0]), iter([0.3, 0.4, 0.0])

    def reward(samples):
        std = Score(torch.tensor([next(stds)]))
        return Score(torch.tensor([next(values)]), parts={"uncertainty": std})

    unsure = taste.of_reward(reward, clips)
    gap = np.linspace(-5, 5, 20001) * 0.5  # hypot(0.3, 0.4) = 0.5; the gap of clips 0 and 1 is 0
    density = np.exp(-((gap / 0.5) ** 2) / 2)
    p = 1 / (1 + np.exp(-gap))
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    by_hand = math.log(2) - (density * entropy).sum() / density.sum()
    assert unsure((0, 1)) == pytest.approx(by_hand, rel=1e-4)
    assert unsure((0, 1)) > unsure((0, 2)) > 0
    assert unsure((0, 3)) == 0.0
    with pytest.raises(ValueError, match="vidrl fit"):
        taste.of_reward(lambda samples: Score(torch.tensor([0.0])), clips[:1])


def test_clips_of_one_text_and_different_pictures_are_not_compared(tmp_path):
    for folder in ("base", "ours"):
        (tmp_path / folder).mkdir()
        rows = ["path,prompt,reference"]
        for name, picture in (("0000", "cat.png"), ("0001", "dog.png")):
            (tmp_path / folder / f"{name}.mp4").write_bytes(b"")
            rows.append(f"{name}.mp4,it runs,/pictures/{picture}")
        (tmp_path / folder / "prompts.csv").write_text("\n".join(rows))
    found = clip_sets.read([tmp_path / "base", tmp_path / "ours"])
    names = [(found.clips[a].path.name, found.clips[b].path.name) for a, b in found.pairs]
    assert names == [("0000.mp4", "0000.mp4"), ("0001.mp4", "0001.mp4")]
    assert {clip.reference for clip in found.clips} == {"/pictures/cat.png", "/pictures/dog.png"}
