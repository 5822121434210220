"""The memory options of the backbones: the prediction and the LoRA's gradient stay the same, or
are those of the rounded weights; what cannot work is refused."""

import functools
import importlib.util
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from diffusers.hooks.group_offloading import ModuleGroup
from families import FAMILIES, PROMPTS

from vidrl.backbones import _memory, _quantization, _tiny
from vidrl.backbones.pipeline import Pipeline
from vidrl.backbones.wan import Wan
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.rollout import draws

WAN = {"height": 16, "width": 16, "frames": 5, "text_length": 16}
OFFLOADED = {"group_offload": True, "gradient_checkpointing": True}


# A family of each kind; the others are slow, because their pipelines take seconds to build.
FAST = ["own wan", "cogvideox"]
ALL = [
    *FAST,
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("wan", "ltx", "flux", "sd15")),
]


def installed(package: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"needs {package}: vidrl[quantization]")


def backbone(name: str, **options):
    if name == "own wan":
        return Wan(_tiny.pipeline(), **WAN, **options)
    return Pipeline(FAMILIES[name].build(), FAMILIES[name].call, **options)


def policy_of(made) -> Policy:
    """A policy whose LoRA is not zero, so that every matrix has a gradient."""
    policy, draw = Policy(made, rank=2, alpha=2), torch.Generator().manual_seed(1)
    for weight in policy.weights.values():
        weight.data = weight.data + 0.1 * torch.randn(weight.shape, generator=draw)
    return policy


def answer(policy: Policy) -> tuple[Tensor, Tensor]:
    """The prediction of two rows, and the gradient of the LoRA under a fixed cotangent."""
    made = policy.backbone
    x = made.noise(draws(0, [("a",), ("b",)]))
    cond = made.encode([str(prompt) for prompt in PROMPTS[:2]])
    raw = policy.predict(x, torch.full((2,), 0.5), cond)
    raw.backward(torch.linspace(-1, 1, raw.numel()).view_as(raw))
    return raw.detach(), torch.cat([w.grad.flatten() for w in policy.weights.values()])


@functools.cache
def plain(name: str) -> tuple[Tensor, Tensor]:
    return answer(policy_of(backbone(name)))


def error(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """The largest difference of predictions or gradients, as a fraction of the largest number;
    NaN if there is any."""
    return float(
        torch.stack(
            [(a - b).abs().max() / b.abs().max() for a, b in zip(found, wanted, strict=True)]
        ).max()
    )


# Where tensors live


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "options",
    [
        {"activation_offload": True, "gradient_checkpointing": True},
        {"group_offload": True, "gradient_checkpointing": True},
        {"group_offload": True, "gradient_checkpointing": True, "activation_offload": True},
        {"vae_tiling": True, "vae_slicing": True},
    ],
    ids="+".join,
)
def test_options_of_place_change_no_number(name: str, options: dict) -> None:
    assert error(answer(policy_of(backbone(name, **options))), plain(name)) < 1e-6


def test_activations_of_checkpointed_blocks_are_kept_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is packed are the inputs of the blocks, and no weight of a block."""
    packed: list[Tensor] = []

    class Recorded(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool):
            assert not pin_memory  # pinned memory needs a GPU
            super().__init__(lambda saved: packed.append(saved) or saved, lambda saved: saved)

    monkeypatch.setattr(_memory, "save_on_cpu", Recorded)
    policy = policy_of(backbone("wan", activation_offload=True, gradient_checkpointing=True))
    answer(policy)
    inside = {
        w.untyped_storage().data_ptr()
        for name, w in policy.backbone.network.named_parameters()
        if name.startswith("blocks.")
    }
    assert len(packed) > 4
    assert not [x for x in packed if x.untyped_storage().data_ptr() in inside]
    packed.clear()
    with torch.no_grad():
        policy.predict(
            policy.backbone.noise(draws(0, [("a",)])),
            torch.full((1,), 0.5),
            policy.backbone.encode([PROMPTS[0]]),
        )
    assert not packed


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in host memory are NaN: a computation that reads one of them shows it."""
    hosts: dict[nn.Parameter, Tensor] = {}

    def tensors(group: ModuleGroup) -> list:
        inside = [p for module in group.modules for p in module.parameters()]
        return [*inside, *group.parameters]

    def onload(group: ModuleGroup) -> None:
        for weight in tensors(group):
            weight.data = hosts[weight].clone()

    def offload(group: ModuleGroup) -> None:
        for weight in tensors(group):
            hosts.setdefault(weight, weight.data.clone())
            weight.data = torch.full_like(weight.data, float("nan"))

    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    monkeypatch.setattr(ModuleGroup, "offload_", offload)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ALL)
def test_the_backward_pass_reads_no_offloaded_weight(name: str) -> None:
    made = backbone(name, group_offload=True, gradient_checkpointing=True)
    policy = policy_of(made)
    assert error(answer(policy), plain(name)) < 1e-6
    offloaded = {
        id(weight)
        for layer in _quantization.layers(backbone(name).network)
        for weight in made.network.get_submodule(layer).parameters(recurse=False)
    }
    for key, weight in made.network.named_parameters():
        state = bool(weight.isnan().all()), bool(weight.isfinite().all())
        host = id(weight) in offloaded or ".base_layer." in key
        assert state == ((True, False) if host else (False, True)), key


