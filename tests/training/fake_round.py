"""One round of Wan 2.1 1.3B on fake tensors of `cuda`, watched: `python fake_round.py [FAULT]`.

The tensors have the shapes of the real model at 5 x 480 x 832 and no numbers. The network has two
of its thirty blocks, which are all alike. The script raises for an operation on tensors of two
devices, a copy to the host that no plan names, float64 on the GPU, and a part in another dtype than
the plan says. A torch built without CUDA can compute fake tensors of `cuda`, but its autograd engine
cannot run backward on them, so backward and the optimiser's step run on fake tensors of `maia`, a
device type that torch knows and does not call an accelerator. There autocast does nothing, so that
the dtypes of the plan are checked on `cuda`.

FAULT plants a fault, which the script must find: `host`, `double`, `half` or `device`.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1]))
from pretend_gpu import set_guard

from vidrl.algorithms.base import Batch
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.base import rows, without_autocast
from vidrl.config import Backbone
from vidrl.cost import skeleton
from vidrl.cost.tracing import shapes
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, draws, sample

aten = torch.ops.aten
PROMPTS, GROUP = 1, 2
LARGE = 10_000  # numbers of a copy that is no longer "a few numbers of a clip"


class Fault(RuntimeError):
    """The round does what its plan does not say."""


class Watch(TorchDispatchMode):
    """A mode that raises for copies of many numbers to the host, and for float64 on the GPU.

    Fake tensors have no numbers. Where the code asks whether any element is wrong, the answer is
    no, and whether all are right, yes: as in a round that goes well.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and hasattr(args[0], "answer"):
            return args[0].answer
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (aten.any, aten.all):
            out.answer = func.overloadpacket is aten.all
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        from_gpu = any(t.device.type not in ("cpu", "meta") for t in given)
        for tensor in made:
            on_gpu = tensor.device.type not in ("cpu", "meta")
            if from_gpu and not on_gpu and tensor.numel() > LARGE:
                raise Fault(f"{func} copies {tensor.numel()} numbers to the host")
            if on_gpu and tensor.dtype == torch.float64 and tensor.numel() > LARGE:
                raise Fault(f"{func} computes {tensor.numel()} numbers in float64")
        return out


def expect(what: str, tensor: Tensor, dtype: torch.dtype, device: str) -> None:
    """Raise Fault unless a tensor has the dtype and the device of the plan."""
    if tensor.dtype != dtype or tensor.device.type != device:
        raise Fault(f"expected {what} {dtype} on {device}, got {tensor.dtype} on {tensor.device}")


def set_guard_of_maia() -> None:
    """Give the device type `maia` a guard; every method returns 8, the number of the type.

    As a device, 8 is `maia:0`.
    """
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 9).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    eight = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(lambda _: 8)
    methods = (ctypes.c_void_p * 64)(*[ctypes.cast(eight, ctypes.c_void_p).value] * 64)
    guard = ctypes.c_void_p(ctypes.addressof(methods))
    guards[8] = ctypes.addressof(guard)
    KEPT.extend([eight, methods, guard])


KEPT: list[Any] = []  # what torch points to must live as long as the process


def moved(module: nn.Module, device: str) -> None:
    """Replace a module's weights by fake ones on the device."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                empty = torch.empty(p.shape, dtype=p.dtype, device=device)
                part._parameters[name] = nn.Parameter(empty, requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device=device)


def planted(backbone: Any, fault: str) -> None:
    """Plant a fault in the backbone's predict, and check the dtype of what it returns."""
    predict = backbone.predict

    def host(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return predict(x.cpu().to(x.device), t, cond)

    def double(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return predict(x, t, cond).double()

    def half(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return predict(x, t, cond).bfloat16()

    def device(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return predict(x, t, cond) + torch.ones(x.shape)

    if fault:
        backbone.predict = {"host": host, "double": double, "half": half, "device": device}[fault]
    faulty = backbone.predict

    def checked(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        out = faulty(x, t, cond)
        expect("the prediction", out, torch.float32, x.device.type)
        return out

    backbone.predict = checked


def run(device: str, fault: str, train: bool) -> None:
    """Run a round on the device; with `train`, backward and the optimiser's step too."""
    options = {
        "model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "dtype": "bfloat16",
        "frames": 5,
        "gradient_checkpointing": True,
        "decode_chunk": 1,
    }
    backbone: Any = skeleton.read(Backbone("wan", options)).build(2, 1)
    with torch.device("meta"):
        policy = Policy(backbone)
    grpo = GRPO(steps=3, train_steps=1, updates=1)
    grpo.setup(policy, lambda samples: samples, GROUP)  # type: ignore[arg-type, return-value]
    plan = grpo.plan(backbone, 0, draws(0, [("plan",)])[0])
    with shapes(), Watch():
        for module in (backbone.network, backbone.pipe.vae, backbone.pipe.text_encoder):
            moved(module, device + ":0")
        policy = _with_new_weights(policy)
        planted(backbone, fault)
        ids = torch.zeros(PROMPTS, 512, dtype=torch.long, device=device + ":0")
        with torch.no_grad():
            text = backbone.pipe.text_encoder(ids, torch.ones_like(ids))[0]
        expect("text", text, torch.bfloat16, device)
        cond = rows({"text": text, "negative": text}, torch.zeros(GROUP, dtype=torch.long))
        _round(policy, grpo, plan, cond, device, train)


def _with_new_weights(policy: Policy) -> Policy:
    """Let the policy name the fake weights."""
    own = dict(policy.backbone.network.named_parameters())
    policy.weights = {name: own[name] for name in policy.weights}
    policy.sets = {}
    policy.remember("reference")
    return policy


def _round(policy: Policy, grpo: GRPO, plan: Plan, cond: Any, device: str, train: bool) -> None:
    low = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    with low:
        made = sample(policy, cond, draws(0, [(i,) for i in range(GROUP)]), plan)
    for name in ("latents", "before", "after", "log_density"):
        expect(name, getattr(made, name), torch.float32, device)
    with torch.no_grad(), without_autocast(made.latents.device):
        video = policy.backbone.decode(made.latents)
    expect("clips", video, torch.float32, device)
    value = video.diff(dim=1).abs().mean((1, 2, 3, 4)).cpu()
    advantage = (value - value.mean())[:, None].expand(-1, plan.segments)
    step = plan.keep[0]
    t, s = (
        torch.full((GROUP,), plan.times[i], dtype=torch.float64, device=video.device)
        for i in (step, step + 1)
    )
    batch = Batch(
        {
            "x": made.before[:, 0],
            "after": made.after[:, 0],
            "t": t,
            "s": s,
            "old": made.log_density[:, 0],
            "advantage": advantage.to(video.device),
            **({} if made.mean is None else {"mean": made.mean[:, 0]}),
        },
        made.cond,
        ["a"] * GROUP,
        1.0,
        plan,
    )
    with low:
        loss = grpo.loss(policy, batch).value
    expect("the loss", loss, torch.float32, device)
    if train:
        loss.sum().backward()
        weights = list(policy.weights.values())
        for weight in weights:
            expect("a gradient of LoRA", weight.grad, torch.float32, device)  # type: ignore[arg-type]
        torch.optim.AdamW(weights, lr=1e-4, foreach=True).step()
        expect("LoRA", weights[0], torch.float32, device)


if __name__ == "__main__":
    planted_fault = sys.argv[1] if len(sys.argv) > 1 else ""
    set_guard()
    set_guard_of_maia()
    # autocast asks for the driver, which fake tensors do not need
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_: True
    run("cuda", planted_fault, train=False)
    run("maia", planted_fault, train=True)
    print("the round keeps its plan")
