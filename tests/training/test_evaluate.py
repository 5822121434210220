"""What is measured on held-out prompts, how two evaluations are compared, and when a guard
speaks."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from toys import Brightness, Picky

from vidrl.backbones.base import PromptCache
from vidrl.backbones.toy import Toy
from vidrl.rewards import Composite, Samples
from vidrl.synthetic import world
from vidrl.training import evaluate
from vidrl.training.held_out import GROUP_PAIRS, HeldOut
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers


def samples(prompts=("a cat", "a dog", "a cow"), frames=5) -> Samples:
    torch.manual_seed(1)
    return Samples(torch.rand(len(prompts), frames, 3, 16, 16), list(prompts), 8.0)


# --- scores


def test_an_exception_leaves_its_own_clip_alone_unscored():
    clips = samples()
    score = evaluate.score_each(Picky(how="raise"), clips)
    assert math.isnan(score.value[0]) and bool(score.frames[0].isnan().all())
    assert torch.equal(score.value[1:], Brightness()(clips).value[1:])
    assert (
        "ArithmeticError" in score.why[0]
        and "no cat" in score.why[0]
        and score.why[1:] == [None, None]
    )


def test_so_it_is_in_a_composite_with_its_parts():
    clips = samples()
    reward = Composite(
        {"light": Brightness(), "picky": Picky(how="raise")}, {"light": 1.0, "picky": 1.0}
    )
    score = evaluate.score_each(reward, clips)
    assert math.isnan(score.value[0]) and bool(score.value[1:].isfinite().all())
    assert set(score.parts) == {"light", "picky"} and len(score.parts["light"].value) == 3


def test_infinity_leaves_its_own_clip_unscored():
    class Endless(Brightness):
        def forward(self, samples):
            score = super().forward(samples)
            score.value[0], score.frames[1, 2] = float("inf"), float("-inf")
            return score

    score = evaluate.score_each(Endless(), samples(("a", "b", "c", "d")))
    assert score.value.isnan().tolist() == [True, True, False, False]
    assert (
        score.why[0] == score.why[1] == "unscored: the reward gave infinity"
        and not score.frames.isinf().any()
    )


def test_a_reward_that_fails_on_every_clip_is_an_error_with_its_reason():
    with pytest.raises(RuntimeError, match="failed on all of 2 clips.*no cat"):
        evaluate.score_each(Picky(how="raise"), samples(("a cat", "a cat")))


# --- measures


def test_exposure_by_hand():
    video = torch.zeros(1, 2, 3, 2, 2)
    video[:, 0] = 1.0
    assert float(evaluate.exposure(video)) == pytest.approx(0.5)
    green = torch.zeros(1, 1, 3, 2, 2)
    green[:, :, 1] = 1.0
    assert float(evaluate.exposure(green)) == pytest.approx(0.587)


def test_diversity_by_hand():
    group = torch.tensor([0, 1, 0, 1, 2])
    video = torch.tensor([0.0, 0.5, 0.2, 0.5, 0.9]).view(5, 1, 1, 1, 1).expand(5, 2, 3, 4, 4)
    assert evaluate.diversity(video, group)[:2].tolist() == pytest.approx([0.2, 0.0])
    # a group of one has nobody to differ from
    assert math.isnan(evaluate.diversity(video, group)[2])
    small = evaluate.diversity(evaluate.thumbnails(video, side=2), group)
    assert small[:2].tolist() == pytest.approx([0.2, 0.0])


def test_thumbnails_keep_the_mean_and_lose_the_noise():
    clips = samples(frames=3).video
    made = evaluate.thumbnails(clips, side=4)
    assert made.shape == (3, 3 * 3 * 16) and torch.allclose(
        made.mean(1), clips.flatten(1).mean(1), atol=1e-6
    )
    assert float(made.std()) < 0.5 * float(clips.std())


def test_the_verifier_reads_captions_and_only_captions():
    scenes = world.scenes("held_out", 4, seed=0)
    clips = [world.render(scene, size=32, frames=9) for scene in scenes]
    truth = Samples(torch.stack([c.video for c in clips]), [c.caption for c in clips], clips[0].fps)
    assert evaluate.are_captions(truth.prompts) and not evaluate.are_captions(
        [*truth.prompts, "a cat"]
    )
    found = evaluate.measure(Brightness()(truth), truth, captions=True)
    assert {"composite", "exposure", "unscored_share", "verifier", "verifier_motion"} <= set(found)
    assert found["verifier_colour"].mean() >= 0.75
    assert "verifier" not in evaluate.measure(Brightness()(truth), truth, captions=False)


def test_means_leave_out_what_is_unscored():
    found = evaluate.means({"a": np.array([1.0, np.nan, 3.0]), "b": np.array([np.nan, np.nan])})
    assert found["a"] == {"mean": 2.0, "n_scored": 2}
    assert math.isnan(found["b"]["mean"]) and found["b"]["n_scored"] == 0


def test_numbers_come_back_from_the_disk(tmp_path):
    measures = {"a": np.array([1.0, np.nan]), "b": np.array([0.1, 0.2])}
    evaluate.save(tmp_path / "evals", 7, measures)
    again = evaluate.load(tmp_path / "evals", 7)
    assert all(np.array_equal(measures[k], again[k], equal_nan=True) for k in measures)
    assert [path.name for path in (tmp_path / "evals").iterdir()] == ["000007.npz"]


# --- comparing


def test_the_paired_interval_is_scipys():
    rng = np.random.default_rng(3)
    before = rng.normal(size=60)
    after = before + rng.normal(0.2, 0.3, size=60)
    row = evaluate.compare({"a": before}, {"a": after})["a"]
    theirs = stats.ttest_rel(after, before).confidence_interval()
    assert row["difference"] == pytest.approx((after - before).mean()) and row["n"] == 60
    assert (row["low"], row["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_pairs_with_a_missing_half_are_left_out():
    before = {
        "a": np.array([1.0, np.nan, 3.0, 4.0]),
        "gone": np.array([1.0] * 4),
        "none": np.full(4, np.nan),
    }
    after = {"a": np.array([2.0, 5.0, np.nan, 5.0]), "none": np.ones(4), "new": np.ones(4)}
    table = evaluate.compare(before, after)
    assert list(table) == ["a"]
    numbers = table["a"]
    assert (numbers["before"], numbers["after"], numbers["n"]) == (2.5, 3.5, 2)
    assert numbers["difference"] == 1.0 and numbers["low"] is numbers["high"] is None
    assert numbers["note"] == "an interval needs 6 clips, and there are 2"


def test_an_interval_depends_on_its_own_numbers_alone():
    """Neither the other measures nor their order, which a set would take from
    PYTHONHASHSEED, may move it."""
    rng, names = np.random.default_rng(1), ("composite", "flicker", "drift", "exposure", "verifier")
    before = {name: rng.normal(size=16) for name in names}
    after = {name: value + 0.3 * rng.normal(size=16) for name, value in before.items()}
    table = evaluate.compare(before, after)
    assert list(table) == list(names)
    for name in names:
        assert evaluate.compare({name: before[name]}, after) == {name: table[name]}


def test_a_share_that_nearly_never_changes_has_no_sure_interval():
    """None of thirty clips unscored, before and after: up to one in nine may be, and
    nothing got better or worse."""
    row = evaluate.compare({"unscored_share": np.zeros(30)}, {"unscored_share": np.zeros(30)})[
        "unscored_share"
    ]
    assert (row["low"], row["high"]) == pytest.approx(
        (0.025 ** (1 / 30) - 1, 1 - 0.025 ** (1 / 30)), abs=1e-3
    )
    still = evaluate.compare({"flicker": np.zeros(30)}, {"flicker": np.full(30, 0.2)})["flicker"]
    assert still["low"] is None and "have one value" in still["note"]


@pytest.mark.parametrize("n", [8, 50])
def test_coverage_is_about_95_percent(n):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        before = rng.normal(size=n)
        row = evaluate.compare({"a": before}, {"a": before + rng.normal(0.5, 1.0, n)})["a"]
        covered += row["low"] <= 0.5 <= row["high"]
    assert (
        stats.binom.cdf(covered, 400, 0.94) > 0.001
        and stats.binom.sf(covered - 1, 400, 0.98) > 0.001
    )


# --- guards


def test_a_guard_speaks_outside_its_band_alone():
    base = {"motion": 0.5, "score": -2.0, "unscored_share": 0.0}
    bands = {"motion": (0.9, 1.2), "score": (0.5, 1.5), "unscored_share": (0.0, 0.1)}
    fine = {"motion": 0.46, "score": -2.9, "unscored_share": 0.1}
    assert evaluate.outside(bands, base, fine) == []
    bad = {"motion": 0.44, "score": -3.1, "unscored_share": 0.2}
    said = evaluate.outside(bands, base, bad)
    assert [line.split(":")[0] for line in said] == ["motion", "score", "unscored_share"]
    assert "expected 0.45 to 0.6" in said[0] and "got 0.44" in said[0] and "of clips" in said[2]
    # unmeasured is not fine
    assert len(evaluate.outside({"motion": (0.9, 1.2)}, base, {"motion": math.nan})) == 1


def test_a_guard_that_is_not_measured_is_an_error_that_names_what_is():
    with pytest.raises(
        ValueError, match="guard.bands.motoin: expected a held-out measure: did you mean 'motion'"
    ):
        evaluate.outside({"motoin": (0, 1)}, {"motion": 1.0}, {"motion": 1.0})


# --- held-out prompts


def test_held_out_numbers_depend_on_the_weights_alone():
    prompts = [f"prompt {i}" for i in range(GROUP_PAIRS + 3)]
    policy = Policy(Toy(), full=True)
    held_out = HeldOut(prompts, Brightness(), Workers(), PromptCache(policy.backbone), steps=3)
    torch.manual_seed(1)
    one, clips, score = held_out.measure(policy, "live", batch=4)
    torch.manual_seed(2)
    other, _, _ = held_out.measure(policy, "live", batch=32)
    assert all(np.allclose(one[name], other[name], atol=1e-6, equal_nan=True) for name in one)
    assert (
        len(score.value) == len(one["composite"]) == GROUP_PAIRS + 3
        and len(clips) == held_out.show == 8
    )
    assert np.isfinite(one["diversity"]).sum() == GROUP_PAIRS and one["diversity"][0] > 0.01
    policy.weights["out.bias"].data += 1.0
    moved, _, _ = held_out.measure(policy, "live", batch=32)
    assert not np.allclose(moved["composite"], one["composite"])
    kept, _, _ = held_out.measure(policy, "reference", batch=32)
    assert np.allclose(kept["composite"], one["composite"], atol=1e-6)


def test_an_evaluation_of_the_first_prompts_is_the_first_rows_of_that_of_all():
    """Whatever the batches: the same noise and the same twins belong to each prompt."""
    prompts, policy = [f"prompt {i}" for i in range(GROUP_PAIRS + 8)], Policy(Toy(), full=True)
    for few in (5, GROUP_PAIRS + 3):
        held_out = HeldOut(
            prompts, Brightness(), Workers(), PromptCache(policy.backbone), steps=3, eval_n=few
        )
        whole, _, _ = held_out.measure(policy, "live", batch=16)
        some, clips, score = held_out.measure(policy, "live", batch=16, all_prompts=False)
        assert len(clips) == min(few, 8) and len(score.value) == few and some.keys() == whole.keys()
        for name, values in some.items():
            assert len(values) == few and np.allclose(
                values, whole[name][:few], atol=1e-6, equal_nan=True
            ), name
        assert np.isfinite(some["diversity"]).sum() == min(few, GROUP_PAIRS)
