"""Tokenizers, text and image encoders, autoencoders and schedulers that several families
share."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "cross",
    "moves",
    "left",
    "right",
    "on",
    "dark",
    "background",
    "bounces",
    "slowly",
    "cat",
    "runs",
    "low",
    "quality",
]
VOCABULARY = 64
CHAT = (  # a token that pipelines cut off, what the user says, and a token that closes it: the real
    # templates close as well, so that an empty text has a token, without which its mean is
    # 0 / 0
    "<s>{% for message in messages if message['role'] == 'user' %}"
    "{{ message['content'] if message['content'] is string else message['content'][-1]['text'] }} "
    "{% endfor %}</s>"
)


# Text


def tokenizer(length: int = 77, side: str = "right") -> Any:
    """One token a word of WORDS, between a token that begins and one that ends the text."""
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=length,
        padding_side=side,
    )


def chat_tokenizer(length: int = 512) -> Any:
    """The same for pipelines that put the prompt into a conversation."""
    made = tokenizer(length)
    made.chat_template = CHAT
    return made


class Processor(transformers.ProcessorMixin):
    """A processor of text and pictures that is given text alone."""

    def __init__(self, length: int = 512):
        self.tokenizer = chat_tokenizer(length)
        self.decode, self.batch_decode = self.tokenizer.decode, self.tokenizer.batch_decode

    def __call__(self, text: Any = None, **more: Any) -> Any:
        known = ("max_length", "truncation", "return_tensors", "padding")
        return self.tokenizer(text, **{name: more[name] for name in known if name in more})


def t5(width: int = 32) -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=width,
        d_ff=37,
        d_kv=8,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        dropout_rate=0.0,
    )
    return transformers.T5EncoderModel(config)


def clip(width: int = 32, projected: int = 0) -> Any:
    config = transformers.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=VOCABULARY,
        projection_dim=projected or width,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def llama(width: int = 16) -> Any:
    config = transformers.LlamaConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        vocab_size=VOCABULARY,
    )
    return transformers.LlamaModel(config)


def gemma(width: int = 8) -> Any:
    config = transformers.Gemma2Config(
        head_dim=16,
        hidden_size=width,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        attn_implementation="eager",
        pad_token_id=1,
    )
    return transformers.Gemma2Model(config)


def glm(width: int = 32) -> Any:
    config = transformers.GlmConfig(
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=8,
        vocab_size=VOCABULARY,
        pad_token_id=1,
    )
    return transformers.GlmForCausalLM(config)


def qwen3(width: int = 16) -> Any:
    config = transformers.Qwen3Config(
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        head_dim=8,
        pad_token_id=1,
    )
    return transformers.Qwen3Model(config)


def _qwen_text(layers: int) -> dict[str, Any]:
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "pad_token_id": 1,
        "rope_scaling": rope,
        "rope_theta": 1e6,
    }


def qwen_vl() -> Any:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    vision["out_hidden_size"] = 16
    config = transformers.Qwen2_5_VLConfig(
        text_config=_qwen_text(2),
        vision_config=vision,
        hidden_size=16,
        vocab_size=VOCABULARY,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen_vl_text() -> Any:
    return transformers.Qwen2_5_VLTextModel(transformers.Qwen2_5_VLTextConfig(**_qwen_text(4)))


def mistral3() -> Any:
    text = {
        "model_type": "mistral",
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "sliding_window": None,
        "pad_token_id": 1,
        "max_position_embeddings": 512,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "image_size": 30,
        "patch_size": 6,
        "num_channels": 3,
    }
    config = transformers.Mistral3Config(
        text_config=text,
        vision_config=vision,
        image_token_index=3,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


# Pictures that are given


def clip_vision(width: int = 4, pixels: int = 32, patch: int = 8) -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=pixels,
        intermediate_size=16,
        patch_size=patch,
    )
    return transformers.CLIPVisionModelWithProjection(config)


def clip_pictures(pixels: int = 32) -> Any:
    return transformers.CLIPImageProcessor(crop_size=pixels, size=pixels)


# Autoencoders


def wan_vae(channels: int = 16, **more: Any) -> Any:
    """8 pixels and 4 frames a latent."""
    return diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        **more,
    )


def hunyuan_vae(channels: int = 4) -> Any:
    """8 pixels and 4 frames a latent."""
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=channels,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )


def kl(widths: tuple[int, ...] = (8, 8), channels: int = 4, **more: Any) -> Any:
    """The autoencoder of Stable Diffusion; each width but the last halves the picture."""
    return diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=channels,
        norm_num_groups=2,
        **more,
    )


def shifted_kl(channels: int = 4, halvings: int = 0) -> Any:
    """The autoencoder of SD3 and FLUX: its latents are shifted."""
    return kl(
        (4,) * (halvings + 1),
        channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


# Schedulers


def flow(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def flow_unipc(shift: float = 3.0) -> Any:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def ddim(schedule: str = "linear", **options: Any) -> Any:
    given = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False} | options
    return diffusers.DDIMScheduler(beta_schedule=schedule, **given)


def euler(**options: Any) -> Any:
    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
        **options,
    )


# Guards of Cosmos


class NoGuardrail(torch.nn.Module):
    """A safety checker that lets everything pass; the real one weighs several gigabytes."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video
