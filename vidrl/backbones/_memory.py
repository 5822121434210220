"""Lower the memory of a backbone's networks and autoencoder, by means of diffusers and torch.

The options change where tensors live and in how many bits; the prediction stays the same,
or close to it (docs/guides/memory.md says how close).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import set_checkpoint_early_stop

from . import _quantization

# The backend that compiles the blocks of a network; tests take one that needs no C++ compiler.
COMPILER = "inductor"


@dataclass(frozen=True)
class Memory:
    """The options of a backbone that lower its memory.

    Raises ValueError for options that exclude each other, and ImportError for a kind of
    quantisation whose package is not installed.
    """

    quantization: _quantization.Kind = "none"
    """How the weights of linear layers in the networks' blocks are stored; a LoRA alone can
    be trained then."""
    activation_offload: bool = False
    """Keep what the backward pass needs in host memory: with gradient checkpointing, the
    inputs of the blocks."""
    group_offload: bool = False
    """Keep the weights of the blocks' linear layers in host memory, and move each layer to the
    GPU while it works; a LoRA alone can be trained then."""
    vae_tiling: bool = False
    """Decode and encode pictures in overlapping tiles."""
    vae_slicing: bool = False
    """Decode and encode the clips of a batch one by one."""
    compile: bool = False
    """Compile the networks' repeated blocks with torch.compile."""
    gradient_checkpointing: bool = False
    """Whether the backbone recomputes activations; it is not applied here."""

    def __post_init__(self) -> None:
        _quantization.check(self.quantization)
        self._check_checkpointing()
        if self.compile and (self.group_offload or self.quantization == "fp8"):
            other = "group_offload" if self.group_offload else 'quantization = "fp8"'
            raise ValueError(
                f"expected compile = false with {other}, got true: {other} replaces weights "
                "while a block runs, which a compiled block does not see: leave one of them out"
            )
        if self.group_offload and self.quantization == "nf4":
            raise ValueError(
                'expected group_offload = false with quantization = "nf4", got true: '
                "the scales of bitsandbytes do not move with the weights: take "
                '"fp8" or "int8", or leave group_offload out'
            )

    def _check_checkpointing(self) -> None:
        """Raise ValueError for an option that saves nothing without gradient checkpointing."""
        reasons = {
            "activation_offload": "the weights that the layers save would travel to the host too",
            "group_offload": "the weights that the layers save would stay on the GPU",
        }
        for name, reason in reasons.items():
            if getattr(self, name) and not self.gradient_checkpointing:
                raise ValueError(
                    f"expected gradient_checkpointing = true with {name} = true, got false: "
                    f"without it {reason} until the backward pass: set "
                    "backbone.options.gradient_checkpointing = true"
                )

    @property
    def only_lora(self) -> str:
        """Return the option by which a LoRA alone can be trained; "" if all weights can be."""
        if self.group_offload:
            return "backbone.options.group_offload = true"
        quantized = self.quantization != "none"
        return f'backbone.options.quantization = "{self.quantization}"' if quantized else ""

    def notes(self, networks: Iterable[nn.Module]) -> tuple[str, ...]:
        """Return what a person should know about these options, once `apply` has been called."""
        compiled = (_compiled(network) for network in networks if self.compile)
        return (*compiled, *self._offload_notes())

    def _offload_notes(self) -> tuple[str, ...]:
        """Return a note on options that save nothing on this machine."""
        moving = [name for name in ("activation_offload", "group_offload") if getattr(self, name)]
        if not moving or torch.cuda.is_available():
            return ()
        return (f"{' and '.join(moving)} saves nothing without a GPU, and takes time",)

    def apply(self, networks: Iterable[nn.Module], autoencoder: nn.Module | None) -> None:
        """Apply the options to frozen networks and to the autoencoder, in place.

        Call this before a LoRA is put in: the LoRA then stays in float32 and on the device.
        """
        for network in networks:
            if self.quantization != "none":
                _quantization.quantize(network, self.quantization)
            if self.group_offload:
                _offload_groups(network)
            if self.compile:
                _compile_blocks(network)
        for wanted, method in (
            (self.vae_tiling, "enable_tiling"),
            (self.vae_slicing, "enable_slicing"),
        ):
            if wanted:
                _call(autoencoder, method)

    def move(self, network: nn.Module, device: torch.device | str) -> None:
        """Move a network to a device; group offloading moves its weights by itself."""
        if not self.group_offload:
            network.to(device)
        elif torch.device(device).type != onload_device().type:
            raise ValueError(
                f"expected the device {onload_device().type} with group_offload = true, got "
                f"{device}: the layers work on the GPU if there is one"
            )

    def device(self, network: nn.Module) -> torch.device:
        """Return the device on which a network computes."""
        return onload_device() if self.group_offload else next(network.parameters()).device

    def saving(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context of a prediction, which decides where saved tensors live."""
        replaced = self.group_offload or self.quantization == "fp8"
        if not torch.is_grad_enabled() or not (replaced or self.activation_offload):
            return nullcontext()
        stack = ExitStack()
        if replaced:
            # Without early stop, a recomputed block runs to its end, and so do the hooks of its
            # last layers, which cast or move the weights back.
            stack.enter_context(set_checkpoint_early_stop(False))
        if self.activation_offload:
            stack.enter_context(save_on_cpu(pin_memory=device.type == "cuda"))
        return stack


def onload_device() -> torch.device:
    """Return the device on which layers of group offloading work: the GPU, if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _offload_groups(network: nn.Module) -> None:
    """Keep the weights of the blocks' linear layers in host memory, and the others on the device.

    Autograd saves a view of a linear layer's weight, which stays on the device when the hooks
    of diffusers replace the weight after the layer's forward pass. Of all other layers it saves
    the weight itself, and the backward pass would find that weight in host memory. Whole
    blocks are not offloaded for one more reason: their LoRA would move with them. No stream is
    used, because the memory of a view that the backward pass frees would be used again too
    early.
    """
    from diffusers.hooks import apply_group_offloading

    device = onload_device()
    names = _quantization.layers(network)
    layers = nn.ModuleList(network.get_submodule(name) for name in names)
    inside = {id(tensor) for tensor in (*layers.parameters(), *layers.buffers())}
    for tensor in (*network.parameters(), *network.buffers()):
        if id(tensor) not in inside:
            tensor.data = tensor.data.to(device)
    apply_group_offloading(layers, onload_device=device, offload_type="leaf_level")


def _compile_blocks(network: nn.Module) -> None:
    """Compile the blocks that a network repeats; raise ValueError if it names none."""
    if not getattr(network, "_repeated_blocks", None):
        raise ValueError(
            f"expected a network that names its repeated blocks, got {type(network).__name__}: set "
            "backbone.options.compile = false"
        )
    network.compile_repeated_blocks(backend=COMPILER)  # type: ignore[operator]


def _compiled(network: nn.Module) -> str:
    """Return the line of the log on the blocks of a network that are compiled."""
    blocks = [type(m).__name__ for m in network.modules() if m._compiled_call_impl is not None]
    kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(blocks).items())
    return (
        f"compile = true: {kinds} of {type(network).__name__} by torch.compile ({COMPILER}); the "
        "first prediction of each shape takes longer"
    )


def _call(autoencoder: nn.Module | None, method: str) -> None:
    """Call a method of the autoencoder; raise ValueError if it does not have the method."""
    option = method.replace("enable", "vae")
    try:
        getattr(autoencoder, method)()
    except (AttributeError, NotImplementedError) as error:
        kind = "no autoencoder" if autoencoder is None else type(autoencoder).__name__
        raise ValueError(
            f"expected an autoencoder with {method} for {option} = true, got {kind}: set "
            f"backbone.options.{option} = false"
        ) from error
