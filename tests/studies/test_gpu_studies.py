"""The studies of the day a GPU is there: FLOPs, limits of time, resumption and pages by hand."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from vidrl.rewards import Reward, Samples, Score

ROOT = Path(__file__).parents[2]


def loaded(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ROUND, DEVICES, MEMORY = (
    loaded(f"benchmarks/studies/{name}.py") for name in ("gpu_round", "reward_devices", "memory")
)
CHECK = loaded("scripts/gpu_check.py")


# --- a round


def test_flops_are_those_of_the_matrix_product():
    result, flops = ROUND.counted(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
    assert result.shape == (2, 5) and flops == 2 * 2 * 3 * 5


def test_cases_have_names_of_their_own_and_options_that_the_backbone_has():
    from vidrl import plugin
    from vidrl.backbones.pipeline import Pipeline

    known = {option.name for option in plugin.options(Pipeline)}
    for tiny in (True, False):
        names = [case.name for case in ROUND.cases(tiny)]
        assert len(set(names)) == len(names) > 1
    assert {key for options in ROUND.OPTIONS.values() for key in options} <= known
    models = {case.model for case in ROUND.cases(False)}
    assert models == set(ROUND.MODELS)
    # whole-clip and segment credit of one model are compared
    assert {case.segments for case in ROUND.cases(False)} == {1, 9}


def test_the_models_are_known_without_weights():
    from vidrl.cost import families

    assert families.find(ROUND.MODELS["Wan 2.2 5B"])["network"]["num_layers"] == 30
    assert families.find(ROUND.MODELS["Wan 2.1 1.3B"])["network"]["num_layers"] == 30


def case(**changes):
    of = ROUND.Case("Wan 2.1 1.3B", 33, "bf16")
    seconds = {"sample": 2.0, "decode": 1.0, "reward": 0.5, "update": 4.0}
    return replace(of, seconds=seconds, flops={"sample": 1e12, "update": 4e12}, **changes)


def test_a_line_of_the_table():
    found = ROUND.row(case(peak=12.34), 1e12)
    assert found == (
        "| Wan 2.1 1.3B | 33 | bf16 | 1 | 2.00 | 1.00 | 0.50 | 4.00 | 50 % | 100 % | 12.3 |  |"
    )
    failed = replace(ROUND.Case("m", 9, "bf16"), reason="out | of memory")
    assert ROUND.row(failed, math.nan).endswith("| – | – | – | – | – | – | – | out / of memory |")


def test_stored_cases_are_not_measured_again_and_late_ones_are_listed(tmp_path, monkeypatch):
    file, asked = tmp_path / "cases.jsonl", []

    def measured(case, folder, device, left):
        asked.append(case.name)
        return replace(case, seconds={"sample": 1.0})

    monkeypatch.setattr(ROUND, "fresh", measured)
    args = ROUND.argparse.Namespace(cases=file, minutes=1.0, cpu=True)
    first = ROUND.measured(args, "cpu")
    assert asked == [c.name for c in first] and len(file.read_text().splitlines()) == len(first)
    assert [asdict(a)["seconds"] for a in ROUND.measured(args, "cpu")] == [{"sample": 1.0}] * 2
    assert len(asked) == len(first)
    args = ROUND.argparse.Namespace(cases=None, minutes=0.0, cpu=True)
    assert {c.reason for c in ROUND.measured(args, "cpu")} == {"not reached in 0 minutes"}


def test_a_case_that_fails_or_takes_too_long_is_a_line_with_the_reason(tmp_path):
    missing = ROUND.in_process(ROUND.cases(True)[0], tmp_path / "none", "cpu", 100)
    assert "none" in missing.reason and not missing.seconds
    late = ROUND.in_process(ROUND.cases(True)[0], tmp_path, "cpu", 0.01)
    assert late.reason == "not finished after 0 s"


@pytest.mark.slow
def test_a_tiny_round_runs_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "cases.jsonl"
    assert ROUND.main(["--cpu", "--cases", str(file), "--out", str(tmp_path / "page.md")]) == 0
    for line in file.read_text().splitlines():
        found = json.loads(line)
        assert not found["reason"] and found["flops"]["update"] > 0, found
        assert set(found["seconds"]) == {"load", "sample", "decode", "reward", "update"}
    assert "unmeasured" in (tmp_path / "page.md").read_text()


# --- rewards


class Shifted(Reward):
    """A reward whose value depends on the device, as a wrong one would."""

    def forward(self, samples: Samples) -> Score:
        self.calls = getattr(self, "calls", 0) + 1
        return Score(samples.frames.mean((1, 2, 3, 4)) + (0.5 if self.calls == 2 else 0.0))


def test_the_difference_is_relative_to_the_spread_of_the_clips():
    samples = DEVICES.clips(3, 3, 16, 16)
    spread = float(samples.frames.mean((1, 2, 3, 4)).std(correction=0))
    found, remark = DEVICES.difference(Shifted(), samples, samples)
    assert found == pytest.approx(0.5 / spread, rel=1e-4) and remark == ""


def test_a_number_on_one_device_alone_is_an_infinite_difference():
    one, other = torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])
    assert DEVICES.apart(one, other) == math.inf
    assert DEVICES.apart(one, one) == 0
    assert DEVICES.apart(other, other + 0.25) == 0.25


def test_rewards_without_weights_get_vidrls_own_flow():
    found = DEVICES.weight_free()
    assert len(found) >= 20 and found["flicker"].flow == "torch"
    assert not any(reward.learned for reward in found.values())


# --- memory


def test_a_set_of_options_holds_those_before_it():
    assert MEMORY.overrides("bfloat16") == list(MEMORY.SETS["bfloat16"])
    assert MEMORY.overrides("nf4 in place of fp8")[-2:] == [
        "backbone.options.quantization=fp8",
        "backbone.options.quantization=nf4",
    ]


def test_a_cell_names_the_smallest_card_that_holds_the_peak():
    assert MEMORY.shown({"peak": 22.0}) == "22.0 (24)"
    assert MEMORY.shown({"peak": 22.2}) == "22.2 (48)"  # 92 % of 24 GB are 22.08
    assert MEMORY.shown({"peak": 90.0}) == "90.0"
    assert MEMORY.shown({"reason": "ValueError: x"}) == "–"


def test_stored_cells_are_not_traced_again(tmp_path, monkeypatch):
    asked, file = [], tmp_path / "cells.jsonl"
    monkeypatch.setattr(MEMORY, "traced", lambda *key: asked.append(key[:2]) or {"peak": 1.0})
    for _ in range(2):
        found = MEMORY.cells(["ltx"], file)
    assert asked == [("ltx", name) for name in MEMORY.SETS] and len(found) == len(asked)
    assert "1.0 (24)" in MEMORY.page(["ltx"], found, "command")


def test_each_model_of_the_study_is_known_without_weights():
    """A recipe with a misspelt hub id is unknown, too."""
    from vidrl import config
    from vidrl.cost import driven

    for name in MEMORY.MODELS:
        driven.check_here(config.load(ROOT / MEMORY.RECIPES / f"{name}.toml"))


# --- the script that runs all


def test_each_part_names_a_file_that_is_there():
    for cpu in (True, False):
        for part in CHECK.parts(cpu, Path("runs/x")):
            script = part.command[0]
            assert script == "-m" or (ROOT / script).is_file(), script
    assert sum(part.minutes for part in CHECK.parts(False, Path("runs/x"))) <= 10


def test_a_part_that_fails_or_takes_too_long_is_recorded(monkeypatch):
    failed = CHECK.run(CHECK.Part("a", ["-c", "print('words'); raise SystemExit(3)"], 1), False)
    assert (failed.status, failed.result) == (3, "words")
    late = CHECK.run(CHECK.Part("b", ["-c", "import time; time.sleep(60)"], 0.01), False)
    assert late.status == 124 and late.result.startswith("not finished after 1 s")


def test_parts_that_succeeded_are_not_run_again(tmp_path):
    file = tmp_path / "parts.json"
    assert CHECK.earlier(file) == {}
    done = [CHECK.Done(name, "c", status, 1.0, "r") for name, status in (("a", 0), ("b", 1))]
    file.write_text(json.dumps([asdict(d) for d in done]))
    assert list(CHECK.earlier(file)) == ["a"]


def test_another_card_version_or_code_begins_anew():
    """Else a page would hold numbers of two cards, or of code that is no longer there."""
    known = CHECK.facts(True)
    assert set(known) == {"device", "torch", "diffusers", "python", "code"} and all(known.values())
    folder = CHECK.kept(known, True)
    assert CHECK.kept(CHECK.facts(True), True) == folder
    others = {CHECK.kept({**known, name: "other"}, True) for name in known}
    assert len(others | {folder}) == len(known) + 1
    # the parts keep what they have done in that folder alone
    own = [word for p in CHECK.parts(False, folder) for word in p.command if "runs/" in word]
    assert own and all(str(folder) in word for word in own)


def test_code_that_changes_changes_the_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(CHECK, "ROOT", tmp_path)
    (tmp_path / "vidrl").mkdir()
    (tmp_path / "vidrl" / "a.py").write_text("a = 1")
    before = CHECK.facts(True)["code"]
    (tmp_path / "vidrl" / "a.py").write_text("a = 2")
    assert CHECK.facts(True)["code"] != before


def test_the_page_of_an_earlier_call_is_not_taken_for_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(CHECK, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("old")
    write = "import pathlib; pathlib.Path('page.md').write_text('new')"
    link = "[page.md](../../../page.md)"  # from benchmarks/results/training
    for code, result in (("print('failed')", "failed"), (write, link)):
        os.utime(tmp_path / "page.md", (1, 1))
        assert CHECK.run(CHECK.Part("a", ["-c", code], 1, "page.md"), False).result == result


@pytest.mark.parametrize("flag", ["--help", "--cppu"])
def test_flags_are_read_before_the_setup(tmp_path, flag):
    """The copy has no scripts/setup beside it: a call of it would be an error of bash."""
    script = tmp_path / "gpu_check"
    script.write_bytes((ROOT / "scripts/gpu_check").read_bytes())
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["bash", script, flag], capture_output=True, text=True, env=environment, check=False
    )
    if flag == "--help":
        assert done.returncode == 0 and "--again" in done.stdout and not done.stderr
    else:
        told = "gpu_check: expected --again, --cpu or --help, got --cppu\n"
        assert (done.returncode, done.stderr) == (2, told)


def test_the_demo_of_the_check_is_a_recipe_that_vidrl_takes(tmp_path):
    from vidrl import config

    for cpu in (True, False):
        demo = next(part for part in CHECK.parts(cpu, tmp_path) if part.name == "demo")
        _, _, _, recipe, *overrides = demo.command
        made = config.load(recipe, [item for item in overrides if "=" in item])
        assert made.run == f"{tmp_path}/demo" and (made.train.rounds == 2) == cpu


def test_the_page_links_the_pages_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(CHECK, "ROOT", tmp_path)
    part = CHECK.Part("rewards", [], 1.0, "benchmarks/results/rewards/devices.md")
    written = tmp_path / part.page
    written.parent.mkdir(parents=True)
    written.write_text("# A page\n")
    link = CHECK.said(part, "", 0.0, CHECK.page_of(False).parent)
    assert link == "[devices.md](../rewards/devices.md)"
