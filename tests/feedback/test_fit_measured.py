"""What `vidrl fit` measures: shares of votes, honest folds, and what could not be measured."""

import numpy as np
import pytest
import torch

from vidrl.feedback import bradley_terry, fit_card, fit_features, fit_heads, fit_validation
from vidrl.feedback.fit import fit, prepare
from vidrl.feedback.fit_data import TooLittle, check_labels, collect, contradictions
from vidrl.feedback.fit_features import Curves
from vidrl.feedback.judgments import Choice, Fault, Judgments, Points
from vidrl.rewards import Samples, default
from vidrl.rewards._fitted.folder import Feature

FEATURES = tuple(
    Feature(f"picture.{name}", "picture", {"measure": name})
    for name in ("light", "colour", "change")
)
TRUE = np.array([1.5, -1.0, 0.0])
VOTES = 10


def world(prompts=30, each=3, frames=6):
    """Return random curves of three features, and the true utility of each clip."""
    draw = np.random.default_rng(0)
    names = [f"p{p}_{n}" for p in range(prompts) for n in range(each)]
    curves = {n: draw.normal(size=(1, 3)) + 0.5 * draw.normal(size=(frames, 3)) for n in names}
    utility = {name: float((curve @ TRUE).mean()) for name, curve in curves.items()}
    return Curves(FEATURES, curves, dict.fromkeys(names, 1.0)), utility


def votes(prompts=30, shares=True):
    """Return votes on one pair of each prompt, as shares in two choices or one by one."""
    _, utility = world()
    draw, found = np.random.default_rng(1), []
    for p in range(prompts):
        pair = (f"p{p}_0", f"p{p}_1")
        chance = 1 / (1 + np.exp(utility[pair[1]] - utility[pair[0]]))
        won = int(draw.binomial(VOTES, chance))
        for answer, count in ((1, won), (-1, VOTES - won)):
            each = [Choice(*pair, answer, prompt=f"prompt {p}")] * count
            whole = Choice(*pair, answer, prompt=f"prompt {p}", weight=count or 1)
            found += [whole] * bool(count) if shares else each
    return Judgments(choices=found)


def scaled(judgments, factor):
    return Judgments(
        choices=[
            Choice(c.first, c.second, c.choice, prompt=c.prompt, weight=c.weight * factor)
            for c in judgments.choices
        ]
    )


# --- shares of votes


def test_weighted_choices_are_measured_as_if_each_answer_stood_alone():
    curves, _ = world()
    held = []
    for judgments in (votes(), votes(shares=False)):
        known = prepare(judgments, curves, "overall")
        data, units = known.data, [known.data.prompts[i] for i in known.data.first]
        values = known.frames.mean @ torch.tensor([1.0, -0.5, 0.3]).double()
        gaps = (values[data.first] - values[data.second]).numpy()
        own = fit_validation.accuracy(data, gaps, units)
        likely = fit_validation.log_likelihoods(data.choice, gaps, data.weight)
        even = fit_validation.better(likely, likely + 0.1 * data.choice, units, data.weight)
        rival = fit_validation.rivals(data, gaps, units, {"light": values.numpy() ** 2})[0]
        calibration = fit_validation.reliability(data.choice, gaps, data.weight, 4)
        held.append(
            [own["value"], own["low"], own["high"], own["answers"], np.average(likely, weights=data.weight),
             even["mean"], even["low"], rival["value"], rival["difference"]["mean"],
             rival["difference"]["low"]]
        )  # fmt: skip
        assert sum(row["n"] for row in calibration["bins"]) == 2 * 30 * VOTES
    np.testing.assert_allclose(held[0], held[1], rtol=1e-6)
    assert held[0][3] == 30 * VOTES


