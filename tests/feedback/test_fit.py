"""`vidrl fit`: losses by hand, recovered weights, honest folds, refusals, and the saved reward."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from vidrl.feedback import (
    bradley_terry,
    fit_card,
    fit_data,
    fit_features,
    fit_heads,
    fit_validation,
)
from vidrl.feedback.fit import fit, prepare
from vidrl.feedback.fit_data import TooLittle, aspect_of, collect
from vidrl.feedback.fit_features import Curves
from vidrl.feedback.fit_loss import davidson, ordinal
from vidrl.feedback.judgments import Choice, Fault, Judgments, Points
from vidrl.rewards import Samples, load
from vidrl.rewards._files.writing import write
from vidrl.rewards._fitted import folder, heads
from vidrl.rewards._fitted.folder import Feature
from vidrl.rewards.fitted import Fitted
from vidrl.rewards.flicker import Flicker

NAMES = ("light", "colour", "change")
FEATURES = tuple(Feature(f"picture.{name}", "picture", {"measure": name}) for name in NAMES)
TRUE = np.array([1.5, -1.0, 0.0])


def clip_names(prompts, each):
    return [f"p{p}_{n}" for p in range(prompts) for n in range(each)]


def made(prompts=30, each=3, frames=6, seed=0):
    """Random curves of three features, and the true utility of each frame."""
    draw = np.random.default_rng(seed)
    names = clip_names(prompts, each)
    curves = {
        name: draw.normal(size=(1, 3)) + 0.5 * draw.normal(size=(frames, 3)) for name in names
    }
    return Curves(FEATURES, curves, dict.fromkeys(names, 1.0)), {
        n: c @ TRUE for n, c in curves.items()
    }


def answered(utility, prompts, each, number, seed=0, rater="ann", segments=0):
    draw = np.random.default_rng(seed)
    found = []
    for n in range(number):
        p = draw.integers(prompts)
        i, j = draw.choice(each, 2, replace=False)
        a, b = f"p{p}_{i}", f"p{p}_{j}"
        gap = utility[a] - utility[b]
        answer = draw.choice([1, 0, -1], p=bradley_terry.probabilities(gap.mean(), -1.5))
        labels = tuple(int(np.sign(part.mean())) for part in np.array_split(gap, segments or 1))
        name = rater if isinstance(rater, str) else rater[n % len(rater)]
        found.append(
            Choice(
                a,
                b,
                int(answer),
                prompt=f"prompt {p}",
                rater=name,
                labels=labels if segments else (),
            )
        )
    return found


def labels(number=300, **options):
    curves, utility = made()
    return Judgments(choices=answered(utility, 30, 3, number, **options)), curves, utility


# --- the likelihood


def test_the_loss_of_choices_is_that_of_bradley_terry():
    gap, choice = torch.tensor([0.7, -1.2, 3.0]).double(), torch.tensor([1.0, 0.0, -1.0])
    found = davidson(gap, choice, torch.tensor(-0.4).double())
    np.testing.assert_allclose(
        found, bradley_terry.log_likelihood(gap.numpy(), choice.numpy(), -0.4)
    )


def test_ordinal_probabilities_by_hand():
    thresholds = torch.tensor([-1.0, 0.5])
    found = torch.stack(
        [ordinal(torch.zeros(1), torch.tensor([k]), thresholds).exp() for k in range(3)]
    )
    low, high = 1 / (1 + math.e), 1 / (1 + math.exp(-0.5))
    np.testing.assert_allclose(found[:, 0], [low, high - low, 1 - high], rtol=1e-5)
    assert ordinal(torch.zeros(1), torch.tensor([1]), torch.tensor([1.0, 0.0])).isnan()


# --- the linear head


def test_true_weights_are_recovered_within_their_errors():
    judgments, curves, _ = labels(1500)
    known = prepare(judgments, curves, "overall")
    head = fit_heads.linear(known.data, known.frames)
    error = head.tensors["covariance"].diagonal().sqrt().numpy()
    z = (head.tensors["weights"].numpy() - TRUE * known.scale) / error
    assert np.abs(z).max() < 3.5 and error.max() < 0.25
    assert head.tie == pytest.approx(-1.5, abs=0.4)


def test_without_segments_it_is_the_fit_of_bradley_terry():
    judgments, curves, _ = labels(200)
    known = prepare(judgments, curves, "overall")
    head = fit_heads.linear(known.data, known.frames, (0.7,))
    mean = known.frames.mean.numpy()
    design = mean[known.data.first] - mean[known.data.second]
    std = [0.7] * 3 + [fit_heads.BESIDE_STD]
    other = bradley_terry.fit(np.c_[design, np.ones(200)], known.data.choice, prior_std=std)
    np.testing.assert_allclose(head.tensors["weights"], other.weights[:3], atol=2e-3)
    np.testing.assert_allclose(head.tensors["covariance"], other.covariance[:3, :3], atol=2e-3)


def test_labels_of_segments_sharpen_the_weights():
    few, curves, _ = labels(60, segments=3)
    bare = Judgments(
        choices=[Choice(c.first, c.second, c.choice, prompt=c.prompt) for c in few.choices]
    )
    sizes = []
    for judgments in (bare, few):
        known = prepare(judgments, curves, "overall")
        head = fit_heads.linear(known.data, known.frames, (0.8,))
        sizes.append(torch.linalg.slogdet(head.tensors["covariance"])[1])
    assert sizes[1] < sizes[0] - 0.5


def test_a_marked_fault_compares_its_frames_with_the_others():
    judgments, curves, _ = labels(40)
    marked = Judgments(choices=judgments.choices, faults=[Fault("p0_0", 0.5, 0.7)])
    data = collect(marked, "overall", dict.fromkeys(curves.curves, 6), curves.seconds)
    at = data.clips.index("p0_0")
    assert data.local_clips.tolist() == [[at, at]] and data.local_choice.tolist() == [1]
    np.testing.assert_allclose(data.local_second[0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(data.local_first[0], np.array([1, 1, 1, 0, 1, 1]) / 5)
    assert "1 marked fault compared with the rest of the clip" in data.notes


def test_points_alone_recover_the_taste():
    curves, utility = made(40, 3)
    draw = np.random.default_rng(0)
    given = []
    for n, clip in enumerate(utility):
        felt = utility[clip].mean() + draw.logistic()
        level = 1 + int(np.searchsorted([-2, -0.7, 0.7, 2], felt))
        given.append(Points(clip, level, 1, 5, rater="ann" if n % 2 else "bob"))
    known = prepare(Judgments(points=given), curves, "overall")
    assert len(known.data.choice) == 0 and known.data.levels == 5
    weights = fit_heads.linear(known.data, known.frames).tensors["weights"].numpy() / known.scale
    assert weights[0] > 0.6 and weights[1] < -0.3 and abs(weights[2]) < 0.6
    taste = fit(Judgments(points=given), curves)
    assert taste.facts["points"] == 120 and "accuracy" not in taste.facts


def test_the_nonlinear_head_learns_what_no_line_can():
    """The utility is −|z|, of which a line sees nothing."""
    curves, _ = made(40, 3)
    utility = {name: -3 * np.abs(curve[:, 0]) for name, curve in curves.curves.items()}
    judgments = Judgments(choices=answered(utility, 40, 3, 400))
    known = prepare(judgments, curves, "overall")
    straight = fit_heads.linear(known.data, known.frames, (0.4,))
    curved = fit_heads.temporal(known.data, known.frames, straight, count=1)
    truth = np.array([utility[name].mean() for name in known.data.clips])
    line, curve = (
        np.corrcoef(head.values(known.frames), truth)[0, 1] for head in (straight, curved)
    )
    assert curve > 0.8 > 0.4 > abs(line)


# --- validation


def test_no_prompt_and_no_clip_is_in_a_fold_and_outside_it():
    judgments, curves, _ = labels(200)
    crossing = Choice("p0_0", "p1_0", 1)  # joins two prompts by their clips
    known = prepare(Judgments(choices=[*judgments.choices, crossing]), curves, "overall")
    data = known.data
    groups = fit_validation.prompt_groups(data)
    fold = fit_validation.folds(groups.tolist())
    assert len(set(fold.tolist())) == fit_validation.FOLDS
    for one in range(fit_validation.FOLDS):
        inside, outside = fold == one, fold != one
        for side in (data.first, data.second):
            prompts = [{data.prompts[i] for i in side[rows]} for rows in (inside, outside)]
            assert not prompts[0] & prompts[1]
        clips = [set(data.first[rows]) | set(data.second[rows]) for rows in (inside, outside)]
        assert not clips[0] & clips[1]


def test_held_out_gaps_never_come_from_their_own_prompt():
    judgments, curves, _ = labels(200)
    known = prepare(judgments, curves, "overall")
    fold = fit_validation.folds(fit_validation.prompt_groups(known.data).tolist())
    seen = []

    def spy(data):
        seen.append({data.prompts[i] for i in data.first})
        return fit_heads.linear(data, known.frames, (0.5,))

    fit_validation.held_out(known.data, known.frames, fold, spy)
    for one, prompts in enumerate(seen):
        assert not prompts & {known.data.prompts[i] for i in known.data.first[fold == one]}


def test_temperature_undoes_a_factor_and_the_diagram_sees_it():
    draw = np.random.default_rng(0)
    true = draw.normal(size=4000) * 1.5
    choice = np.array(
        [draw.choice([1, 0, -1], p=p) for p in bradley_terry.probabilities(true, -2.0)]
    )
    assert fit_validation.temperature(choice, 2.5 * true, np.ones(4000)) == pytest.approx(
        0.4, abs=0.04
    )
    sharp, right = (
        fit_validation.reliability(choice, factor * true, np.ones(4000)) for factor in (2.5, 1.0)
    )
    assert right["error"] < 0.03 < 0.08 < sharp["error"]
    assert sum(row["n"] for row in right["bins"]) == 2 * (choice != 0).sum()


def test_true_labels_are_predicted_and_permuted_labels_only_by_chance():
    judgments, curves, _ = labels(300)
    taste = fit(judgments, curves, form="linear")
    assert taste.facts["accuracy"]["low"] > 0.6
    assert 0.1 < taste.facts["temperature"] < 3
    draw = np.random.default_rng(0)
    turned = [
        Choice(c.first, c.second, int(s) * c.choice, prompt=c.prompt)
        for c, s in zip(judgments.choices, draw.choice([-1, 1], 300))
    ]
    null = fit(Judgments(choices=turned), curves, form="linear")
    assert null.facts["accuracy"]["low"] < 0.5 < null.facts["accuracy"]["high"]


def test_by_rater_needs_two_raters_and_leaves_out_the_one_it_tests():
    judgments, curves, _ = labels(200, rater=("ann", "bob"))
    rows = fit(judgments, curves, form="linear").facts["by_rater"]
    assert [row["rater"] for row in rows] == ["ann", "bob"]
    assert sum(row["choices"] for row in rows) == sum(c.choice != 0 for c in judgments.choices)
    alone, _, _ = labels(200)
    one = fit(alone, curves, form="linear")
    assert one.facts["by_rater"] == [] and "fewer than two raters" in fit_card.readme(one)


# --- refusals


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([Choice("a", "b", 1)] * 5, "collect 15 more"),
        ([Choice("a", "b", 0)] * 50, "50 ties and nothing else"),
        ([], "got none"),
    ],
)
def test_too_few_labels_are_refused_with_the_number_that_is_needed(choices, expected):
    with pytest.raises(TooLittle, match=expected):
        fit_data.check_labels(Judgments(choices=choices), aspect_of(Judgments(choices=choices)))


def test_points_of_one_clip_are_refused():
    given = [Points("a", 3, 1, 5, rater=str(n)) for n in range(30)]
    with pytest.raises(TooLittle, match="all of one, a"):
        fit_data.check_labels(Judgments(points=given), "overall")


def test_an_unknown_aspect_gets_the_nearest_name():
    given = Judgments(choices=[Choice("a", "b", 1, aspect="motion")])
    with pytest.raises(ValueError, match="did you mean 'motion'"):
        aspect_of(given, "moton")
    assert aspect_of(given) == "motion"


def test_contradictions_are_counted_and_not_refused():
    judgments, curves, _ = labels(100)
    both = [
        Choice("p0_0", "p0_1", 1, prompt="prompt 0"),
        Choice("p0_1", "p0_0", 1, prompt="prompt 0"),
    ]
    taste = fit(Judgments(choices=[*judgments.choices, *both]), curves, form="linear", quick=True)
    assert any("decided both ways" in note for note in taste.facts["notes"])


def test_lost_clips_take_their_labels_along():
    judgments, curves, _ = labels(100)
    gone = {clip for clip in curves.curves if clip.startswith("p0_")}
    kept = {clip: curve for clip, curve in curves.curves.items() if clip not in gone}
    less = Curves(FEATURES, kept, curves.seconds, dict.fromkeys(gone, "the file is gone"))
    taste = fit(judgments, less, form="linear", quick=True)
    assert taste.facts["choices"] == sum(c.prompt != "prompt 0" for c in judgments.choices)
    assert f"{len(gone)} clips left out" in fit_card.readme(taste)


def test_unknown_features_get_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'flicker'"):
        fit_features.chosen(["flikker"])


# --- the reward


@pytest.fixture(scope="module")
def taste():
    judgments, curves, _ = labels(200)
    return fit(judgments, curves, form="linear", quick=True)


def some_clips():
    return Samples(
        torch.rand(3, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), [""] * 3, 8.0
    )


def test_what_is_saved_is_what_is_loaded(taste, tmp_path):
    folder.write(taste, tmp_path)
    one, other = Fitted.of(taste)(some_clips()), load("fitted", model=str(tmp_path))(some_clips())
    assert torch.equal(one.value, other.value) and torch.equal(one.frames, other.frames)
    assert json.loads((tmp_path / "fit.json").read_text())["facts"]["aspect"] == "overall"


def test_the_curve_and_the_value_are_the_head_on_the_features(taste):
    samples = some_clips()
    score = Fitted.of(taste)(samples)
    parts = torch.stack([score.parts[one.name].frames for one in taste.features], -1)
    z = (parts - taste.tensors["centre"]) / taste.tensors["scale"]
    torch.testing.assert_close(score.frames, z @ taste.tensors["weights"])
    torch.testing.assert_close(score.frames.mean(1), score.value)
    gap = sum(slope * score.parts[name].value for name, slope in score.slopes.items())
    torch.testing.assert_close(
        gap - score.value, (gap - score.value)[:1].expand(3), rtol=1e-3, atol=1e-3
    )


def test_caution_takes_off_standard_deviations(taste):
    plain, careful = Fitted.of(taste)(some_clips()), Fitted.of(taste, caution=2.0)(some_clips())
    std = plain.parts["uncertainty"].value
    torch.testing.assert_close(careful.value, plain.value - 2 * std)
    torch.testing.assert_close(careful.frames.mean(1), careful.value)
    mean = (
        torch.stack([plain.parts[f.name].value for f in taste.features], -1)
        - taste.tensors["centre"]
    ) / taste.tensors["scale"]
    torch.testing.assert_close(
        std**2, ((mean @ taste.tensors["covariance"]) * mean).sum(1), rtol=1e-3, atol=1e-5
    )


def test_clips_unlike_those_of_the_fit_are_flagged():
    videos = {
        f"p{n}": torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(n)) * 0.5
        for n in range(30)
    }
    curves = fit_features.of_video(videos, ["picture"])
    pairs = [Choice(f"p{n}", f"p{n + 1}", 1 if n % 3 else -1) for n in range(29)]
    reward = Fitted.of(fit(Judgments(choices=pairs), curves, form="linear", quick=True))
    alike = (
        reward(Samples(torch.stack(list(videos.values())), [""] * 30, 8.0))
        .parts["unfamiliar"]
        .value
    )
    strange = torch.ones(1, 6, 3, 16, 16)
    strange[:, ::2] = 0
    assert (alike > 1).float().mean() <= 0.05
    assert reward(Samples(strange, [""], 8.0)).parts["unfamiliar"].value.item() > 1


def test_wrong_folders_and_options_are_named(tmp_path, taste):
    with pytest.raises(ValueError, match="set its option model"):
        load("fitted")
    with pytest.raises(FileNotFoundError, match=r"fit\.json"):
        load("fitted", model=str(tmp_path))
    with pytest.raises(ValueError, match="caution of 0 or more"):
        Fitted.of(taste, caution=-1.0)
    folder.write(taste, tmp_path)
    table = json.loads((tmp_path / "fit.json").read_text())
    (tmp_path / "fit.json").write_text(json.dumps(table | {"features": table["features"][:1]}))
    with pytest.raises(ValueError, match="expected centre of shape"):
        load("fitted", model=str(tmp_path))


def test_a_feature_of_a_reward_is_that_reward():
    features, _ = fit_features.chosen(["flicker"])
    samples = some_clips()
    found = fit_features.of_video({"a": samples.video[0]}, ["flicker"]).curves["a"][:, 0]
    torch.testing.assert_close(torch.tensor(found).float(), Flicker(detail=0.3)(samples).frames[0])
    assert features[0].options == {"detail": 0.3}


def test_members_of_the_nonlinear_head_by_hand():
    head = {
        "linear": torch.tensor([[2.0]]),
        "outer": torch.tensor([[3.0]]),
        "bias": torch.tensor([[0.1]]),
        "window": torch.tensor([[[0.5, 0.0, -0.5]]]),
    }
    z = torch.tensor([[[1.0], [2.0], [4.0]]])
    hidden = [3 * math.tanh(0.1 + 0.5 * (a - b)) for a, b in [(1, 2), (1, 4), (2, 4)]]
    expected = [2 + hidden[0], 4 + hidden[1], 8 + hidden[2]]
    torch.testing.assert_close(heads.members(z, head)[0, 0], torch.tensor(expected))


# --- the command


@pytest.mark.slow
def test_the_command_fits_scores_and_lists_what_vanished(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    lines = ["path_a,path_b,choice,prompt,rater"]
    for n in range(24):
        for side, light in (("a", 0.7), ("b", 0.3)):
            grey = torch.full((5, 3, 16, 16), light) + 0.1 * torch.rand(5, 3, 16, 16)
            write(clips / f"{n}{side}.mp4", grey, 8.0)
        lines.append(f"{n}a.mp4,{n}b.mp4,{'a' if n % 6 else 'b'},prompt {n},ann")
    lines.append("gone.mp4,1a.mp4,a,prompt 1,ann")
    (tmp_path / "choices.csv").write_text("\n".join(lines))
    out = tmp_path / "taste"

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "vidrl", *map(str, words)], capture_output=True, text=True
        )

    words = (
        "fit",
        tmp_path / "choices.csv",
        "--videos",
        clips,
        "--out",
        out,
        "--features",
        "picture",
        "--no-audit",
        "--jobs",
        0,
    )
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "gone.mp4: the file is gone" in done.stderr and run(*words, "--strict").returncode == 1
    assert "brighter pictures" in (out / "README.md").read_text()
    assert "<svg" in (out / "card.html").read_text()
    scored = run(
        "score",
        clips / "0a.mp4",
        clips / "0b.mp4",
        "--reward",
        "fitted",
        "--option",
        f"model={out}",
    )
    first, second = (json.loads(line)["value"]["fitted"] for line in scored.stdout.splitlines())
    assert first > second
