"""Processes that do not fit are refused before they connect."""

import time

import pytest
from groups import in_group

from vidrl.training import introduction

CPU = {"device": "cpu", "GPU": "none", "torch": "2.13.0", "vidrl": "1.0"}
A, B = (CPU | {"device": "cuda", "GPU": name} for name in ("NVIDIA H200", "NVIDIA L40S"))


@pytest.mark.parametrize(
    "found, expected",
    [
        ([CPU, A, CPU], "the same device on all 3 processes, got cpu on process 0, 2; cuda on"),
        ([A, A, B], "the same GPU on all 3 processes, got NVIDIA H200 on process 0, 1; NVIDIA"),
        ([A, A | {"torch": "2.12.0"}], "the same torch on all 2 processes, got 2.13.0 on"),
        ([A, A | {"vidrl": "0.9"}], "the same vidrl on all 2 processes, got 1.0 on process 0"),
    ],
)
def test_what_differs_is_named_with_the_processes(found, expected):
    with pytest.raises(RuntimeError, match=expected):
        introduction.compare(found)
    introduction.compare([found[0]] * 3)


def test_every_process_is_told_at_once(tmp_path):
    """NCCL on one process and gloo on the other would wait for each other for an hour."""

    def body(rank: int) -> None:
        introduction.introduce(A if rank else CPU, patience=60.0)

    start = time.monotonic()
    assert in_group(tmp_path, body) == [1, 1]
    assert time.monotonic() - start < 60
    for rank in range(2):
        assert "connected by NCCL" in (tmp_path / f"error.{rank}").read_text()


def test_a_process_that_does_not_start_is_an_error(tmp_path):
    def body(rank: int) -> None:
        if rank == 0:
            introduction.introduce(CPU, patience=3.0)

    assert in_group(tmp_path, body) == [1, 0]
    assert (
        "not all of them started and met at MASTER_ADDR within 3 s"
        in (tmp_path / "error.0").read_text()
    )


def test_one_process_has_nobody_to_meet(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    introduction.introduce(CPU)
    assert introduction.facts().keys() == CPU.keys()
