"""What a recipe of a driven pipeline costs, against runs of the pipeline, counted by
hooks."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers", reason="needs vidrl[train]")
sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))

from families import FAMILIES

from vidrl import config, cost
from vidrl.backbones.pipeline import Pipeline
from vidrl.cost import table
from vidrl.training import loop


def recipe(tmp_path: Path, model: str, call: dict, sampler: str):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    return config.build(
        {
            "run": str(tmp_path / "run"),
            "backbone": {"name": "pipeline", "options": {"model": model, "call": call}},
            "policy": {"lora_rank": 2, "lora_alpha": 2},
            "algorithm": {
                "name": "grpo",
                "options": {"steps": 4, "train_steps": 1, "sampler": sampler},
            },
            "reward": {"name": "flicker"},
            "data": {"prompts": str(prompts), "held_out": str(prompts), "held_out_n": 2},
            "train": {"rounds": 1, "prompts_per_round": 2, "group": 2, "eval_steps": 2},
        }
    )


@pytest.fixture(scope="module", params=[("sd15", "ddim"), ("wan", "dance_sde")])
def told(request, tmp_path_factory):
    name, sampler = request.param
    tmp_path, family = tmp_path_factory.mktemp(name), FAMILIES[name]
    family.build().save_pretrained(tmp_path / "model")
    made = recipe(tmp_path, str(tmp_path / "model"), dict(family.call), sampler)
    return family, made, cost.estimate(made, measure=False)


def test_parameters_are_those_of_the_parts(told):
    family, _, found = told
    pipe = family.build()
    for name, n in found.shape["parameters"].items():
        assert n == sum(p.numel() for p in getattr(pipe, name).parameters())
    assert set(found.shape["parameters"]) >= {"vae", "text_encoder"}
    assert found.shape["tokens"] is None and found.calls["guidance_rows"] is None


def test_flops_of_a_call_and_a_decode_are_those_that_torch_counts(told):
    """torch's own counter, over one prediction and one decode of the pipeline in memory."""
    family, _, found = told
    backbone = Pipeline(family.build(), dict(family.call))
    cond, t = backbone.encode(["a red circle"]), torch.full((1,), backbone.times(4)[0])
    x = backbone.noise([torch.Generator().manual_seed(0)])
    counted = []
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for run in (lambda: backbone.predict(x, t, cond), lambda: backbone.decode_with(x, cond)):
            run()
            with FlopCounterMode(display=False) as counter:
                clip = run()
            counted.append(counter.get_total_flops())
    assert found.flops["decode_a_clip"] == counted[1]
    assert counted[0] < found.flops["call"] < 1.2 * counted[0]  # LoRA of rank 2 comes on top
    assert [found.shape["frames"], *found.shape["pixels"]] == [clip.shape[i] for i in (1, 3, 4)]


@pytest.mark.parametrize("told", [("wan", "dance_sde")], indirect=True)
def test_calls_are_those_of_a_run(told, monkeypatch):
    _, made, found = told
    seen, real = [], Pipeline.predict

    def counted(self, x, t, cond):
        seen.append(len(x))
        return real(self, x, t, cond)

    monkeypatch.setattr(Pipeline, "predict", counted)
    loop.run(made)
    assert sum(seen) == found.calls["run"] and found.calls["sampling"] == 4 * 4
    assert "parameters of vae" in (text := table.text(table.blocks(found))) and "unknown" in text


def test_a_hub_id_that_is_not_here_says_what_is_known(tmp_path):
    made = recipe(tmp_path, "someone/no-such-model", {}, "ddim")
    with pytest.raises(
        ValueError,
        match="Known without it: 4 clips a round, 1 rounds. Not known: "
        ".*hf download someone/no-such-model --local-dir FOLDER",
    ):
        cost.estimate(made)
