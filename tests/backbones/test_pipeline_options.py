"""The options of the backbone `pipeline`: each does what it says, and changes no number
else."""

import functools
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import rows as table

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS

from vidrl import config
from vidrl.attention import AttentionError
from vidrl.backbones.pipeline import Pipeline
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws

MIDDLE = 0.5


def made(name: str = "wan", **options) -> Pipeline:
    return Pipeline(FAMILIES[name].build(), FAMILIES[name].call, **options)


def predicted(backbone: Pipeline) -> torch.Tensor:
    x = backbone.noise(draws(0, [("a",), ("b",)]))
    return backbone.predict(x, torch.full((2,), MIDDLE), backbone.encode(PROMPTS))


@functools.cache
def expected() -> torch.Tensor:
    """What the tiny Wan predicts without any option."""
    with torch.no_grad():
        return predicted(made())


def trainer(folder: Path, family: str, options=(), **algorithm) -> Trainer:
    """A trainer of one GRPO round on a family's pipeline, which is saved to a folder
    first."""
    FAMILIES[family].build().save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    call = dict(FAMILIES[family].call)
    few = {"prompts_per_round": 1, "group": 2, "eval_every": 9, "eval_steps": 2, "show": 1}
    return Trainer.from_recipe(
        config.load(
            {
                "run": str(folder / "run"),
                "backbone": {
                    "name": "pipeline",
                    "options": {"model": str(folder / "model"), "call": call, **dict(options)},
                },
                "policy": {"lora_rank": 2, "lora_alpha": 2},
                "reward": {"name": "toys:Brightness"},
                "algorithm": {"name": "grpo", "options": {"steps": 4, **algorithm}},
                "data": {
                    "prompts": str(folder / "prompts.txt"),
                    "held_out": str(folder / "prompts.txt"),
                    "held_out_n": 1,
                },
                "train": {"rounds": 1, "learning_rate": 1e-2, "micro_batch": 1, **few},
            }
        )
    )


# offload


def test_offloaded_encoders_rest_on_the_cpu_and_the_other_parts_move() -> None:
    backbone = made(offload=True).to("meta")
    encoder, network = backbone.frozen["text_encoder"], backbone.networks["transformer"]
    assert {w.device.type for w in encoder.parameters()} == {"cpu"}
    assert {w.device.type for w in network.parameters()} == {"meta"}
    assert {w.device.type for w in backbone.autoencoder.parameters()} == {"meta"}
    assert {w.device.type for w in made().to("meta").frozen["text_encoder"].parameters()} == {
        "meta"
    }


def test_offloaded_encoders_visit_the_device_only_to_encode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = made(offload=True)
    encoder, places = backbone.frozen["text_encoder"], [[]]
    monkeypatch.setattr(encoder, "to", lambda device: places[-1].append(str(device)))
    backbone.encoder_cache.device = lambda: torch.device(
        "cpu:0"
    )  # told apart from "cpu", and the same
    with torch.no_grad():
        first = predicted(backbone)
        visits = places[0]
        places.append([])
        again = predicted(backbone)
    assert torch.equal(first, expected()) and torch.equal(again, first)
    assert visits and visits == ["cpu:0", "cpu"] * (len(visits) // 2) and not places[1]


# dtype


def test_a_round_in_bfloat16_trains_a_lora_in_float32(tmp_path: Path) -> None:
    made = trainer(tmp_path, "wan", {"dtype": "bfloat16"})
    frozen = {
        name: w for name, w in made.backbone.network.named_parameters() if ".lora_" not in name
    }
    kinds = {
        name: {w.dtype for w in part.parameters()} for name, part in made.backbone.frozen.items()
    }
    assert (
        kinds["text_encoder"] <= {torch.bfloat16, torch.float32}
        and torch.bfloat16 in kinds["text_encoder"]
    )
    assert kinds["vae"] == {torch.float32}
    assert torch.bfloat16 in {w.dtype for w in frozen.values()}
    assert {w.dtype for w in made.policy.weights.values()} == {torch.float32}
    before = {name: w.detach().clone() for name, w in frozen.items()}
    made.go(False)
    assert all(torch.equal(w, before[name]) for name, w in frozen.items())
    assert changed(made.policy)
    (row,) = table(tmp_path / "run")
    assert row["ratio"]["min"] > 0.9 and row["ratio"]["max"] < 1.1


def changed(policy: Policy) -> set[str]:
    """The trained weights that moved."""
    names = policy.weights.items()
    return {
        name
        for (name, w), old in zip(names, policy.sets["reference"], strict=True)
        if not torch.equal(w, old)
    }


def test_a_pipeline_in_memory_keeps_its_own_precision() -> None:
    with pytest.raises(ValueError, match="dtype.*a pipeline in memory.*pipe.to"):
        made(dtype="bfloat16")


# attention


def test_an_attention_kernel_is_proven_and_used() -> None:
    backbone = made(attention="_native_math")
    backbone.ready()
    assert torch.allclose(predicted(backbone), expected(), atol=1e-5)
    assert backbone.attention_switch.proofs["attention"].calls == {"kernel": 8}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("_native_cudnn", "'cudnn' cannot be used: it needs a CUDA device"),
        ("flash3", "flash_attn_interface is not installed: build the folder hopper"),
        ("sage", "for inference only"),
        ("flahs", "did you mean 'flash'"),
    ],
)
def test_an_attention_kernel_that_does_not_work_stops_a_run_before_any_clip(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(AttentionError, match=message):
        trainer(tmp_path, "wan", {"attention": name})
    assert not (tmp_path / "run").exists()


# gradient_checkpointing


def test_a_checkpointed_decode_has_the_same_gradient_and_is_computed_twice() -> None:
    gradients, runs = [], []
    for saves in (False, True):
        backbone = made(gradient_checkpointing=saves)
        calls: list[int] = []
        backbone.autoencoder.decoder.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        z = backbone.noise(draws(0, [("a",)])).requires_grad_()
        backbone.decode(z).square().sum().backward()
        gradients.append(z.grad)
        runs.append(len(calls))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6) and gradients[0].any()
    assert runs[1] == 2 * runs[0]


