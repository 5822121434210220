"""The study of attention backends: FLOPs by hand, refusals, resumption and the page's rows."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vidrl import attention

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    path = ROOT / "benchmarks" / "studies" / "attention.py"
    spec = importlib.util.spec_from_file_location("attention_study", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_flops_by_hand(study):
    # scores: 5 x 5 numbers of 7 products and sums, and the output: 5 x 7 numbers of 5
    products = 2 * (5 * 5 * 7 + 5 * 7 * 5)
    assert study.flops(2, 3, 5, 7) == 2 * 3 * products == 4 * 2 * 3 * 5**2 * 7
    forward, both = study.flops(1, 2, 8, 64), study.flops(1, 2, 8, 64, backward=True)
    assert both - forward == 2.5 * forward


def test_a_right_backend_is_measured(study):
    row = study.measure(study.Row("math", 64, 256), "cpu", quick=True)
    assert row.forward > 0 and row.both > 0 and row.reason == ""
    # a process that has run before reuses its memory: the peak is right in a fresh one alone
    assert row.forward_bytes >= 0 and row.both_bytes >= 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda q, k, v: 1.01 * attention.proof.formula(q, k, v), "output is 0.01 away"),
        (lambda q, k, v: q.no_such_thing, "does not run on cpu in torch.float32: AttributeError"),
    ],
)
def test_a_backend_with_other_numbers_is_refused(study, wrong, reason):
    row = study.measure(study.Row("fake", 64, 64), "cpu", quick=True, kernel=wrong)
    assert row.reason.startswith("refused: ") and reason in row.reason
    assert (row.forward, row.both, row.forward_bytes, row.both_bytes) == (None,) * 4


def test_a_backend_without_gradients_is_measured_forward_only(study):
    kernel = lambda q, k, v: attention.proof.formula(q, k, v).detach()  # noqa: E731
    row = study.measure(study.Row("fake", 128, 64), "cpu", quick=True, kernel=kernel)
    assert row.forward > 0 and row.both is None
    assert (
        row.reason.startswith("forward only: ") and "gives no gradient of the query" in row.reason
    )


def test_too_little_memory_is_a_remark(study, monkeypatch):
    def out_of_memory(*_):
        raise RuntimeError("not enough memory: you tried to allocate 1 TB\nmore lines")

    monkeypatch.setattr(study, "cost", out_of_memory)
    row = study.measure(study.Row("sdpa", 64, 64), "cpu", quick=True)
    assert row.reason == "RuntimeError: not enough memory: you tried to allocate 1 TB"
    assert row.forward is None


def test_a_process_that_dies_is_a_remark(study):
    row = study.in_process(study.Row("sdpa", -64, 64), "cpu", True)
    assert row.forward is None and row.reason.startswith("its process ended with status 1: ")


PEAK = """
import subprocess
import sys
sys.path.insert(0, {folder!r})
import attention
before = attention.start_peak("cpu")
block = bytearray(1 << 30)
print(attention.peak("cpu") - before)
"""


def test_the_peak_is_that_of_this_process(study):
    # a fresh process: not every kernel lets a process lower the peak that it has had before
    folder = str(Path(study.__file__).parent)
    command = [sys.executable, "-c", PEAK.format(folder=folder)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 512 << 20 < grown < 2 << 30


def test_the_share_of_the_limit(study):
    row = study.Row("sdpa", 64, 1024)
    work = 4 * 2 * 1024**2 * 64  # two heads on a CPU
    assert study.share(1.0, row, "cpu", 2 * work, False) == "50 %"
    assert study.share(3.5, row, "cpu", 2 * work, True) == "50 %"
    assert study.share(None, row, "cpu", 1.0, True) == "–"


def made(row, *_):
    """A measured row without a process."""
    seconds = {"math": 4.0}.get(row.backend, 2.0)
    if row.backend == "flex":
        return replace(row, forward=1.0, forward_bytes=10**6, reason="forward only: a | b")
    return replace(row, forward=1.0, forward_bytes=10**6, both=seconds, both_bytes=3 * 10**6)


def test_the_page_has_a_row_for_each_backend(study, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "in_process", made)
    monkeypatch.setattr(study, "limit", lambda device: 1e9)
    page = tmp_path / "page.md"
    study.main(["--device", "cpu", "--lengths", "256", "512", "--out", str(page)])
    text = page.read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) == 4 * 2 * 2 + len(study.CUDA_ONLY)
    assert {line.count("|") for line in lines} == {11}
    for name in study.CPU:
        assert sum(line.startswith(f"| `{name}` | ") for line in lines) == 4
    for name in study.CUDA_ONLY:
        (line,) = [line for line in lines if line.startswith(f"| `{name}` | ")]
        assert line.endswith("unmeasured: needs a CUDA device |")
    assert "No row of a GPU is measured yet" in text and "torch 2" in text
    assert (
        f"python benchmarks/studies/attention.py --device cpu --lengths 256 512 --out {page}"
        in text
    )
    assert text.count("`sdpa` is 2.0 times as fast, with 100.0 % of the peak") == 2
    assert "- Width 64, 512 tokens, forward and backward, against `math`: `sdpa`" in text


def test_the_backends_are_all_that_have_a_plain_name(study):
    assert set(study.CPU + study.CUDA_ONLY) == set(attention.KERNELS)
    tried = [row.backend for row in study.cells("cuda", study.LENGTHS["cuda"], quick=False)]
    assert len(tried) == 2 * 8 * len(set(tried)) and set(tried) == set(study.CPU + study.CUDA_ONLY)


def test_a_second_call_continues(study, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "limit", lambda device: 1e9)
    file, page = tmp_path / "cells.jsonl", tmp_path / "page.md"
    command = ["--device", "cpu", "--quick", "--cells", str(file), "--out", str(page)]
    done = []

    def stops(row, *_):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(row.backend)
        return made(row)

    monkeypatch.setattr(study, "in_process", stops)
    with pytest.raises(KeyboardInterrupt):
        study.main(command)
    monkeypatch.setattr(study, "in_process", lambda row, *_: done.append(row.backend) or made(row))
    study.main(command)
    assert done == list(study.CPU) and page.exists()
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert names == ["limit", *(f"{name} 64 1024" for name in study.CPU)]
    # numbers of another device are measured anew
    monkeypatch.setattr(study, "setup", lambda device: "another device")
    study.main(command)
    assert done == 2 * list(study.CPU)


def test_the_peak_of_a_process_of_its_own_holds_the_weights_of_two_heads(study):
    row = study.dict_of_cell(study.Row("math", 64, 512), "cpu", True)
    assert row["both_bytes"] >= 2 * 512**2 * 4
