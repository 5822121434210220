"""Networks that denoise the sound of a clip beside its pictures."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

from ._family import family, size
from .parts import (
    VOCABULARY,
    Processor,
    clip,
    flow,
    hunyuan_vae,
    qwen_vl,
    tokenizer,
)

RATES = {"sample_rate": 16000, "mel_hop_length": 160}  # 25 latents of sound a second


# LTX-2


def gemma3(width: int = 16) -> Any:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 16,
        "head_dim": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=60,
        eoi_token_index=61,
        image_token_index=62,
        attn_implementation="eager",
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def ltx2_network() -> Any:
    return diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=16,
        rope_double_precision=False,
        rope_type="split",
    )


def connectors() -> Any:
    heads = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_learnable_registers": None,
    }
    each = {f"{kind}_connector_{key}": n for kind in ("video", "audio") for key, n in heads.items()}
    return LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
        **each,
    )


def ltx2_vae() -> Any:
    """8 pixels and 2 frames a latent."""
    return diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=4,
        patch_size_t=1,
    )


def audio_vae() -> Any:
    return diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
        **RATES,
    )


def vocoder() -> Any:
    return LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )


LTX2 = size(
    32,
    32,
    num_frames=5,
    frame_rate=25.0,
    max_sequence_length=16,
    guidance_scale=3.0,
    audio_guidance_scale=5.0,
    stg_scale=0.5,
    spatio_temporal_guidance_blocks=[1],
    modality_scale=2.0,
)


@family("text to video", LTX2, size(64, 32, num_frames=9), quick=True)
def ltx2() -> diffusers.LTX2Pipeline:
    """Four passes of the network a step: guidance by text, by layers and by modality."""
    return diffusers.LTX2Pipeline(
        flow(use_dynamic_shifting=True),
        ltx2_vae(),
        audio_vae(),
        gemma3(),
        tokenizer(side="left"),
        connectors(),
        ltx2_network(),
        vocoder(),
    )


@family("image to video", LTX2 | {"image_crf": 0}, size(64, 32, num_frames=9))
def ltx2_i2v() -> diffusers.LTX2ImageToVideoPipeline:
    """Its first latent frame is given."""
    return diffusers.LTX2ImageToVideoPipeline(
        flow(use_dynamic_shifting=True),
        ltx2_vae(),
        audio_vae(),
        gemma3(),
        tokenizer(side="left"),
        connectors(),
        ltx2_network(),
        vocoder(),
    )


@family("text to video", LTX2, size(64, 32, num_frames=9))
def ltx2_condition() -> diffusers.LTX2ConditionPipeline:
    """Without a scheduler of its own for the sound."""
    return diffusers.LTX2ConditionPipeline(
        flow(use_dynamic_shifting=True),
        ltx2_vae(),
        audio_vae(),
        gemma3(),
        tokenizer(side="left"),
        connectors(),
        ltx2_network(),
        vocoder(),
    )


# Kandinsky 6


@family(
    "text to video",
    size(num_frames=5, guidance_scale=3.0, max_sequence_length=16),
    size(32, 16, num_frames=9),
)
def kandinsky6() -> diffusers.Kandinsky6TI2VAPipeline:
    """It copies its scheduler after that has its times."""
    network = diffusers.Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=32,
        time_dim=16,
        model_dim=12,
        ff_dim=24,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(2, 1, 1),
        in_audio_dim=4,
        out_audio_dim=4,
        visual_token_type_num_embeddings=2,
    )
    sound = diffusers.MMAudioVAE(
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        channel_multipliers=(1, 2),
        layers_per_block=1,
        sample_rate=64,
        n_fft=16,
        hop_length=4,
    )
    voice = diffusers.MMAudioVocoder(
        num_mels=8,
        upsample_initial_channel=8,
        upsample_rates=(2, 2),
        upsample_kernel_sizes=(4, 4),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
    )
    return diffusers.Kandinsky6TI2VAPipeline(
        network,
        hunyuan_vae(),
        qwen_vl(),
        Processor(),
        clip(32),
        tokenizer(),
        flow(shift=7.0),
        sound,
        voice,
    )
