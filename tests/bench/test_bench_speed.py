"""The study of the bench's speed: its own functions, and that all of it runs."""

import importlib.util
from pathlib import Path

import pytest
from _clips import write

FILE = Path(__file__).parents[2] / "benchmarks" / "peers" / "bench_speed.py"


@pytest.fixture(scope="module")
def speed():
    spec = importlib.util.spec_from_file_location("bench_speed", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_arithmetic_is_that_of_our_dim(speed, tmp_path):
    path = write(tmp_path / "a.mkv", side=64)  # lossless: no two decoders differ
    assert speed.published(path) == pytest.approx(speed.ours(speed.FLICKERING)(path), abs=1e-6)


def test_clips_are_all_different(speed, tmp_path):
    assert len({path.read_bytes() for path in speed.clips(tmp_path, 6, 5, 32)}) == 6


@pytest.mark.slow
def test_a_quick_run_gives_a_page(speed, tmp_path):
    speed.main(["--quick", "--out", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert "second run, from the cache" in text and "--quick" in text and text.count("|---|") >= 3
