"""Video transformers: CogVideoX, HunyuanVideo, Mochi, Allegro, Latte, Kandinsky 5,
Sana-Video."""

from __future__ import annotations

from typing import Any

import diffusers

from ._family import family, size
from .parts import (
    Processor,
    chat_tokenizer,
    clip,
    ddim,
    flow,
    gemma,
    hunyuan_vae,
    kl,
    llama,
    qwen_vl,
    qwen_vl_text,
    t5,
    tokenizer,
    wan_vae,
)

OTHER = size(32, 16, num_frames=5)


# CogVideoX


def cog_vae() -> Any:
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )


def cog_network(channels: int, **more: Any) -> Any:
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
        **more,
    )


def cog_scheduler() -> Any:
    return diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
    )


COG = size(num_frames=9, guidance_scale=6.0, max_sequence_length=16)


@family("text to video", COG, size(32, 16, num_frames=17), quick=True)
def cogvideox() -> diffusers.CogVideoXPipeline:
    made = cog_network(4, use_rotary_positional_embeddings=True)
    return diffusers.CogVideoXPipeline(tokenizer(), t5(), cog_vae(), made, cog_scheduler())


@family("image to video", COG, size(num_frames=17))  # its positions are learned, for one size
def cogvideox_i2v() -> diffusers.CogVideoXImageToVideoPipeline:
    made = cog_network(
        8,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    return diffusers.CogVideoXImageToVideoPipeline(
        tokenizer(),
        t5(),
        cog_vae(),
        made,
        cog_scheduler(),
    )


# HunyuanVideo


HUNYUAN = size(
    num_frames=9,
    max_sequence_length=16,
    guidance_scale=4.5,
    true_cfg_scale=2.0,
    negative_prompt="low quality",
    prompt_template={"template": "{}", "crop_start": 0},
)


def hunyuan_parts(channels: int) -> tuple[Any, ...]:
    made = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    scheduler = flow(shift=7.0)
    return llama(), tokenizer(), made, hunyuan_vae(), scheduler, clip(8), tokenizer()


@family("text to video", HUNYUAN, OTHER)
def hunyuan_video() -> diffusers.HunyuanVideoPipeline:
    """Guidance is told to the network, and a negative prompt is subtracted besides."""
    return diffusers.HunyuanVideoPipeline(*hunyuan_parts(4))


@family("image to video", HUNYUAN, OTHER)
def hunyuan_skyreels_i2v() -> diffusers.HunyuanSkyreelsImageToVideoPipeline:
    """The latents of the picture are further channels."""
    return diffusers.HunyuanSkyreelsImageToVideoPipeline(*hunyuan_parts(8))


@family("text to video", size(num_frames=9), OTHER)
def hunyuan_video15() -> diffusers.HunyuanVideo15Pipeline:
    """A guider object instead of a guidance scale, and two text encoders of ragged
    lengths."""
    from diffusers.guiders import ClassifierFreeGuidance

    made = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipe = diffusers.HunyuanVideo15Pipeline(
        qwen_vl_text(),
        chat_tokenizer(),
        made,
        vae,
        flow(shift=7.0),
        t5(),
        tokenizer(),
        ClassifierFreeGuidance(guidance_scale=3.0),
    )
    pipe.prompt_template_encode_start_idx = 1
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = 32, 16
    pipe.vision_num_semantic_tokens = 5
    return pipe


# Others


@family(
    "text to video",
    size(num_frames=7, max_sequence_length=16, guidance_scale=4.5),
    size(32, 16, num_frames=13),
)
def mochi() -> diffusers.MochiPipeline:
    """Its times run backwards."""
    made = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=32,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    return diffusers.MochiPipeline(flow(invert_sigmas=True), vae, t5(), tokenizer(), made)


@family(
    "text to video",
    size(num_frames=8, guidance_scale=6.0, max_sequence_length=16),
    size(num_frames=16),
)
def allegro() -> diffusers.AllegroPipeline:
    """Its autoencoder works in tiles alone, and its first latent frame stands for four
    frames."""
    made = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=24,
    )
    vae = diffusers.AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    vae.enable_tiling()
    vae.kernel = vae.stride = (8, 16, 16)
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    return diffusers.AllegroPipeline(tokenizer(), t5(24), vae, made, scheduler)


def pixart_network(kind: Any, **more: Any) -> Any:
    """The transformer of PixArt and Latte; pipelines drop the half that is a variance."""
    return kind(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        **more,
    )


@family(
    "text to video",
    size(8, 8, video_length=4, guidance_scale=5.0, clean_caption=False),
    size(16, 8),
)
def latte() -> diffusers.LattePipeline:
    """What it makes of a prompt depends on the prompts beside it."""
    made = pixart_network(diffusers.LatteTransformer3DModel, video_length=4)
    return diffusers.LattePipeline(
        tokenizer(),
        t5(),
        kl((8,)),
        made,
        ddim(beta_start=0.0001, beta_end=0.02),
    )


@family(
    "text to video",
    size(num_frames=5, guidance_scale=4.0, max_sequence_length=32),
    size(32, 16, num_frames=9),
)
def kandinsky5() -> diffusers.Kandinsky5T2VPipeline:
    """Its latents have their channels last."""
    made = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        attention_type="regular",
    )
    pipe = diffusers.Kandinsky5T2VPipeline(
        made,
        hunyuan_vae(),
        qwen_vl(),
        Processor(),
        clip(16),
        tokenizer(),
        flow(shift=7.0),
    )
    pipe.prompt_template_encode_start_idx = 1
    return pipe


SANA_VIDEO = size(
    32,
    32,
    frames=9,
    guidance_scale=6.0,
    max_sequence_length=16,
    complex_human_instruction=[],
    use_resolution_binning=False,
)


@family("text to video", SANA_VIDEO, size(32, 64, frames=5))
def sana_video() -> diffusers.SanaVideoPipeline:
    made = diffusers.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=8,
        mlp_ratio=2.5,
        sample_size=8,
        patch_size=(1, 2, 2),
        norm_elementwise_affine=False,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return diffusers.SanaVideoPipeline(tokenizer(), gemma(), wan_vae(), made, flow(shift=7.0))
