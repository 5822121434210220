"""The study of the bench's speed: its own functions, and that all of it runs."""

import importlib.util
import sys
from pathlib import Path

import pytest
from _clips import write

from vidrl import cli

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
def test_a_quick_run_gives_a_page(speed, tmp_path, monkeypatch):
    """The commands `vidrl bench` run in this process, those whose memory is measured do not."""
    real, here = speed._run, []

    def run(words):
        if words[:3] != [sys.executable, "-m", "vidrl"]:
            return real(words)
        here.append(words)
        assert cli.main(words[3:]) == 0
        return ""

    monkeypatch.setattr(speed, "_run", run)
    speed.main(["--quick", "--out", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert "second run, from the cache" in text and "--quick" in text and text.count("|---|") >= 3
    assert len(here) == 3
