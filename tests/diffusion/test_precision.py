"""The precision of products decides the tolerance of a ratio, in the update as in a proof."""

import torch
from torch import nn

from vidrl import attention
from vidrl.diffusion import precision
from vidrl.training import update


def test_one_table_of_tolerances_for_every_precision():
    assert attention.RATIO_TOLERANCE is precision.RATIO_TOLERANCE is update.RATIO_TOLERANCE
    assert set(precision.RATIO_TOLERANCE) == {torch.float32, *precision.MIXED.values()}
    tolerances = [precision.RATIO_TOLERANCE[dtype] for dtype in (torch.float32, *precision.HALF)]
    assert tolerances == [1e-5, 2e-2, 5e-3]


def test_half_precision_beside_float32_counts_and_mixed_precision_decides():
    wide, half = nn.Linear(2, 2), nn.Linear(2, 2).bfloat16()
    assert precision.of_products([wide, half]) == torch.bfloat16
    assert precision.of_products([half], "fp16") == torch.float16
    assert precision.of_products([wide.double()]) == torch.float32
