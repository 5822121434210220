"""Cosmos 1 and 2: noise is added to clean latents (EDM), and the network is
preconditioned."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
from torch import nn

from ._family import family, size
from .parts import NoGuardrail, flow, t5, tokenizer, wan_vae

CALL = {"guidance_scale": 3.0, "max_sequence_length": 16, "negative_prompt": "low quality"}


def network(channels: int) -> Any:
    _resize_without_torchvision()
    return diffusers.CosmosTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True,
        extra_pos_embed_type="learnable",
    )


def _resize_without_torchvision() -> None:
    """Let torch resize a mask, which the network does by torchvision: no other test needs
    that."""
    from diffusers.models.transformers import transformer_cosmos as module

    if not hasattr(module, "transforms"):
        resize = SimpleNamespace(resize=lambda x, size, **mode: nn.functional.interpolate(x, size))
        modes = SimpleNamespace(NEAREST="nearest")
        module.transforms = SimpleNamespace(functional=resize, InterpolationMode=modes)


WORLD = size(32, 32, num_frames=9, **CALL)


@family("text to video", WORLD, size(64, 32, num_frames=5), rounds=True)
def cosmos() -> diffusers.CosmosTextToWorldPipeline:
    vae = diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8,) * 4,
        decode_block_out_channels=(8,) * 4,
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        patch_type="haar",
        scaling_factor=1.0,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=80,
        sigma_data=0.5,
        sigma_schedule="karras",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        rho=7.0,
        final_sigmas_type="sigma_min",
    )
    return diffusers.CosmosTextToWorldPipeline(
        t5(),
        tokenizer(),
        network(4),
        vae,
        scheduler,
        NoGuardrail(),
    )


@family("text to image", size(32, 32, **CALL), size(64, 32), rounds=True)
def cosmos2_image() -> diffusers.Cosmos2TextToImagePipeline:
    scheduler = flow(use_karras_sigmas=True)
    return diffusers.Cosmos2TextToImagePipeline(
        t5(), tokenizer(), network(16), wan_vae(), scheduler, NoGuardrail()
    )
