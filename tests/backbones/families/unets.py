"""Stable Diffusion 1.5, 2.1 (which predicts v) and XL."""

from __future__ import annotations

from typing import Any

import diffusers

from ._family import family, size
from .parts import clip, ddim, euler, kl, tokenizer


def sd_network() -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
    )


def sd_pipeline(scheduler: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        kl((4, 8)),
        clip(8),
        tokenizer(),
        sd_network(),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )


CALL = size(guidance_scale=6.0, guidance_rescale=0.5, negative_prompt="low quality")


@family("text to image", CALL, size(32, 16), quick=True)
def sd15() -> diffusers.StableDiffusionPipeline:
    return sd_pipeline(
        diffusers.PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
            set_alpha_to_one=False,
        )
    )


@family("text to image", CALL, size(32, 16))
def sd21() -> diffusers.StableDiffusionPipeline:
    more = {"steps_offset": 1, "set_alpha_to_one": False, "prediction_type": "v_prediction"}
    return sd_pipeline(ddim("scaled_linear", **more))


def sdxl_network(widths: tuple[int, ...]) -> Any:
    """Two texts of 32 make 64; a pooled text of 32 and six embedded numbers of 8 make
    80."""
    depth = len(widths) - 1
    return diffusers.UNet2DConditionModel(
        block_out_channels=widths,
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * depth),
        up_block_types=(*("CrossAttnUpBlock2D",) * depth, "UpBlock2D"),
        attention_head_dim=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=1,
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=2,
    )


@family("text to image", size(guidance_scale=5.0), size(32, 16))
def sdxl() -> diffusers.StableDiffusionXLPipeline:
    """Two text encoders; the empty negative prompt is zeros."""
    return diffusers.StableDiffusionXLPipeline(
        kl((8, 8)),
        clip(),
        clip(32, 32),
        tokenizer(),
        tokenizer(),
        sdxl_network((4, 8)),
        euler(),
    )
