"""The types of what people said of clips."""

import pytest

from vidrl.feedback.judgments import (
    Choice,
    Fault,
    Judgments,
    Points,
    Ranking,
    choices_of_points,
    segment_labels,
)


def test_a_flipped_choice_names_the_same_clip_and_flips_its_segments():
    choice = Choice("a", "b", 1, labels=(1, 0, -1), weight=3)
    flipped = choice.flipped()
    assert (flipped.first, flipped.second, flipped.choice) == ("b", "a", -1)
    assert (flipped.labels, flipped.weight) == ((-1, 0, 1), 3)
    assert flipped.flipped() == choice


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Choice("a", "b", 2), "1, -1 or 0"),
        (lambda: Choice("a", "a", 1), "two different clips"),
        (lambda: Choice("a", "b", 1, labels=(2,)), "labels"),
        (lambda: Choice("a", "b", 1, both_bad=True), "both_bad"),
        (lambda: Choice("a", "b", 1, weight=0), "weight"),
        (lambda: Points("a", 6, 1, 5), "from 1 to 5"),
        (lambda: Points("a", 1, 1, 1), "low < high"),
        (lambda: Ranking(("a",), (1,)), "two different clips"),
        (lambda: Ranking(("a", "b"), (1,)), "2 places"),
        (lambda: Fault("a", 2, 1), "begin <= end"),
    ],
)
def test_impossible_judgments_are_refused(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_points_imply_choices_within_a_prompt_aspect_and_rater_only():
    same = [
        Points("a", 4, 1, 5, prompt="p", rater="r"),
        Points("b", 4, 1, 5, prompt="p", rater="r"),
    ]
    others = [
        Points("c", 1, 1, 5, prompt="q", rater="r"),
        Points("d", 1, 1, 5, prompt="p", rater="s"),
    ]
    assert [(x.first, x.second, x.choice) for x in choices_of_points(same + others)] == [
        ("a", "b", 0)
    ]


def test_segments_with_a_fault_in_both_clips_tie():
    spans = [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]
    first, second = [Fault("a", 0.1, 0.7)], [Fault("b", 0.6, 1.2)]
    assert segment_labels(first, second, spans) == (-1, 0, 1)


def test_judgments_name_their_clips_and_aspects_in_order():
    held = Judgments(
        [Choice("a", "b", 1, "motion")], [Points("c", 1, 0, 1)], [Ranking(("b", "d"), (1, 2))]
    )
    assert held.clips == ["a", "b", "c", "d"]
    assert held.aspects == ["motion", "overall"]
    assert [x.choice for x in held.all_choices()] == [1, 1]
