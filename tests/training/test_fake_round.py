"""A whole round of Wan 2.1 1.3B on fake tensors of a GPU keeps to its devices and dtypes.

`fake_round.py` is the round. Each runs in a process of its own, because it gives torch device
guards and answers for a driver that is not there.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("fake_round.py")


def round_with(fault: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *([fault] if fault else [])]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_round_keeps_its_devices_and_dtypes():
    done = round_with("")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("the round keeps its plan\n")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("host", "numbers to the host"),
        ("double", "numbers in float64"),
        ("half", "expected the prediction torch.float32 on cuda, got torch.bfloat16"),
        ("device", "at least two devices"),
    ],
)
def test_a_planted_fault_is_found(fault, message):
    done = round_with(fault)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr[-3000:]
