"""The speed and flow studies' own functions, on clips of a moment."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vidrl.rewards import flow, video
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.warp_error import WarpError

ROOT = Path(__file__).parents[2] / "benchmarks"


def script(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def speed():
    return script("peers/rewards_speed.py")


@pytest.fixture(scope="module")
def epe():
    return script("studies/flow_epe.py")


@pytest.fixture(scope="module")
def clip(speed):
    return speed.texture(7, 36)


@pytest.fixture(scope="module")
def file(clip, tmp_path_factory):
    return video.write(tmp_path_factory.mktemp("speed") / "clip.mp4", clip, 16.0)


def test_made_footage_moves_three_pixels_a_frame(clip):
    assert clip.shape == (7, 3, 36, 64) and clip.dtype == torch.uint8
    assert torch.equal(clip[1, :, :, :-3], clip[0, :, :, 3:]) and not torch.equal(clip[0], clip[1])


def test_published_flickering_is_the_papers_number(speed, file):
    frames = video.read(file)[0].double()
    expected = 1 - (frames.diff(dim=0).abs().mean() / 255).item()
    assert speed.published_flickering(file) == pytest.approx(expected, abs=1e-6)
    assert speed.decode(file) == 7


def test_medians_take_turns(speed):
    order = []
    found = speed.medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert (
        order == ["a", "b"] * 3
        and set(found) == {"a", "b"}
        and all(seconds >= 0 for seconds in found.values())
    )


def test_the_set_is_weight_free_and_temporal_but_for_published_formulas_and_orbits(speed):
    found = speed.weight_free()
    assert {
        "flicker",
        "drift",
        "warp_error",
        "frame_quality",
        "pumping",
        "loop",
        "cut",
        "physics",
    } <= set(found)
    assert (
        not any(name.startswith(speed.PUBLISHED) for name in found)
        and "view_consistency" not in found
    )
    assert not any(reward.learned for reward in found.values())


def test_ratios_are_of_decoding_and_of_flow(speed, file):
    lines, seconds = speed.costs(file, {"flicker": Flicker(), "warp_error": WarpError()}, 1)
    assert (
        set(seconds) == {"decode", "flow", "flickering", "published", "default", "all"}
        and len(lines) == 8
    )
    assert lines[-1].endswith(f"| flow | {seconds['all'] / seconds['flow']:.2f} | 2 |")


def test_every_second_is_counted_once_and_nothing_stays_patched(speed, file):
    before = {name: vars(owner).get(name) for owner, name, _ in speed._patches(speed.Clock(), {})}
    rewards = {"flicker": Flicker(), "warp_error": WarpError()}
    start = speed.time.process_time()
    groups = speed.breakdown(file, rewards, 1)
    spent = speed.time.process_time() - start
    assert (
        set(groups["own"]) == set(rewards)
        and "Motion.later" in groups["shared"]
        and groups["decode"]
    )
    assert 0.5 * spent < sum(sum(found.values()) for found in groups.values()) <= spent
    assert {
        name: vars(owner).get(name) for owner, name, _ in speed._patches(speed.Clock(), {})
    } == before
    assert "resume" not in vars(rewards["flicker"])
    assert any("flicker" in line for line in speed.where(groups, 7))


def test_each_shared_function_is_timed_where_it_is_called(speed, file):
    """A name that is patched in the wrong module is timed as part of its callers, silently."""
    groups = speed.breakdown(file, speed.weight_free(), 1)
    assert set(speed.SHARED.values()) <= set(groups["shared"])


def test_a_clock_leaves_out_what_is_called(speed, monkeypatch):
    now = iter([0.0, 1.0, 3.0, 7.0, 15.0])
    monkeypatch.setattr(speed.time, "process_time", lambda: next(now))
    clock = speed.Clock()
    # outer from 1, inner from 3 to 7, outer to 15
    clock.timed("outer", clock.timed("inner", lambda: None))()
    assert clock.seconds == {"outer": 10.0, "inner": 4.0}


def test_tables_are_sorted_and_the_command_is_told(speed, file, tmp_path):
    assert speed.sorted_table("what", {"a": 1.0, "b": 2.0})[2:] == ["| b | 2.00 |", "| a | 1.00 |"]
    speed.main(
        [
            "--quick",
            "--frames",
            "8",
            "--long",
            "0",
            "--copies",
            "0",
            "--out",
            str(tmp_path / "page.md"),
        ]
    )
    page = (tmp_path / "page.md").read_text()
    assert "rewards_speed.py --out" in page and "--quick --frames 8 --long 0 --copies 0" in page
    assert "8 frames of" in page and "weight-free temporal rewards" in page


@pytest.mark.slow
def test_memory_and_throughput_of_processes(speed, file):
    assert 50 < speed.peak(file, 7) < 2000
    assert len(speed.jobs_table(file, 1, 1)) == 6


def test_the_table_of_a_device(speed, clip, monkeypatch):
    monkeypatch.setattr(speed, "weight_free", lambda: {"flicker": Flicker()})
    monkeypatch.setattr(speed, "default", lambda: type("None", (), {"parts": {}})())
    table = speed.on_device("cpu", clip, "", 1)
    assert "| torch |" in table and "not measured" in table
    assert table.splitlines()[-1].endswith("| 0.0e+00 |")


def test_the_truth_of_a_warped_frame_is_its_flow(epe):
    """Following the truth from the first frame gives back the first, but for noise and the
    border."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    frame = (0.5 + 0.2 * torch.sin(x / 5) + 0.2 * torch.cos(y / 6)).expand(1, 3, 60, 80)
    both, truth = epe.warped(frame, noise=0.0)
    back = flow.warp(both[1:], truth)
    assert (back - both[:1]).abs()[..., 12:-12, 12:-12].max() < 0.02
    assert flow.length(truth).max() > 3


