"""The traced peaks against an independent one: torch's own memory tracker."""

import pytest
import torch
from torch import nn

from vidrl.cost import families, tracing

WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def tracked(run, module):
    """The bytes that torch's tracker sees at the peak, without the module's weights."""
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    tracker.track_external(module)
    with tracker:
        run()
    peaks = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return peaks["Total"] - tracing.size(module)


def test_peak_of_a_small_network_is_exactly_torchs():
    net = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    with tracing.shapes():
        tracing.drop_numbers(net)
        x = torch.empty(512, 256)

        def run():
            net(x).sum().backward()

        traced = tracing.trace(run, [*net.parameters(), x])[1]
        net.zero_grad(set_to_none=True)
        assert traced == tracked(run, net)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_of_wan_shapes_agrees_with_torchs_within_five_percent(checkpointing):
    """Two blocks of Wan-1.3B at 5 frames of 240 x 416, all weights trained, with backward."""
    pytest.importorskip("diffusers", reason="needs vidrl[train]")
    call = {"height": 240, "width": 416, "num_frames": 5, "guidance_scale": 1.0}
    made = families.Skeleton(WAN, call, 2, torch.bfloat16)
    if checkpointing:
        made.network.enable_gradient_checkpointing()
    with tracing.shapes():
        tracing.drop_numbers(made.network)
        made.network.requires_grad_(True)  # the tracker's hooks need a gradient in each module
        x, t, cond = torch.empty(1, *made.shape), torch.empty(1), made.encode(["a"])
        known = [*made.network.parameters(), *made.network.buffers(), x, t, *cond.values()]

        def run():
            made.predict(x, t, cond).sum().backward()

        traced = tracing.trace(run, known)[1]
        made.network.zero_grad(set_to_none=True)
        assert traced == pytest.approx(tracked(run, made.network), rel=0.05)
