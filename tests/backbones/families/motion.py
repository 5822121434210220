"""Networks of pictures with layers of time: AnimateDiff, TextToVideoSD, Stable Video
Diffusion."""

from __future__ import annotations

import diffusers

from ._family import family, size
from .parts import clip, clip_pictures, clip_vision, ddim, kl, tokenizer
from .unets import sdxl_network

CALL = size(num_frames=4, guidance_scale=7.5)
OTHER = size(32, 16, num_frames=3)


@family("text to video", CALL, OTHER)
def animatediff() -> diffusers.AnimateDiffPipeline:
    widths = (4, 8)
    network = diffusers.UNet2DConditionModel(
        block_out_channels=widths,
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        norm_num_groups=2,
        attention_head_dim=2,
    )
    motion = diffusers.MotionAdapter(
        block_out_channels=widths,
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return diffusers.AnimateDiffPipeline(kl(), clip(8), tokenizer(), network, motion, ddim())


@family("text to video", CALL, OTHER)
def animatediff_sdxl() -> diffusers.AnimateDiffSDXLPipeline:
    widths = (4, 8)
    motion = diffusers.MotionAdapter(
        block_out_channels=widths,
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )
    return diffusers.AnimateDiffSDXLPipeline(
        kl(),
        clip(),
        clip(32, 32),
        tokenizer(),
        tokenizer(),
        sdxl_network(widths),
        motion,
        ddim(),
    )


@family("text to video", CALL | {"guidance_scale": 3.0}, OTHER)
def text_to_video_sd() -> diffusers.TextToVideoSDPipeline:
    """Frames are rows of the batch.

    So many layers follow each other that bfloat16 rounds the network's output by 2 %, which
    guidance of scale w makes up to 2 w - 1 times larger.
    """
    network = diffusers.UNet3DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    return diffusers.TextToVideoSDPipeline(
        kl(),
        clip(8),
        tokenizer(),
        network,
        ddim("scaled_linear"),
    )


SVD = size(num_frames=3, min_guidance_scale=1.0, max_guidance_scale=2.5, decode_chunk_size=8)


@family("image to video", SVD, size(32, 16, num_frames=2), quick=True)
def svd() -> diffusers.StableVideoDiffusionPipeline:
    """No prompt, noise levels of EDM, and guidance that rises from frame to frame.

    Its group norms need 32 channels.
    """
    network = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=24,
        addition_time_embed_dim=8,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae, clip_vision(32, 224, 56), network, scheduler, clip_pictures(224)
    )
