"""Text in clips: the sum by hand, quotations, and drawn letters read by the real models."""

import importlib.util

import numpy as np
import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards.ocr import CURE, Ocr, distance, likeness, quoted
from vidrl.synthetic import corruptions

needs_models = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in Ocr.needs), reason=CURE
)
SIGN = ['a neon sign that says "OPEN 24h"']


def written(text: str, frames: int = 1) -> torch.Tensor:
    """A clip (1, F, 3, 96, 256) with a line of text that moves to the right."""
    cv2 = pytest.importorskip("cv2")
    pictures = [np.full((96, 256, 3), 90, np.uint8) for _ in range(frames)]
    for t, picture in enumerate(pictures):
        cv2.putText(
            picture,
            text,
            (10 + 4 * t, 60),
            cv2.FONT_HERSHEY_SIMPLEX,
            1.0,
            (250, 240, 230),
            2,
            cv2.LINE_AA,
        )
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[None].float() / 255


def by_light(frame: np.ndarray) -> list[str]:
    """A reader that knows a word for each brightness."""
    return {0: ["kitten"], 100: ["sit", "ting"], 200: []}[int(frame[0, 0, 0])]


def test_the_sum_by_hand():
    light = (
        torch.tensor([0, 100, 200, 0], dtype=torch.uint8).view(1, 4, 1, 1, 1).expand(1, 4, 3, 8, 8)
    )
    samples = Samples(light, ['"Sitting"'], 2.0)
    score = Ocr(reader=by_light)(samples)  # kitten to sitting: three of seven letters
    assert score.frames[0].tolist() == pytest.approx([4 / 7, 1.0, 0.0, 4 / 7])
    assert Ocr(reader=by_light, pool="best")(samples).value.item() == pytest.approx(1.0)
    assert Ocr(reader=by_light, text="kitten")(samples).frames[0, 0].item() == 1.0


def test_frames_not_read_lie_on_a_line():
    light = (
        torch.tensor([100, 0, 200, 100, 100], dtype=torch.uint8)
        .view(1, 5, 1, 1, 1)
        .expand(1, 5, 3, 8, 8)
    )
    score = Ocr(reader=by_light, looks=2.0)(Samples(light, ['"sitting"'], 4.0))
    assert score.frames[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.5, 1.0])


def test_a_prompt_that_quotes_nothing_is_inapplicable_also_in_pieces():
    video = torch.zeros(2, 4, 3, 8, 8)
    score = Ocr(reader=by_light)(Samples(video, ["a dog's day", '"kitten"'], 2.0))
    assert score.value.isnan().tolist() == [True, False] and score.value[1] == 1.0
    assert score.why == ["inapplicable: the prompt quotes no text to be read", None]
    stream = Ocr(reader=by_light).stream(2.0, "a dog")
    stream.update(video[0])
    assert stream.result().value.isnan().all() and stream.result().why[0] == score.why[0]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ('says "SALE" and "50 %"', ["SALE", "50 %"]),
        ("says “Grand Hôtel”", ["Grand Hôtel"]),
        ("says 'Bob' in the dog's house", ["Bob"]),
        ("it's the boys' club", []),
        ('an empty "" sign', []),
    ],
)
def test_quotations(prompt, wanted):
    assert quoted(prompt) == wanted


def test_edit_distance_keeps_the_rules_of_a_distance():
    words = ["", "a", "ab", "ba", "abc", "xyz", "kitten", "sitting"]
    for a in words:
        for b in words:
            assert distance(a, b) == distance(b, a) and (distance(a, b) == 0) == (a == b)
            assert all(distance(a, c) <= distance(a, b) + distance(b, c) for c in words)
    assert likeness("a" * 50, "bcd") == 0.0


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="pool.*'max'"):
        Ocr(pool="max")
    with pytest.raises(ValueError, match="looks"):
        Ocr(looks=0)


@needs_models
def test_drawn_letters_are_read():
    reward = Ocr()
    texts = ("OPEN 24h", "OPEN 42h", "", "SALE")
    values = {text: reward(Samples(written(text), SIGN, 2.0)).value.item() for text in texts}
    assert values["OPEN 24h"] == 1.0 and values["OPEN 42h"] == pytest.approx(5 / 7, abs=1e-5)
    assert values[""] == 0.0 and values["SALE"] < 0.3


@needs_models
@pytest.mark.slow
@pytest.mark.parametrize("fault", Ocr.lowered_by)
def test_lowered_by_what_it_says(fault):
    video = written("OPEN 24h", frames=4)
    bad = corruptions.corrupt(video[0], fault, seed=1)[None]
    clean, worse = Ocr()(Samples(torch.cat([video, bad]), SIGN * 2, 2.0)).value.tolist()
    assert worse < clean == 1.0
