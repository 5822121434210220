"""vidrl export: from a run, a folder or a file, to where it was asked, and never over what
it read."""

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs vidrl[train]")
from vidrl import lora
from vidrl.backbones.toy import Toy
from vidrl.backbones.wan import Wan
from vidrl.cli import main
from vidrl.training.policy import Policy


@pytest.fixture
def run(tmp_path):
    """What a run folder holds that export looks at."""
    folder = tmp_path / "runs" / "mine.v2"
    policy = Policy(Wan.tiny(), rank=2, alpha=6)
    for p in policy.weights.values():
        p.data += 1
    policy.save(folder / "lora")
    (folder / "config.toml").write_text("")
    return folder


def export(*words) -> int:
    return main(["export", *map(str, words)])


@pytest.mark.parametrize("form", lora.FORMATS)
def test_a_run_a_folder_and_a_file_give_the_same_lora(form, run, tmp_path, capsys):
    file = run / "lora" / "pytorch_lora_weights.safetensors"
    expected, name = lora.read(file), f"mine.v2-{form}"
    for i, source in enumerate((run, run / "lora", file)):
        assert export(source, "--format", form, "--out", tmp_path / f"{i}.out") == 0
        found = lora.read(tmp_path / f"{i}.out")
        assert found.alphas == expected.alphas
        assert all(
            torch.equal(found.weights[key], value) for key, value in expected.weights.items()
        )
    assert "16 modules, rank 2, alpha 6, in" in capsys.readouterr().out
    assert export(run, "--format", form) == 0 and export(run / "lora", "--format", form) == 0
    ends = "" if form in ("diffusers", "peft") else ".safetensors"
    assert (run / f"{name}{ends}").exists() and (run / f"lora-{form}{ends}").exists()


def test_a_file_is_named_as_asked(run, tmp_path):
    assert export(run, "--format", "comfyui", "--out", tmp_path / "loras" / "x.safetensors") == 0
    assert len(load_file(tmp_path / "loras" / "x.safetensors")) == 3 * 16


def test_a_lora_that_changes_nothing_is_said_so(run, tmp_path, capsys):
    Policy(Wan.tiny(), rank=2).save(tmp_path / "new")
    assert export(tmp_path / "new", "--format", "peft") == 0
    assert "every lora_B is 0" in capsys.readouterr().out
    assert export(run, "--format", "peft") == 0
    assert "every lora_B is 0" not in capsys.readouterr().out


def refused(capsys, *words) -> str:
    assert export(*words) == 2
    return capsys.readouterr().err


def test_wrong_inputs(run, tmp_path, capsys):
    file = run / "lora" / "pytorch_lora_weights.safetensors"
    before = file.read_bytes()
    assert "another path than" in refused(
        capsys, run, "--format", "diffusers", "--out", run / "lora"
    )
    assert "another path than" in refused(capsys, file, "--format", "comfyui", "--out", file)
    assert file.read_bytes() == before
    words = refused(capsys, run, "--format", "peft", "--out", tmp_path / "x.safetensors")
    assert "expected a folder for --format peft" in words
    assert "does not exist" in refused(capsys, tmp_path / "none", "--format", "peft")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.toml").write_text("")
    assert "without the folder lora" in refused(capsys, tmp_path / "open", "--format", "peft")
    Policy(Toy(), full=True).save(tmp_path / "full")
    assert "all weights of a network" in refused(capsys, tmp_path / "full", "--format", "peft")
    state = load_file(file)
    save_file(
        {k: v for k, v in state.items() if "blocks.0.attn1.to_q.lora_B" not in k},
        tmp_path / "half.safetensors",
    )
    words = refused(capsys, tmp_path / "half.safetensors", "--format", "comfyui")
    assert "blocks.0.attn1.to_q has no lora_B" in words
    with pytest.raises(SystemExit):
        export(run, "--format", "comfy")
