"""Transformers of pictures: SD3, Sana, PixArt, Lumina 2, AuraFlow, CogView 4, Z-Image."""

from __future__ import annotations

import diffusers
from torch import nn

from ._family import family, size
from .parts import chat_tokenizer, clip, flow, gemma, glm, kl, qwen3, shifted_kl, t5, tokenizer
from .video import pixart_network

TEXT = {"max_sequence_length": 16}


@family("text to image", size(guidance_scale=5.0, **TEXT), size(32, 16))
def sd3() -> diffusers.StableDiffusion3Pipeline:
    """Three text encoders."""
    made = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
    )
    return diffusers.StableDiffusion3Pipeline(
        made,
        flow(shift=3.0),
        shifted_kl(),
        clip(32, 32),
        tokenizer(),
        clip(32, 32),
        tokenizer(),
        t5(),
        tokenizer(),
    )


SANA = size(
    32, 32, guidance_scale=4.5, complex_human_instruction=None, use_resolution_binning=False, **TEXT
)


@family("text to image", SANA, size(64, 32))
def sana() -> diffusers.SanaPipeline:
    """Its own scheduler is a multistep solver of flow."""
    made = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
    )
    blocks = ("ResBlock", "EfficientViTBlock")
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        algorithm_type="dpmsolver++",
    )
    return diffusers.SanaPipeline(tokenizer(), gemma(), vae, made, scheduler)


PIXART = size(8, 8, guidance_scale=4.5, use_resolution_binning=False, clean_caption=False, **TEXT)


@family("text to image", PIXART, size(16, 8))
def pixart() -> diffusers.PixArtAlphaPipeline:
    made = pixart_network(diffusers.PixArtTransformer2DModel)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
    )
    return diffusers.PixArtAlphaPipeline(tokenizer(), t5(), kl((8,)), made, scheduler)


@family("text to image", size(32, 32, guidance_scale=5.0, max_sequence_length=48), size(64, 32))
def lumina2() -> diffusers.Lumina2Pipeline:
    """Its network is told 1 - t and predicts the opposite of the flow.

    The pipeline puts an instruction of about 30 words before the prompt.
    """
    made = diffusers.Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=8,
    )
    return diffusers.Lumina2Pipeline(made, flow(), shifted_kl(halvings=3), gemma(), tokenizer())


@family("text to image", size(32, 32, guidance_scale=5.0, **TEXT), size(64, 32))
def auraflow() -> diffusers.AuraFlowPipeline:
    made = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        out_channels=4,
        pos_embed_max_size=256,
    )
    return diffusers.AuraFlowPipeline(tokenizer(), t5(), kl(), made, flow())


@family("text to image", size(guidance_scale=5.0, **TEXT), size(32, 16))
def cogview4() -> diffusers.CogView4Pipeline:
    """Its scheduler shifts the levels of noise, and not the times that the network is
    told."""
    made = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = flow(
        base_shift=0.25,
        max_shift=0.75,
        base_image_seq_len=256,
        use_dynamic_shifting=True,
        time_shift_type="linear",
    )
    return diffusers.CogView4Pipeline(tokenizer(side="left"), glm(), kl(), made, scheduler)


@family(
    "text to image",
    size(32, 32, guidance_scale=3.0, negative_prompt="low quality", **TEXT),
    size(64, 32),
)
def z_image() -> diffusers.ZImagePipeline:
    """Latents and texts are lists of ragged tensors."""
    made = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    nn.init.ones_(made.x_pad_token)  # they come without a value
    nn.init.ones_(made.cap_pad_token)
    return diffusers.ZImagePipeline(
        flow(),
        kl(channels=16, shift_factor=0.1),
        qwen3(),
        chat_tokenizer(),
        made,
    )
