"""Lower the memory of a backbone's networks and autoencoder, by means of diffusers and torch.

The options change where tensors live and in how many bits; the prediction stays the same,
or close to it (docs/guides/memory.md says how close).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
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
    """Keep the networks' weights in host memory, and move each layer to the GPU while it
    works; a LoRA alone can be trained then."""
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
        if self.activation_offload and not self.gradient_checkpointing:
            raise ValueError(
                "expected gradient_checkpointing = true with activation_offload = true, got false: "
                "without it every layer's saved tensors, frozen weights among them, would travel "
                "to the host: set backbone.options.gradient_checkpointing = true"
            )
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

    @property
    def only_lora(self) -> str:
        """Return the option by which a LoRA alone can be trained; "" if all weights can be."""
        if self.group_offload:
            return "backbone.options.group_offload = true"
        quantized = self.quantization != "none"
        return f'backbone.options.quantization = "{self.quantization}"' if quantized else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a person should know about these options on this machine."""
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
        moved = self.group_offload or self.quantization == "fp8"
        if not torch.is_grad_enabled() or not (moved or self.activation_offload):
            return nullcontext()
        return _saving(moved, self.activation_offload, device)


@contextmanager
def _saving(moved: bool, offloaded: bool, device: torch.device) -> Any:
    """Keep saved tensors for the backward pass, though the layers' weights are replaced."""
    with ExitStack() as stack:
        if moved:
            # Autograd saves a frozen weight itself, and the hooks of diffusers replace its data
            # after the layer's forward pass. A hook of autograd that changes nothing is enough:
            # autograd hands such hooks an alias of the data.
            stack.enter_context(saved_tensors_hooks(lambda saved: saved, lambda saved: saved))
            # Without early stop, a recomputed block runs to its end, and so do the layers' hooks,
            # which cast or move the weights back.
            stack.enter_context(set_checkpoint_early_stop(False))
        if offloaded:
            stack.enter_context(save_on_cpu(pin_memory=device.type == "cuda"))
        yield


def onload_device() -> torch.device:
    """Return the device on which layers of group offloading work: the GPU, if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _offload_groups(network: nn.Module) -> None:
    """Keep each layer's weights in host memory; a stream moves the next layer's beforehand.

    diffusers offloads whole blocks too, but moves a block's LoRA with it, and the optimiser
    would find the LoRA in host memory and its gradient on the GPU.
    """
    device = onload_device()
    network.enable_group_offload(  # type: ignore[operator]
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=device.type == "cuda",
    )


def _compile_blocks(network: nn.Module) -> None:
    """Compile the blocks that a network repeats; raise ValueError if it names none."""
    if not getattr(network, "_repeated_blocks", None):
        raise ValueError(
            f"expected a network that names its repeated blocks, got {type(network).__name__}: set "
            "backbone.options.compile = false"
        )
    network.compile_repeated_blocks(backend=COMPILER)  # type: ignore[operator]


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
