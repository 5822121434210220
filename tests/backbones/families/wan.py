"""Wan 2.1 and 2.2, and what descends from them."""

from __future__ import annotations

from typing import Any

import diffusers

from ._family import family, size
from .parts import clip_pictures, clip_vision, flow, flow_unipc, t5, tokenizer, wan_vae

TEXT = {"max_sequence_length": 16, "guidance_scale": 5.0, "negative_prompt": "low quality"}
CALL = size(num_frames=9, **TEXT)
OTHER = size(32, 16, num_frames=5)
LARGE = size(32, 32, num_frames=9, **TEXT)  # Wan 2.2 5B has 16 pixels a latent
LARGE_OTHER = size(64, 32, num_frames=5)


def network(kind: Any = None, channels: int = 16, made: int = 16, **more: Any) -> Any:
    return (kind or diffusers.WanTransformer3DModel)(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=made,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        **more,
    )


def residual_vae() -> Any:
    return wan_vae(
        48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
    )


@family("text to video", CALL, OTHER, quick=True)
def wan() -> diffusers.WanPipeline:
    return diffusers.WanPipeline(tokenizer(), t5(), wan_vae(), flow_unipc(), network())


@family("text to video", CALL | {"guidance_scale_2": 3.0}, OTHER)
def wan22() -> diffusers.WanPipeline:
    """Two experts: one of the high and one of the low noise."""
    return diffusers.WanPipeline(
        tokenizer(),
        t5(),
        wan_vae(),
        flow_unipc(),
        network(),
        network(),
        boundary_ratio=0.875,
    )


@family("text to video", LARGE, LARGE_OTHER)
def wan22_5b() -> diffusers.WanPipeline:
    """A time a token."""
    return diffusers.WanPipeline(
        tokenizer(),
        t5(),
        residual_vae(),
        flow_unipc(),
        network(None, 48, 48),
        expand_timesteps=True,
    )


@family("image to video", CALL, OTHER)
def wan_i2v() -> diffusers.WanImageToVideoPipeline:
    return diffusers.WanImageToVideoPipeline(
        tokenizer(),
        t5(),
        wan_vae(),
        flow(shift=7.0),
        clip_pictures(),
        clip_vision(),
        network(None, 36, image_dim=4),
    )


@family("image to video", CALL | {"guidance_scale_2": 3.0}, OTHER)
def wan22_i2v() -> diffusers.WanImageToVideoPipeline:
    """Two experts, and no encoder of pictures but the autoencoder."""
    return diffusers.WanImageToVideoPipeline(
        tokenizer(),
        t5(),
        wan_vae(),
        flow_unipc(),
        None,
        None,
        network(None, 36),
        network(None, 36),
        boundary_ratio=0.9,
    )


@family("image to video", LARGE, LARGE_OTHER)
def wan22_5b_i2v() -> diffusers.WanImageToVideoPipeline:
    """The first latent frame is held."""
    return diffusers.WanImageToVideoPipeline(
        tokenizer(),
        t5(),
        residual_vae(),
        flow_unipc(),
        None,
        None,
        network(None, 48, 48),
        expand_timesteps=True,
    )


@family("text to video", CALL, OTHER)
def wan_vace() -> diffusers.WanVACEPipeline:
    """A second stack of blocks reads control videos, which are empty here."""
    kind = diffusers.WanVACETransformer3DModel
    made = network(kind, vace_layers=[0, 1], vace_in_channels=96)
    return diffusers.WanVACEPipeline(tokenizer(), t5(), wan_vae(), flow(shift=7.0), made)


@family("text to video", CALL | {"guidance_scale": 6.0}, OTHER)
def skyreels_v2() -> diffusers.SkyReelsV2Pipeline:
    made = network(diffusers.SkyReelsV2Transformer3DModel)
    return diffusers.SkyReelsV2Pipeline(tokenizer(), t5(), made, wan_vae(), flow_unipc(8.0))


@family("image to video", CALL, OTHER)
def skyreels_v2_i2v() -> diffusers.SkyReelsV2ImageToVideoPipeline:
    return diffusers.SkyReelsV2ImageToVideoPipeline(
        tokenizer(),
        t5(),
        clip_vision(),
        clip_pictures(),
        network(diffusers.SkyReelsV2Transformer3DModel, 36, image_dim=4),
        wan_vae(),
        flow_unipc(5.0),
    )