def test_the_error_of_calibration_weighs_the_answers():
    choice, gaps = np.array([1, -1]), np.array([np.log(3), np.log(3)])
    right = fit_validation.reliability(choice, gaps, np.array([0.75, 0.25]))
    assert right["error"] == pytest.approx(0) and right["why"] is None
    wrong = fit_validation.reliability(choice, gaps, np.array([0.25, 0.75]))
    assert wrong["error"] == pytest.approx(0.5)


def test_shares_of_ten_pairs_are_ten_answers():
    few, enough = scaled(votes(10), 1 / VOTES), scaled(votes(20), 1 / VOTES)
    assert len(few.choices) > 12
    with pytest.raises(TooLittle, match=r"got 10 choices: collect 10 more"):
        check_labels(few, "overall")
    check_labels(enough, "overall")


def test_shares_of_one_pair_are_no_contradiction():
    shares = votes().choices
    assert contradictions(shares) == (0, 0)
    sides = (("p0_0", "p0_1"), ("p0_1", "p0_0"))
    again = [*shares, *(Choice(*pair, 1, rater="ann") for pair in sides)]
    assert contradictions(again) == (1, 1)


def test_the_card_says_how_many_answers_shares_stand_for():
    taste = fit(scaled(votes(), 1 / VOTES), world()[0], form="linear")
    assert taste.facts["answers"] == 30
    assert "that stand for 30 answers" in fit_card.readme(taste)
    assert "decided choices for 30 answers" in " ".join(fit_card.sentences(taste))


def test_the_learning_curve_draws_the_shares_of_a_pair_together():
    judgments, seen = scaled(votes(), 1 / VOTES), []
    known = prepare(judgments, world()[0], "overall")
    groups = fit_validation.prompt_groups(known.data)

    def spy(data):
        pairs, counts = np.unique(data.first, return_inverse=True)
        seen.append(np.bincount(counts, data.weight))
        return fit_heads.linear(data, known.frames, (0.5,))

    rows = fit_validation.learning_curve(known.data, known.frames, groups, spy, sizes=(10, 500))
    assert [row["labels"] for row in rows] == [10] and len(seen) == 3
    for each in seen:
        np.testing.assert_allclose(each, np.ones(10))


# --- folds


def answered(number=200, raters=("ann", "bob")):
    _, utility = world()
    draw, found = np.random.default_rng(0), []
    for n in range(number):
        p, (i, j) = draw.integers(30), draw.choice(3, 2, replace=False)
        a, b = f"p{p}_{i}", f"p{p}_{j}"
        answer = draw.choice([1, 0, -1], p=bradley_terry.probabilities(utility[a] - utility[b]))
        rater = raters[n % len(raters)]
        found.append(Choice(a, b, int(answer), prompt=f"prompt {p}", rater=rater))
    return found


def mixed():
    """Return choices of two raters, and points and marks of both on one clip of each prompt."""
    points, faults = [], []
    for n in range(30):
        who, prompt = ("ann", "bob")[n % 2], f" Prompt {n}"
        points.append(Points(f"alone{n}", n % 5 + 1, 1, 5, prompt=prompt, rater=who))
        faults.append(Fault(f"alone{n}", 0.2, 0.5, prompt=prompt, rater=who))
    curves, _ = world()
    draw = np.random.default_rng(3)
    more = {f"alone{n}": draw.normal(size=(6, 3)) for n in range(30)}
    every = Curves(FEATURES, curves.curves | more, curves.seconds | dict.fromkeys(more, 1.0))
    return Judgments(choices=answered(), points=points, faults=faults), every


def trained_on(known, fold, apart):
    """Return what the fit of each fold saw."""
    seen = []

    def spy(data):
        seen.append(data)
        return fit_heads.linear(data, known.frames, (0.5,))

    fit_validation.held_out(known.data, known.frames, fold, spy, apart)
    return seen


