"""vidrl.backbones._encoder_cache: what frozen parts made of a prompt, alone and in company."""

from typing import Any

import torch
from torch import Tensor, nn

from vidrl.backbones._encoder_cache import EncoderCache


class Layers(nn.Module):
    """An encoder of two hidden layers: its input, and twice its input."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"hidden_states": (x, 2 * x)}


def test_a_row_that_is_known_joins_one_that_is_new() -> None:
    """Of the known row one layer alone is kept, since that one was read; of the new row,
    both."""
    memory, encoder = EncoderCache(lambda: torch.device("cpu")), Layers()
    memory.watch(encoder, "forward", offloaded=False)
    x = torch.tensor([[1.0], [3.0]])
    memory.begin([0])
    assert encoder(x[:1])["hidden_states"][-1].tolist() == [[2.0]]
    for rows, expected in (([0, 1], [[2.0], [6.0]]), ([1, 0], [[6.0], [2.0]])):
        memory.begin(rows)
        assert encoder(x[rows])["hidden_states"][-1].tolist() == expected
    memory.begin([1])
    states = encoder(x[1:])["hidden_states"]
    assert states.each()[0] is None and states[-1].tolist() == [[6.0]]
