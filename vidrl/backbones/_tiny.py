"""A Wan pipeline of a few thousand random weights, which tests build without a file."""

from __future__ import annotations

from typing import Any

import torch


def pipeline() -> Any:
    """Build a WanPipeline of random weights that has every part of the real one."""
    import diffusers
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    words = ["a", "the", "red", "blue", "green", "circle", "square", "cross"]
    words += ["moves", "stays", "left", "right", "still"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -10.0)] + [
        (f"▁{w}", -1.0) for w in words
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(pieces),
                d_model=16,
                d_kv=8,
                num_heads=2,
                num_layers=1,
                d_ff=32,
                dropout_rate=0.0,
            )
        )
        vae = diffusers.AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            attn_scales=[],
            temperal_downsample=[True, True],
            latents_mean=[0.1, -0.2, 0.0, 0.3],
            latents_std=[1.5, 0.8, 1.0, 2.0],
            patch_size=2,
            in_channels=12,
            out_channels=12,
            scale_factor_spatial=8,
            scale_factor_temporal=4,
        )
        transformer = diffusers.WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    return diffusers.WanPipeline(tokenizer, text, vae, scheduler, transformer)