def test_points_and_marks_of_held_out_prompts_are_not_learned():
    judgments, curves = mixed()
    known = prepare(judgments, curves, "overall")
    data, text = known.data, fit_validation.texts(known.data)
    assert len(data.scored) == 30 and (data.local_row < 0).sum() == 30
    fold = fit_validation.folds(fit_validation.prompt_groups(data).tolist())
    every = trained_on(known, fold, fit_validation.by_prompt)
    assert len(every) == fit_validation.FOLDS
    for one, train in enumerate(every):
        tested = set(text[data.first[fold == one]])
        assert not tested & set(text[train.scored])
        assert not tested & set(text[train.local_clips[:, 0]])
        assert len(train.scored) == (~np.isin(text[data.scored], list(tested))).sum() > 0


def test_points_and_marks_of_a_held_out_rater_are_not_learned():
    judgments, curves = mixed()
    known = prepare(judgments, curves, "overall")
    names = np.array(["ann", "bob"])
    fold = (known.data.rater == "bob").astype(int)
    for name, train in zip(names, trained_on(known, fold, fit_validation.by_rater), strict=True):
        other = names[names != name].item()
        assert train.raters == [other] and len(train.scored) == 15
        assert set(train.local_rater) == {other} and len(train.local_rater) == 15
    one = fit(judgments, curves, form="linear")
    assert "A rater whose choices, points and marks the fit did not see" in fit_card.readme(one)


def test_choices_without_a_name_are_learned_and_not_tested():
    judgments, curves = mixed()
    some = [*judgments.choices, *answered(40, ("",))]
    known = prepare(Judgments(choices=some), curves, "overall")
    fold = np.where(known.data.rater == "", -1, (known.data.rater == "bob").astype(int))
    trains = trained_on(known, fold, fit_validation.by_rater)
    assert len(trains) == 2 and all((train.rater == "").sum() == 40 for train in trains)


# --- what was not measured


def test_each_choice_of_a_small_fit_is_held_out_once():
    taste = fit(Judgments(choices=answered(30)[:26]), world()[0], form="linear")
    assert taste.facts["accuracy"]["choices"] == taste.facts["answers"] - taste.facts["ties"] == 23


def test_folds_that_are_too_small_are_said_and_no_zero_is_printed(monkeypatch):
    monkeypatch.setattr(fit_validation, "LEAST", 20)
    taste = fit(Judgments(choices=answered(30)[:26]), world()[0], form="linear")
    decided = int(taste.facts["answers"] - taste.facts["ties"])
    assert 20 <= decided < 25 and taste.facts["reliability"]["error"] is None
    why = f"because without the tested choices, fewer than 20 of the {decided} decided answers"
    card = fit_card.readme(taste)
    assert f"Calibration: not measured, {why}" in card and "0.0 points" not in card
    assert f"Agreement on held-out choices was not measured, {why}" in card
    assert "– %" not in card and "agrees in" not in card
    assert "not measured" in fit_card.page(taste)


def test_predictions_without_any_difference_are_no_calibration():
    found = fit_validation.reliability(np.array([1, -1]), np.zeros(2), np.ones(2))
    assert found == {"bins": [], "error": None, "why": "all held-out predictions are 50 %"}


def test_the_card_of_points_alone_says_what_was_not_measured():
    draw, (curves, utility) = np.random.default_rng(0), world()
    given = [
        Points(clip, int(np.clip(np.round(u + draw.normal() + 3), 1, 5)), 1, 5)
        for clip, u in utility.items()
    ]
    taste = fit(Judgments(points=given), curves)
    words = "not measured, because no label is a choice of one clip over another"
    for text in (fit_card.readme(taste), fit_card.page(taste), " ".join(fit_card.sentences(taste))):
        assert words in text
    quick = fit(Judgments(choices=answered()), curves, quick=True)
    assert "not measured, because the fit was asked to leave it out" in fit_card.readme(quick)