def test_a_round_with_gradient_checkpointing_ends_with_the_same_weights(tmp_path: Path) -> None:
    ends, blocks = [], []
    for saves in (False, True):
        made = trainer(tmp_path / str(saves), "wan", {"gradient_checkpointing": saves})
        calls: list[int] = []
        made.backbone.network.blocks[0].register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        made.go(False)
        ends.append(made.policy.weights)
        blocks.append(len(calls))
    assert blocks[1] > blocks[0]  # each layer of an update runs twice
    for name, weight in ends[0].items():
        assert torch.allclose(weight, ends[1][name], atol=1e-5), name


def test_checkpointing_that_changes_a_prediction_is_refused_before_any_round() -> None:
    Pipeline(FAMILIES["wan"].build(), FAMILIES["wan"].call, gradient_checkpointing=True).ready()
    chroma = Pipeline(
        FAMILIES["chroma"].build(), FAMILIES["chroma"].call, gradient_checkpointing=True
    )
    told = (
        "the prediction of ChromaTransformer2DModel as it is, got .*: set "
        "gradient_checkpointing = false"
    )
    with pytest.raises(ValueError, match=told):
        chroma.ready()


# train


@pytest.mark.parametrize("train", [("transformer",), ("transformer_2",), ()])
def test_a_round_changes_the_experts_that_are_trained_and_no_other(
    tmp_path: Path, train: tuple[str, ...]
) -> None:
    """The steps of the other expert are sampled with, and have no gradient."""
    made = trainer(tmp_path, "wan22", {"train": list(train)})
    networks = made.backbone.networks
    before = {key: w.detach().clone() for one in networks for key, w in weights(networks, one)}
    made.go(False)
    for one in networks:
        moved = {key for key, w in weights(networks, one) if not torch.equal(w, before[key])}
        assert all(".lora_" in key for key in moved)
        assert bool(moved) == (not train or one in train), one
    (row,) = table(tmp_path / "run")
    assert row.get("trained_share", 1.0) == (pytest.approx(0.5) if train else 1.0)


def weights(networks: dict[str, nn.Module], name: str):
    return [(f"{name}.{key}", w) for key, w in networks[name].named_parameters()]


def test_a_round_of_steps_that_no_trained_expert_takes_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, "wan22", {"train": ["transformer_2"]}, window=1)
    with pytest.raises(RuntimeError, match="no trained network takes part.*backbone.options.train"):
        made.go(False)


# model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model") / "wan"
    FAMILIES["wan"].build().save_pretrained(made)
    return made


def changed_folder(folder: Path, made: Path, **index: object) -> Path:
    """A copy of a folder whose index says something else."""
    shutil.copytree(folder, made)
    file = made / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return made


def test_a_component_that_is_not_there_is_named_before_any_is_loaded(
    folder: Path, tmp_path: Path
) -> None:
    made = changed_folder(folder, tmp_path / "made")
    shutil.rmtree(made / "transformer")
    with pytest.raises(ValueError, match="got no folder transformer there: copy the whole model"):
        Pipeline(made)


def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "nothing"):
        with pytest.raises(
            ValueError, match="there is no such folder: name a folder that save_pretrained"
        ):
            Pipeline(name)


def test_a_pipeline_that_a_newer_diffusers_saved_is_told_or_refused(
    folder: Path, tmp_path: Path
) -> None:
    call = FAMILIES["wan"].call
    later = {"_diffusers_version": "99.1.0"}
    notes = Pipeline(changed_folder(folder, tmp_path / "later", **later), call).notes
    assert notes[0].startswith("diffusers 99.1.0 saved the model, which is newer")
    assert not any("newer" in note for note in Pipeline(folder, call).notes)
    unknown = changed_folder(
        folder, tmp_path / "unknown", transformer=["diffusers", "Wan9Transformer3DModel"], **later
    )
    with pytest.raises(
        ValueError, match="no class `Wan9Transformer3DModel`.*install diffusers 99.1.0"
    ):
        Pipeline(unknown, call)


def test_a_folder_is_opened_without_a_warning(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        Pipeline(folder, FAMILIES["wan"].call)
