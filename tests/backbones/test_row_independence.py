"""vidrl.backbones._row_independence: whether rows may run together is found out, whichever row
rules."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidrl.backbones import _row_independence
from vidrl.backbones._runner import Row


class FakeRunner:
    """A runner whose prediction is what `mix` makes of the numbers of the rows."""

    def __init__(self, mix: Any, dtype: torch.dtype = torch.float32):
        self.mix = mix
        self.switches = {"network": SimpleNamespace(network=nn.Linear(1, 1, dtype=dtype))}

    def predict(self, rows: list[int], latents: Tensor, time: float) -> Tensor:
        assert len(latents) == len(rows)
        return self.mix(torch.tensor(rows, dtype=torch.float32)[:, None])


def refuse(rows: Tensor) -> Tensor:
    if len(rows) > 1:
        raise TypeError("expected one picture")
    return rows


MIXES = {
    "each for itself": (lambda rows: rows, True),
    "the first row's picture for all": (lambda rows: rows[:1].expand(len(rows), 1), False),
    "the last row's picture for all": (lambda rows: rows[-1:].expand(len(rows), 1), False),
    "a hundred-thousandth of the others": (lambda rows: rows + 2e-5 * rows.sum(), False),
    "the size of the batch": (lambda rows: rows + 1e-3 * len(rows), False),
    "rounding": (lambda rows: rows + 1e-6 * len(rows), True),
    "three rows for two": (lambda rows: rows[:1].expand(2 * len(rows) - 1, 1), False),
    "one row alone": (refuse, False),
}


@pytest.mark.parametrize("mix, expected", MIXES.values(), ids=MIXES.keys())
def test_rows_run_together_where_no_row_changes_another(mix: Any, expected: bool) -> None:
    latents = [torch.full((1, 1), value) for value in (0.5, 1.0, -1.0)]
    assert (
        _row_independence.rows_are_independent(FakeRunner(mix), [1, 2, 3], latents, 0.5) is expected
    )


def test_half_precision_is_rounded_otherwise_in_another_batch_and_alike_in_a_like_one() -> None:
    latents = [torch.full((1, 1), value) for value in (0.5, 1.0, -1.0)]
    size = lambda rows: rows + 1e-2 * len(rows)  # noqa: E731
    others = lambda rows: rows + 1e-3 * rows.sum()  # noqa: E731
    for mix, expected in ((size, True), (others, False)):
        runner = FakeRunner(mix, torch.bfloat16)
        assert _row_independence.rows_are_independent(runner, [1, 2, 3], latents, 0.5) is expected


def test_a_device_without_memory_is_told() -> None:
    def full(rows: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        _row_independence.rows_are_independent(
            FakeRunner(full), [1, 2, 3], [torch.zeros(1, 1)] * 3, 0.5
        )


def test_companions_have_other_texts_of_the_same_words_and_negatives_of_the_pictures() -> None:
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    grey = image.new("RGB", (2, 2), (10, 20, 200))
    row = Row("a", {"image": grey, "video": [grey, grey], "negative_prompt": "low"})
    same, other = _row_independence.neighbours(row, {})
    assert same.references is row.references and other.references["negative_prompt"] == "low"
    assert other.references["image"].getpixel((0, 0)) == (245, 235, 55)
    assert [frame.getpixel((1, 1)) for frame in other.references["video"]] == [(245, 235, 55)] * 2
    assert same.prompt != other.prompt
    assert sorted(same.prompt.split()) == sorted(other.prompt.split())


def test_companions_have_negatives_of_the_pictures_of_the_call_too() -> None:
    """Later rows may bring their own in place of these, as the chunks of a long clip do."""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    grey = image.new("RGB", (2, 2), (10, 20, 200))
    call = {"video": [grey], "image": grey, "mask_image": None, "height": 2}
    same, other = _row_independence.neighbours(Row("a", {"image": image.new("RGB", (2, 2))}), call)
    assert set(same.references) == {"image"}
    assert set(other.references) == {"image", "video"}
    assert other.references["video"][0].getpixel((0, 0)) == (245, 235, 55)
    assert other.references["image"].getpixel((0, 0)) == (255, 255, 255)