def test_each_fold_is_calibrated_by_the_others():
    draw = np.random.default_rng(0)
    true = draw.normal(size=4000) * 1.5
    chances = bradley_terry.probabilities(true, -2.0)
    choice = np.array([draw.choice([1, 0, -1], p=p) for p in chances])
    fold = np.arange(4000) % 2
    gaps = true * np.where(fold, 2.5, 1.0)
    found = fit_validation.calibrated(choice, gaps, np.ones(4000), fold)
    # the factor of fold 0 is that of the gaps of fold 1, which are 2.5 times too large
    assert (found / gaps)[fold == 0] == pytest.approx(0.4, abs=0.05)
    assert (found / gaps)[fold == 1] == pytest.approx(1.0, abs=0.1)
    single = fit_validation.calibrated(choice, gaps, np.ones(4000), np.zeros(4000))
    assert np.isnan(single).all()


# --- the head and its words


def test_a_nonlinear_head_claims_no_preference_and_no_error():
    taste = fit(Judgments(choices=answered()), world()[0], form="temporal", quick=True)
    card = fit_card.readme(taste)
    assert all(row["error"] is None for row in taste.facts["weights"])
    assert "These people preferred" not in card and "chose against" not in card
    assert "slopes of a line through the values of the nonlinear head" in card
    assert "nonlinear (a small network that reads three frames at a time), as the option" in card
    assert not fit_card._sure({"weight": 5.0, "error": None})
    assert fit_card._sure({"weight": 5.0, "error": 1.0})


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_a_level_without_points_leaves_all_parameters_finite(missing):
    draw, (curves, utility) = np.random.default_rng(0), world()
    given = []
    for clip, u in utility.items():
        level = int(np.clip(np.round(u + draw.logistic() + 2), 0, 4))
        given.append(Points(clip, level, 0, 4, rater="ann"))
    known = prepare(Judgments(points=given), curves, "overall")
    part = known.data.subset(np.zeros(0, bool), known.data.level != missing)
    assert part.levels == 5 and len(np.unique(part.level)) == 4
    labels = fit_heads._Labels(part)
    assert labels.thresholds == 3
    straight = fit_heads.linear(part, known.frames, (0.5,))
    curved = fit_heads.temporal(part, known.frames, straight, count=1)
    for head in (straight, curved):
        assert all(tensor.isfinite().all() for tensor in head.tensors.values())
        order = np.corrcoef(head.values(known.frames), list(utility.values()))[0, 1]
        assert order > 0.5


def test_thresholds_ascend_whatever_adam_does():
    known = prepare(
        Judgments(points=[Points(f"p{n}_0", n % 5, 0, 4) for n in range(30)]), world()[0], "overall"
    )
    labels = fit_heads._Labels(known.data, torch.float32)
    torch.testing.assert_close(labels.ascending(labels.free(labels.start())), labels.start())
    wild = labels.ascending(torch.randn(7, generator=torch.Generator().manual_seed(0)) * 5)
    assert (wild[3:7].diff() > 0).all()


def test_two_ratings_of_one_clip_by_one_rater_both_count():
    given = [Points(f"p{n}_0", n % 5 + 1, 1, 5, prompt=f"{n}", rater="ann") for n in range(30)]
    twice = [*given, Points("p3_0", 1, 1, 5, prompt="3", rater="ann")]
    data = collect(
        Judgments(points=twice),
        "overall",
        dict.fromkeys((p.clip for p in given), 6),
        dict.fromkeys((p.clip for p in given), 1.0),
    )
    assert len(data.scored) == 31 and data.notes[0].startswith(
        "1 clip that one rater rated several times;"
    )


