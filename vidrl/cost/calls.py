"""Call the network and the decoder of a model family on shapes, as its pipeline does.

Each family hands its latents, texts and times to the network in its own way. The functions
here build these inputs without numbers. Legend: B rows, C latent channels, L latent frames,
h w latent height and width, N text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from vidrl.diffusion.path import Path, discrete, flow

Predict = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
Widths = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """The classes of a family in diffusers, its default call, and how its network is called."""

    pipeline: str
    network: str
    decoder: str
    space: int  # pixels a latent column
    time: int  # pixel frames a latent frame, after the first; 1 for pictures
    size: tuple[int, int, int]  # frames, height, width of a call without them
    guidance: float
    guided_apart: bool  # the network runs once with the text and once without, not in one batch
    predict: Predict
    widths: Widths  # the shape of each condition of one row
    fps: float = 16.0
    path: Callable[[], Path] = flow
    # the decoder's configuration, where it is not the default of its class
    decoder_config: tuple[tuple[str, Any], ...] = ()
    channels: int = 16
    patch: int = 2  # latent columns a token


def _scaled_linear() -> Path:
    """Return CogVideoX's path, whose last level is pure noise."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return discrete((1 - betas).cumprod(0), "v")


def _like(x: Tensor, *shape: int) -> Tensor:
    """Return a tensor without numbers, of the type of x."""
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _wan(network: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Return the prediction of Wan's transformer."""
    if getattr(network, "times_of_tokens", False):
        patch = network.config.patch_size
        t = t[:, None].expand(-1, prod(x.shape[2:]) // prod(patch))
    return network(x, t, cond["text"], return_dict=False)[0]


def _cogvideox(network: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Return the prediction of CogVideoX's transformer, whose latents are (B, L, C, h, w)."""
    rotary = None
    if network.config.use_rotary_positional_embeddings:
        tokens = prod(x.shape[2:]) // network.config.patch_size**2
        table = torch.empty(tokens, network.config.attention_head_dim)
        rotary = (table, table.clone())
    out = network(
        x.transpose(1, 2), cond["text"], t.long(), image_rotary_emb=rotary, return_dict=False
    )[0]
    return out.transpose(1, 2)


def _ltx(network: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Return the prediction of LTX's transformer, whose tokens are the latents' positions."""
    _, _, frames, height, width = x.shape
    out = network(
        x.flatten(2).transpose(1, 2),
        cond["text"],
        t,
        cond["mask"][..., 0],
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(0.5, 32, 32),
        return_dict=False,
    )[0]
    return out.transpose(1, 2).unflatten(2, (frames, height, width))


def _sd3(network: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Return the prediction of Stable Diffusion 3's transformer for a picture (L = 1)."""
    out = network(x[:, :, 0], cond["text"], cond["pooled"], t, return_dict=False)[0]
    return out[:, :, None]


def _flux(network: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Return the prediction of FLUX's transformer, whose tokens are 2 x 2 latent positions."""
    b, c, _, h, w = x.shape
    packed = x[:, :, 0].unflatten(2, (h // 2, 2)).unflatten(4, (w // 2, 2))
    packed = packed.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)
    places = torch.empty(h * w // 4, 3), torch.empty(cond["text"].shape[1], 3)
    out = network(
        packed, cond["text"], cond["pooled"], t, *places, torch.empty(b), return_dict=False
    )[0]
    out = out.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return out.reshape(b, c, 1, h, w)


def _hunyuan_video15(network: Any, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """Return the prediction of HunyuanVideo 1.5's transformer.

    The transformer's own `forward` sorts text tokens by the values of masks, which tensors
    without numbers do not have. Here its parts run in the same order, with all tokens valid.
    """
    b, _, frames, height, width = x.shape
    t = t.to(x.dtype)
    # the latents of a first picture and a mask stand beside the noisy latents
    x = torch.cat([x, _like(x, b, x.shape[1] + 1, frames, height, width)], 1)
    places, time = network.rope(x), network.time_embed(t)
    texts = [
        network.context_embedder(
            cond["text"], t, torch.ones(b, cond["text"].shape[1], dtype=x.dtype)
        ),
        network.context_embedder_2(cond["glyphs"]),
        network.image_embedder(cond["image"]),
    ]
    kinds = [
        network.cond_type_embed(torch.zeros(b, part.shape[1], dtype=torch.long)) for part in texts
    ]
    text = torch.cat([part + kind for part, kind in zip(texts, kinds, strict=True)], 1)
    mask = torch.ones(b, text.shape[1], dtype=torch.bool)
    hidden = network.x_embedder(x)
    for block in network.transformer_blocks:
        inputs = (hidden, text, time, mask, places)
        if torch.is_grad_enabled() and network.gradient_checkpointing:
            hidden, text = network._gradient_checkpointing_func(block, *inputs)
        else:
            hidden, text = block(*inputs)
    out = network.proj_out(network.norm_out(hidden, time))
    return out.transpose(1, 2).unflatten(2, (frames, height, width))


_PICTURES = (
    ("down_block_types", ("DownEncoderBlock2D",) * 4),
    ("up_block_types", ("UpDecoderBlock2D",) * 4),
    ("block_out_channels", (128, 256, 512, 512)),
    ("layers_per_block", 2),
    ("latent_channels", 16),
    ("use_quant_conv", False),
    ("use_post_quant_conv", False),
)
FAMILIES = {
    "wan": Family(
        pipeline="WanPipeline",
        network="WanTransformer3DModel",
        decoder="AutoencoderKLWan",
        space=8,
        time=4,
        size=(81, 480, 832),
        guidance=5.0,
        guided_apart=True,
        predict=_wan,
        widths={"text": (512, 4096)},
    ),
    "cogvideox": Family(
        pipeline="CogVideoXPipeline",
        network="CogVideoXTransformer3DModel",
        decoder="AutoencoderKLCogVideoX",
        space=8,
        time=4,
        size=(49, 480, 720),
        guidance=6.0,
        guided_apart=False,
        predict=_cogvideox,
        widths={"text": (226, 4096)},
        fps=8.0,
        path=_scaled_linear,
    ),
    "ltx": Family(
        pipeline="LTXPipeline",
        network="LTXVideoTransformer3DModel",
        decoder="AutoencoderKLLTXVideo",
        space=32,
        time=8,
        size=(161, 512, 704),
        guidance=3.0,
        guided_apart=False,
        predict=_ltx,
        widths={"text": (128, 4096), "mask": (128, 1)},
        fps=25.0,
        channels=128,
        patch=1,
    ),
    "hunyuan_video15": Family(
        pipeline="HunyuanVideo15Pipeline",
        network="HunyuanVideo15Transformer3DModel",
        decoder="AutoencoderKLHunyuanVideo15",
        space=16,
        time=4,
        size=(121, 480, 848),
        guidance=6.0,
        guided_apart=True,
        predict=_hunyuan_video15,
        widths={"text": (1000, 3584), "glyphs": (256, 1472), "image": (729, 1152)},
        fps=24.0,
        channels=32,
        patch=1,
    ),
    "sd3": Family(
        pipeline="StableDiffusion3Pipeline",
        network="SD3Transformer2DModel",
        decoder="AutoencoderKL",
        space=8,
        time=1,
        size=(1, 1024, 1024),
        guidance=7.0,
        guided_apart=False,
        predict=_sd3,
        widths={"text": (333, 4096), "pooled": (2048,)},
        decoder_config=_PICTURES,
    ),
    "flux": Family(
        pipeline="FluxPipeline",
        network="FluxTransformer2DModel",
        decoder="AutoencoderKL",
        space=8,
        time=1,
        size=(1, 1024, 1024),
        guidance=1.0,
        guided_apart=False,
        predict=_flux,
        widths={"text": (512, 4096), "pooled": (768,)},
        decoder_config=_PICTURES,
    ),
}
