"""The pretended GPU refuses what a real one refuses, and notes each copy."""

import pytest
import torch
from pretend_gpu import Mixed, PretendGpu


def test_numbers_are_real_and_their_copies_are_noted():
    with PretendGpu() as gpu:
        x = torch.arange(4.0, device="cuda:0")
        total = (2 * x).sum()
        assert (x.device.type, total.item(), x[1:3].tolist()) == ("cuda", 12.0, [1.0, 2.0])
        x += torch.ones(4).to(x)
        x.cpu()
    assert [copy.numbers for copy in gpu.down] == [1, 2, 4]
    assert [copy.numbers for copy in gpu.up] == [4]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.where(here > 0, there, there),
        lambda there, here: there.gather(0, here.long()),
        lambda there, here: here[there.long()],
        lambda there, here: there.masked_fill(here > 0, 0),
    ],
)
def test_tensors_of_two_devices_do_not_mix(mixed):
    with PretendGpu(), pytest.raises(Mixed, match="cuda and on cpu"):
        mixed(torch.ones(3, device="cuda:0"), torch.ones(3))


def test_single_numbers_and_indices_of_the_host_are_accepted():
    with PretendGpu():
        there = torch.arange(3.0, device="cuda:0")
        assert (there * torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0]
        assert there[torch.tensor([2, 0])].tolist() == [2.0, 0.0]
        with pytest.raises(TypeError, match="cuda:0"):
            there.numpy()


def test_complex_numbers_are_those_of_the_host():
    z = torch.complex(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0]))
    with PretendGpu():
        there = z.to("cuda:0")
        found = (there.conj() * there).cpu(), there.conj().imag.cpu(), (-there).real.cpu()
    expected = (z.conj() * z), z.conj().imag.clone(), (-z).real
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_memory_that_is_freed_is_no_longer_counted():
    with PretendGpu() as gpu:
        x = torch.zeros(1000, device="cuda:0")
        y = x[:10]
        assert gpu.living() == 4000
        del x
        assert gpu.living() == 4000, "a view keeps the memory of its base"
        del y
        assert gpu.living() == 0