@pytest.mark.usefixtures("poisoned")
def test_offloaded_layers_of_another_kind_would_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: weights that autograd saves themselves."""
    monkeypatch.setattr(
        _quantization,
        "layers",
        lambda network: [n for n, m in network.named_modules() if isinstance(m, nn.Conv3d)],
    )
    moved = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1))
    _memory._offload_groups(moved)
    x = torch.ones(1, 1, 1, 1, 1, requires_grad=True)
    moved(x).sum().backward()
    assert bool(x.grad.isnan().all())


def test_tiles_and_slices_reach_the_autoencoder() -> None:
    tiled, sliced = backbone("wan", vae_tiling=True), backbone("wan", vae_slicing=True)
    assert tiled.autoencoder.use_tiling and not tiled.autoencoder.use_slicing
    assert sliced.autoencoder.use_slicing and not sliced.autoencoder.use_tiling
    assert not backbone("wan").autoencoder.use_tiling


def test_a_tiled_decode_is_near_the_whole_one_and_has_a_gradient() -> None:
    """Tiles smaller than the clip, so that seams are blended."""
    made = backbone("own wan", vae_tiling=True)
    latents = made.noise(draws(0, [("a",), ("b",)])).requires_grad_()
    assert torch.allclose(made.decode(latents), backbone("own wan").decode(latents), atol=1e-6)
    small = Wan(_tiny.pipeline(), **{**WAN, "height": 64, "width": 64}, vae_tiling=True)
    whole = Wan(_tiny.pipeline(), **{**WAN, "height": 64, "width": 64})
    small.pipe.vae.enable_tiling(32, 32, 24, 24)
    latents = small.noise(draws(0, [("a",)])).requires_grad_()
    tiled = small.decode(latents)
    difference = (tiled - whole.decode(latents)).abs()
    assert 0 < float(difference.mean()) < 0.1  # of random weights, whose pixels jump at seams
    (gradient,) = torch.autograd.grad(tiled.sum(), latents)
    assert bool(gradient.abs().amax((1, 2)).gt(0).all())


# compile


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the forward and the backward pass, but generate no C++."""
    monkeypatch.setattr(_memory, "COMPILER", "aot_eager")
    torch._dynamo.reset()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["own wan", "sd15"])
def test_the_log_says_what_is_compiled(name: str) -> None:
    (note,) = [note for note in backbone(name, compile=True).notes if note.startswith("compile")]
    kind = "UNet2DConditionModel" if name == "sd15" else "WanTransformer3DModel"
    assert f" of {kind} by torch.compile (aot_eager); the first prediction of each" in note
    assert ("4 × BasicTransformerBlock" if name == "sd15" else "2 × WanTransformerBlock") in note
    assert not [note for note in backbone(name).notes if "compile" in note]


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "name, options",
    [
        ("own wan", {}),
        ("own wan", {"gradient_checkpointing": True, "activation_offload": True}),
        ("sd15", {"gradient_checkpointing": True}),
    ],
    ids=str,
)
def test_compiled_blocks_predict_and_learn_alike(name: str, options: dict) -> None:
    policy = policy_of(backbone(name, compile=True, **options))
    found = answer(policy)
    assert error(found, plain(name)) < 1e-5
    with policy.using("reference"), torch.no_grad():
        x = policy.backbone.noise(draws(0, [("a",), ("b",)]))
        cond = policy.backbone.encode(PROMPTS[:2])
        reference = policy.predict(x, torch.full((2,), 0.5), cond)
    assert not torch.allclose(reference, found[0]), "the compiled block keeps old weights"
    for weight in policy.weights.values():
        weight.grad = None
    assert error(answer(policy), plain(name)) < 1e-5


def test_a_network_that_names_no_repeated_blocks_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="names its repeated blocks, got CogVideoX.*compile"):
        backbone("cogvideox", compile=True)


# Quantised weights


def rounded(made, quantized) -> None:
    """Give a plain network the numbers that the quantised network's weights stand for."""
    for name in _quantization.layers(made.network):
        layer, source = made.network.get_submodule(name), quantized.network.get_submodule(name)
        layer.weight.data = dequantized(source.weight)
        if source.bias is not None:
            layer.bias.data = source.bias.data.float()


def dequantized(weight: nn.Parameter) -> Tensor:
    if hasattr(weight, "quant_state"):
        import bitsandbytes

        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return (weight.dequantize() if hasattr(weight, "qdata") else weight.data).float()


KINDS = [
    pytest.param("fp8", 0.05),
    pytest.param("int8", 0.02, marks=installed("torchao")),
    pytest.param("nf4", 0.35, marks=installed("bitsandbytes")),
]


