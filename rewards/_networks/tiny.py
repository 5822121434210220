"""Small networks with random weights, built from the classes of the published models.

`tiny()` of a learned reward scores with them, so that tests need no download.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..encoders import TextImage, Vision, class_token
from .hub import Network, import_package
from .pixels import IMAGENET, OPENAI, Pixels

# The characters that the small tokenizers of CLIP and BERT know.
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."
LAYER = {"num_hidden_layers": 1, "num_attention_heads": 2}
SMALL = {**LAYER, "hidden_size": 16, "intermediate_size": 16}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return `make()` with random weights under seed 0; the random state is restored.

    The weights have standard deviation 1 / sqrt(inputs), so that different inputs give
    clearly different outputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            # biases and norms (one axis) keep the values of their classes
            if parameter.dim() > 1 and parameter.numel():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def clip_tokenizer() -> Any:
    """Return a CLIP tokenizer of single characters."""
    # CLIP marks the last piece of a word by </w>
    pieces = [piece for letter in LETTERS for piece in (letter, f"{letter}</w>")]
    vocabulary = {piece: i for i, piece in enumerate(["<|startoftext|>", *pieces, "<|endoftext|>"])}
    return import_package("transformers").CLIPTokenizer(vocab=vocabulary, merges=[])


def clip_model(side: int = 32) -> Any:
    """Return a CLIP with one layer for text and one for images.

    Images are `side` x `side` pixels in 4 patches.
    """
    t = import_package("transformers")
    words = 2 * len(LETTERS) + 2
    text = {
        **SMALL,
        "vocab_size": words,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": words - 1,
    }
    images = {**SMALL, "image_size": side, "patch_size": side // 2}
    return seeded(
        lambda: t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=images, projection_dim=16))
    )


def pair(chunk: int = 16) -> TextImage:
    """Return a small CLIP with its tokenizer."""
    return TextImage(
        Network(clip_model), lambda _: Pixels(32, (32, 32), OPENAI), clip_tokenizer, chunk
    )


def dinov2_model() -> Any:
    """Return a DINOv2 of one layer, 28 x 28 pixels in 4 patches."""
    t = import_package("transformers")
    return seeded(
        lambda: t.Dinov2Model(t.Dinov2Config(**LAYER, hidden_size=16, image_size=28, mlp_ratio=2))
    )


def vision(chunk: int = 16) -> Vision:
    """Return a small DINOv2 as an encoder."""
    return Vision(
        Network(dinov2_model), lambda _: Pixels(28, (28, 28), IMAGENET), class_token, chunk
    )


def xclip_model() -> Any:
    """Return an X-CLIP with one layer for text and one for clips.

    Clips are 8 frames of 32 x 32 pixels in 4 patches.
    """
    t = import_package("transformers")
    words = 2 * len(LETTERS) + 2
    text = {
        **SMALL,
        "vocab_size": words,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": words - 1,
    }
    mit = {
        "mit_hidden_size": 16,
        "mit_intermediate_size": 16,
        "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 2,
    }
    images = {
        **SMALL,
        **mit,
        "image_size": 32,
        "patch_size": 16,
        "num_frames": 8,
        "drop_path_rate": 0.0,
    }
    config = t.XCLIPConfig(
        text_config=text,
        vision_config=images,
        projection_dim=16,
        prompt_layers=1,
        prompt_num_attention_heads=2,
    )
    return seeded(lambda: t.XCLIPModel(config))


def bert_tokenizer() -> Any:
    """Return a BERT tokenizer of single characters."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
    ]
    return import_package("transformers").BertTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}
    )


def blip_judge() -> nn.Module:
    """Return ImageReward's BLIP with one layer for text and one for images.

    Images are 32 x 32 pixels in 4 patches.
    """
    from .blip import Judge, reward_head

    t = import_package("transformers")
    vision = t.BlipVisionConfig(**SMALL, image_size=32, patch_size=16)
    text = t.BlipTextConfig(
        **SMALL, vocab_size=96, encoder_hidden_size=16, max_position_embeddings=35
    )
    return seeded(lambda: Judge(t.BlipVisionModel(vision), t.BlipTextModel(text), reward_head(16)))


# The special tokens of Qwen2-VL's chats that the judges use.
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def qwen_tokenizer() -> Any:
    """Return a Qwen2 tokenizer of single bytes, with the tokens of its chats."""
    import_package("transformers")
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    # Qwen2's vocabulary writes each byte as a printable letter
    letters = {letter: i for i, letter in enumerate(bytes_to_unicode().values())}
    tokens = import_package("transformers").Qwen2Tokenizer(vocab=letters, merges=[])
    tokens.add_tokens(SPECIAL, special_tokens=True)
    return tokens


def qwen_config() -> Any:
    """Return the configuration of a Qwen2-VL with one layer for text and one for images."""
    t = import_package("transformers")
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {
        **SMALL,
        "num_key_value_heads": 1,
        "vocab_size": 300,
        "rope_parameters": rope,
        "pad_token_id": None,
    }
    images = {"depth": 1, "embed_dim": 32, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1}
    return t.Qwen2VLConfig(text_config=text, vision_config=images)


def qwen_judge(head: Callable[[int], nn.Module]) -> nn.Module:
    """Return a Judge with the Qwen2-VL of `qwen_config`; `head` builds the head for a width."""
    from .qwen import Judge

    t = import_package("transformers")
    return seeded(lambda: Judge(t.Qwen2VLModel(qwen_config()), head(16)))


def qwen25_judge() -> nn.Module:
    """Return a Qwen2.5-VL with one layer for text, one for video, and a language head."""
    t = import_package("transformers")
    tokens = qwen_tokenizer()
    video, end = tokens.convert_tokens_to_ids(["<|video_pad|>", "<|im_end|>"])
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {
        **SMALL,
        "num_key_value_heads": 1,
        "vocab_size": 300,
        "rope_parameters": rope,
        "eos_token_id": end,
    }
    images = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
        "fullatt_block_indexes": [0],
        "tokens_per_second": 2,
    }
    config = t.Qwen2_5_VLConfig(text_config=text, vision_config=images, video_token_id=video)
    model = seeded(lambda: t.Qwen2_5_VLForConditionalGeneration(config))
    model.generation_config = t.GenerationConfig(eos_token_id=end, pad_token_id=end)
    return model


def vjepa2_model() -> Any:
    """Return a V-JEPA 2 with one layer for the encoder and one for the predictor.

    Clips are 4 frames of 32 x 32 pixels in 8 tokens.
    """
    t = import_package("transformers")
    parts = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "mlp_ratio": 1.0}
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1}
    config = t.VJEPA2Config(
        **parts, **predictor, crop_size=32, frames_per_clip=4, pred_num_mask_tokens=2
    )
    return seeded(lambda: t.VJEPA2Model(config))