def test_a_fault_at_the_very_end_marks_the_last_frame_and_one_of_a_whole_clip_is_named():
    faults = [Fault("p0_0", 1.0, 1.0), Fault("p1_0", 0.0, 1.0)]
    judged = Judgments(choices=answered(), faults=faults)
    data = prepare(judged, world()[0], "overall").data
    marked = data.local_second[data.local_row < 0]
    np.testing.assert_allclose(marked, [[0, 0, 0, 0, 0, 1]])
    assert "1 marked fault compared with the rest of the clip" in data.notes
    assert any(note.startswith("1 marked fault of a whole clip left out") for note in data.notes)


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_that_names_the_chosen_clip_first_has_no_preference_for_a_side(order):
    """As TRL's files do: else the side would explain every answer, and no feature any."""
    curves, _ = world()
    chosen = [one if one.choice == order else one.flipped() for one in answered() if one.choice]
    taste = fit(Judgments(choices=chosen), curves, form="linear", quick=True)
    weights = {row["feature"]: row["weight"] for row in taste.facts["weights"]}
    assert weights["picture.light"] > 0.8 and weights["picture.colour"] < -0.4
    assert abs(taste.facts["side"]) < 0.3
    assert any("name the chosen clip at one side" in note for note in taste.facts["notes"])
    both = fit(Judgments(choices=answered()), curves, form="linear", quick=True)
    assert not any("at one side" in note for note in both.facts["notes"])


def test_what_is_not_finite_becomes_the_centre():
    frames = fit_heads.standardised(
        [np.array([[1.0], [np.inf], [-np.inf], [np.nan]])], np.array([2.0]), np.array([0.5])
    )
    assert frames.z[0, :, 0].tolist() == [-2.0, 0.0, 0.0, 0.0]
    curves, _ = world()
    curves.curves["p0_0"][2, 0] = np.inf
    known = prepare(Judgments(choices=answered()), curves, "overall")
    assert len(known.curves.features) == 3 and known.frames.z.isfinite().all()


def test_the_rival_called_default_is_the_default_reward():
    draw = torch.Generator().manual_seed(0)
    videos = {f"c{n}": torch.rand(8, 3, 24, 24, generator=draw) ** (n + 1) for n in range(4)}
    curves = fit_features.of_video(videos, ["rewards"])
    pairs = [Choice(f"c{n % 4}", f"c{(n + 1) % 4}", 1) for n in range(24)]
    found = prepare(Judgments(choices=pairs), curves, "overall").rivals["default"]
    real = default()(Samples(torch.stack(list(videos.values())), [""] * 4, 8.0)).value
    np.testing.assert_allclose(found, real, rtol=1e-4)


def test_the_default_reward_is_a_rival_though_a_part_of_it_never_varies():
    draw = torch.Generator().manual_seed(0)
    curves = fit_features.of_video(
        {f"c{n}": torch.rand(8, 3, 24, 24, generator=draw) for n in range(4)}, ["rewards"]
    )
    at = [one.name for one in curves.features].index("freeze")
    for curve in curves.curves.values():
        curve[:, at] = 0.0
    pairs = [Choice(f"c{n % 4}", f"c{(n + 1) % 4}", 1) for n in range(24)]
    known = prepare(Judgments(choices=pairs), curves, "overall")
    assert "freeze" not in [one.name for one in known.curves.features]
    assert "default" in known.rivals


# --- the command


def test_the_fit_and_its_card_are_there_when_the_audit_is_killed(tmp_path, monkeypatch, capsys):
    from argparse import Namespace

    from vidrl.cli import fit as command
    from vidrl.rewards import load

    def killed(taste):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_judgments", lambda args: Judgments(choices=answered()))
    monkeypatch.setattr(fit_features, "compute", lambda *args: world()[0])
    monkeypatch.setattr(command, "_audited", killed)
    given = {"aspect": "", "features": "picture", "form": "linear", "no_audit": False, "jobs": 0}
    args = Namespace(**given, out=tmp_path, timeout=1.0, words=["fit", "x.csv"], strict=False)
    with pytest.raises(KeyboardInterrupt):
        command._fit(args)
    assert "the audit was left out, or it did not end" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "card.html").is_file() and load("fitted", model=str(tmp_path)).parts
    won = {"outcome": "open", "verdict": "a hack wins", "wins": []}
    monkeypatch.setattr(command, "_audited", lambda taste: won)
    assert command._fit(args) == 0
    assert "open: a hack wins" in (tmp_path / "README.md").read_text()