@pytest.mark.parametrize("kind, near", KINDS)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_quantised_network_computes_with_its_rounded_weights(
    kind: str, near: float, name: str, checkpointing: bool
) -> None:
    options = {"quantization": kind, "gradient_checkpointing": checkpointing}
    quantized, same = backbone(name, **options), backbone(name)
    rounded(same, quantized)
    found = answer(policy_of(quantized))
    assert error(found, answer(policy_of(same))) < 1e-5
    assert 0 < error(found, plain(name)) < near
    assert quantized.network.dtype == torch.float32


@pytest.mark.parametrize("kind, bits", [pytest.param("fp8", 8), *(
    pytest.param(kind, bits, marks=installed(package))
    for kind, bits, package in (("int8", 8, "torchao"), ("nf4", 4, "bitsandbytes"))
)])  # fmt: skip
def test_the_weights_of_the_blocks_take_fewer_bytes(kind: str, bits: int) -> None:
    made = backbone("own wan", quantization=kind)
    names = _quantization.layers(made.network)
    assert (
        len(names) == 2 * (2 * 4 + 2) and "condition_embedder.time_embedder.linear_1" not in names
    )
    for name in names:
        layer = made.network.get_submodule(name)
        stored = layer.weight.qdata if kind == "int8" else layer.weight
        assert stored.nbytes * 8 == bits * layer.in_features * layer.out_features


@pytest.mark.parametrize("kind", [param.values[0] for param in KINDS[:1]])
def test_a_new_lora_of_a_float8_network_has_all_its_digits(kind: str) -> None:
    """peft would round it to the precision of the layer."""
    quantized, same = (Policy(backbone("own wan", **o)) for o in ({"quantization": kind}, {}))
    assert all(
        torch.equal(weight, same.weights[name]) for name, weight in quantized.weights.items()
    )


@pytest.mark.parametrize("kind", [pytest.param(p.values[0], marks=p.marks) for p in KINDS])
@pytest.mark.parametrize("name", ["own wan", "cogvideox"])
def test_the_lora_of_a_quantised_network_is_saved_and_read_as_any(kind, name, tmp_path) -> None:
    policy = policy_of(backbone(name, quantization=kind))
    policy.save(tmp_path)
    again = load_adapter(backbone(name, quantization=kind), tmp_path)
    assert again.checksum() == policy.checksum()
    found, wanted = answer(again), answer(policy)
    assert error(found, wanted) < 1e-6
    plain_one = load_adapter(backbone(name), tmp_path)
    assert plain_one.checksum() == policy.checksum()


# What is refused


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"activation_offload": True}, "gradient_checkpointing = true with activation_offload"),
        ({"group_offload": True}, "gradient_checkpointing = true with group_offload"),
        (
            {"compile": True, "group_offload": True, "gradient_checkpointing": True},
            "compile = false with group_offload",
        ),
        ({"compile": True, "quantization": "fp8"}, 'compile = false with quantization = "fp8"'),
    ],
)
@pytest.mark.parametrize("make", [Wan, Pipeline])
def test_options_that_exclude_each_other_are_refused_before_a_model_is_read(
    make: Callable, options: dict, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        make("no/such/folder", **options)


def test_nf4_excludes_group_offloading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    with pytest.raises(ValueError, match="scales of bitsandbytes"):
        _memory.Memory(quantization="nf4", group_offload=True, gradient_checkpointing=True)


@pytest.mark.parametrize("kind, package", _quantization.PACKAGES.items())
def test_a_missing_package_is_named_with_its_extra(
    kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} .*quantization"):
        Wan("no/such/folder", quantization=kind)


@pytest.mark.parametrize("options", [{"quantization": "fp8"}, OFFLOADED])
def test_all_weights_of_a_quantised_or_offloaded_network_cannot_be_trained(options: dict) -> None:
    with pytest.raises(ValueError, match=r"policy.full = false with backbone.options"):
        Policy(backbone("own wan", **options), full=True)


def test_an_autoencoder_without_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="vae_tiling = true, got no autoencoder"):
        _memory.Memory(vae_tiling=True).apply([], None)
    with pytest.raises(ValueError, match="backbone.options.vae_slicing = false"):
        _memory.Memory(vae_slicing=True).apply([], nn.Linear(1, 1))


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="linear layers in blocks of Linear, got none"):
        _memory.Memory(quantization="fp8").apply([nn.Linear(1, 1)], None)
    with pytest.raises(ValueError, match="names its repeated blocks, got Linear"):
        _memory.Memory(compile=True).apply([nn.Linear(1, 1)], None)


def test_without_a_gpu_a_note_says_that_offloading_saves_nothing() -> None:
    made = backbone("wan", **OFFLOADED)
    assert [note for note in made.notes if note.startswith("group_offload saves nothing")]
    assert not [note for note in backbone("wan").notes if "offload" in note]


def test_an_offloaded_network_refuses_another_device() -> None:
    made = backbone("own wan", **OFFLOADED)
    with pytest.raises(ValueError, match="expected the device cpu with group_offload"):
        made.to("meta")
    assert made.device == torch.device("cpu")