def test_errors_are_those_of_the_flow(epe, monkeypatch):
    (case,) = [case for case in epe.synthetic([32], 3) if case.group == "world 32"][:1]
    off = torch.tensor([0.3, 0.4]).view(1, 1, 2, 1, 1)
    wrong = flow.Motion(case.clip[None], case.truth[None] + off, case.truth[None])
    monkeypatch.setattr(flow, "estimate", lambda *_: wrong)
    row = epe.measure("dis", case)
    assert (row.everywhere, row.seen, row.moving) == pytest.approx((0.5, 0.5, 0.5), abs=1e-5)


def test_the_page_of_errors(epe, tmp_path, monkeypatch):
    monkeypatch.setattr(epe, "real", lambda: iter(()))
    epe.main(["--out", str(tmp_path / "page.md"), "--method", "dis", "--size", "16"])
    page = (tmp_path / "page.md").read_text()
    assert "| world 16 | dis |" in page and "python benchmarks/studies/flow_epe.py" in page


def test_two_checkouts_take_turns(monkeypatch):
    """Both copies run every job in every round, the first round does not count, and a ratio is
    the median of the ratios of the rounds."""
    versions = script("peers/reward_versions.py")
    calls = []

    class Worker:
        def __init__(self, checkout):
            self.now = checkout == "now"

        def seconds(self, job):
            calls.append((job, self.now))
            turn = calls.count((job, self.now))
            return 100.0 if turn == 1 else (3.0 if self.now else 4.0) * turn

        def close(self):
            pass

    monkeypatch.setattr(versions, "Worker", Worker)
    found = versions.measure(["before", "now"], 2)
    assert found["flow"] == [(8.0, 6.0), (12.0, 9.0)]
    jobs = len(versions.LABELS)
    turns = [[False, True] * jobs, [True, False] * jobs, [False, True] * jobs]
    assert [now for _, now in calls] == sum(turns, [])  # the checkouts begin in turn
    text = versions.page(found, {"DIS, both ways": 0.25}, "abc", "python x")
    assert "| 10.00 | 7.50 | 0.75 |" in text and "| DIS, both ways | 25 % |" in text
    assert "at most 0.50 times the seconds before, is not met" in text


def test_versions_want_a_checkout(tmp_path, capsys):
    with pytest.raises(SystemExit):
        script("peers/reward_versions.py").main(["--against", str(tmp_path)])
    assert "expected --against a checkout with a folder vidrl" in capsys.readouterr().err


def test_the_peak_of_scoring_counts_what_lives_beside_the_clip(monkeypatch):
    """A reward that holds 64 MB for a moment raises the peak by that, and the clip does not count."""
    memory = script("peers/rewards_memory.py")
    held = 64 << 20

    def reward(samples):
        if samples.video.shape[1] > 9:  # not the small clip that is scored before
            torch.ones(held // 4).sum()

    monkeypatch.setattr(memory, "default", lambda: reward)
    clip = memory.texture(20, 36, 64, "uint8")
    assert torch.equal(clip[1, :, :, :-3], clip[0, :, :, 3:]) and clip.is_contiguous()
    assert memory.peak_beside(clip) == pytest.approx(held, rel=0.1)


def test_the_page_of_peaks_has_a_line_for_each_clip(monkeypatch):
    memory = script("peers/rewards_memory.py")
    monkeypatch.setattr(memory, "measure", lambda case: 2 * 4 * 3 * case[0] * case[1] * case[2])
    text = memory.page(memory.CASES)
    assert "| 33 x 480 x 832 | uint8 | 158.147 | 316.293 | 2.00 |" in text
    assert text.count("| 2.00 |") == 3
