"""Families whose latents are a row of tokens: LTX-Video, FLUX, Chroma, Qwen-Image."""

from __future__ import annotations

from typing import Any

import diffusers

from ._family import family, size
from .parts import Processor, clip, flow, mistral3, qwen_vl, shifted_kl, t5, tokenizer

# LTX-Video


def ltx_parts(scheduler: Any = None) -> tuple[Any, ...]:
    made = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    own = flow(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    return scheduler or own, vae, t5(), tokenizer(), made


LTX = size(32, 32, num_frames=9, max_sequence_length=16, guidance_scale=3.0)
LTX_OTHER = size(64, 32, num_frames=17)


@family("text to video", LTX, LTX_OTHER, quick=True)
def ltx() -> diffusers.LTXPipeline:
    return diffusers.LTXPipeline(*ltx_parts())


@family("image to video", LTX, LTX_OTHER)
def ltx_i2v() -> diffusers.LTXImageToVideoPipeline:
    """A time a token: the given first frame is clean."""
    return diffusers.LTXImageToVideoPipeline(*ltx_parts())


@family("image to video", LTX | {"image_cond_noise_scale": 0.0}, LTX_OTHER)
def ltx_condition() -> diffusers.LTXConditionPipeline:
    return diffusers.LTXConditionPipeline(*ltx_parts(flow()))


# FLUX


def flux_network(kind: Any = None, **more: Any) -> Any:
    return (kind or diffusers.FluxTransformer2DModel)(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
        **more,
    )


def flux_scheduler() -> Any:
    return flow(use_dynamic_shifting=True, shift=3.0)


TEXT = {"max_sequence_length": 16}


NEGATIVE = {"negative_prompt": "low quality"}


FLUX = size(guidance_scale=3.5, true_cfg_scale=2.0, **NEGATIVE, **TEXT)


@family("text to image", FLUX, size(32, 16))
def flux() -> diffusers.FluxPipeline:
    """Guidance is told to the network, and a negative prompt is subtracted besides."""
    made = flux_network(pooled_projection_dim=32, guidance_embeds=True)
    return diffusers.FluxPipeline(
        flux_scheduler(),
        shifted_kl(1),
        clip(),
        tokenizer(),
        t5(),
        tokenizer(),
        made,
    )


@family(
    "image to image",
    size(guidance_scale=3.5, max_area=256, _auto_resize=False, **TEXT),
    size(32, 16, max_area=512),
)
def flux_kontext() -> diffusers.FluxKontextPipeline:
    """The tokens of the given picture stand behind those of the latents."""
    made = flux_network(pooled_projection_dim=32, guidance_embeds=True)
    return diffusers.FluxKontextPipeline(
        flux_scheduler(), shifted_kl(1), clip(), tokenizer(), t5(), tokenizer(), made
    )


FLUX2 = size(guidance_scale=4.0, text_encoder_out_layers=(1, 2), max_sequence_length=16)


@family("text to image", FLUX2, size(32, 16))
def flux2() -> diffusers.Flux2Pipeline:
    """The autoencoder's latents are normalised by the statistics of a batch norm."""
    made = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 4, 4],
    )
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return diffusers.Flux2Pipeline(flux_scheduler(), vae, mistral3(), Processor().tokenizer, made)


@family("text to image", size(guidance_scale=4.0, **NEGATIVE, **TEXT), size(32, 16))
def chroma() -> diffusers.ChromaPipeline:
    """In bfloat16 the network is told 750 levels as 752, as FLUX is.

    Of the 16 channels that the published approximator reads time with, few turn so fast
    that this shows; of four, half would.
    """
    made = flux_network(
        diffusers.ChromaTransformer2DModel,
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=64,
    )
    return diffusers.ChromaPipeline(flow(), shifted_kl(1), t5(), tokenizer(), made)


QWEN = size(32, 32, true_cfg_scale=3.0, max_sequence_length=64, **NEGATIVE)


@family("text to image", QWEN, size(64, 32))
def qwen_image() -> diffusers.QwenImagePipeline:
    """Guidance keeps the norm of each token. Texts are as long as the longest prompt of a
    batch."""
    made = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = flow(
        use_dynamic_shifting=True,
        shift_terminal=0.02,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
    )
    pipe = diffusers.QwenImagePipeline(scheduler, vae, qwen_vl(), tokenizer(512), made)
    pipe.prompt_template_encode_start_idx = 1
    return pipe
