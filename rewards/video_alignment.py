"""A reward that measures how well a clip as a whole fits its prompt, by X-CLIP."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._networks.hub import Network, chunked, pretrained, tokenizer
from ._networks.learned import LearnedReward, middle_frames
from ._networks.pixels import IMAGENET, Pixels, read_pixels
from .base import Card, Samples

# used where the model's folder has no preprocessor_config.json
DEFAULT = Pixels(224, (224, 224), IMAGENET, "bilinear")


class VideoAlignment(LearnedReward):
    """How well a clip as a whole fits its prompt, which X-CLIP measures as a cosine.

    The range is [-1, 1]. The network's frames attend to each other. They are the middles of
    as many equal segments as the model has frames (8 in microsoft/xclip-base-patch32), as
    in VBench's overall consistency; shorter clips repeat frames. `window` > 0 judges equal
    pieces of about so many seconds each, so that the curve shows which piece fits. `window`
    = 0 judges the clip as a whole, and the curve is flat. `model` is a local folder or hub
    id of transformers' XCLIPModel.

    VBench itself uses ViCLIP: its numbers cannot be compared with these.

    Source: Ni et al. 2022, arXiv:2208.02816.

    >>> clip = torch.rand(1, 9, 3, 32, 32)
    >>> VideoAlignment.tiny()(Samples(clip, ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 9])
    """

    range = (-1.0, 1.0)
    time_support = "clip"
    card = Card(
        sees="Whether the clip shows what the prompt names. The network was trained on names "
        "of human actions.",
        blind_to="Quality, speed, and everything that happens between its 8 frames; often the "
        "direction of motion.",
        hacks="Still pictures of the requested action.",
        input="Any frame rate, size and length. A frame is resized to a shorter side of 224 "
        "pixels, and its central square is used.",
        cost="CLIP B/32 on 8 frames takes 0.07 TFLOP a clip. Not timed here.",
    )

    def __init__(
        self,
        model: str = "microsoft/xclip-base-patch32",
        window: float = 0.0,
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
    ) -> None:
        super().__init__(chunk, dtype, offload)
        if not (math.isfinite(window) and window >= 0):
            raise ValueError(f"expected window, seconds, to be 0 or more, got {window}")
        self.network, self.window = (
            Network(lambda: pretrained("XCLIPModel", model, dtype), offload),
            window,
        )
        self.find, self.words = (lambda: read_pixels(model, DEFAULT)), (lambda: tokenizer(model))
        self.pixels: Pixels | None = None
        self._tokenizer: Any = None

    @classmethod
    def tiny(cls) -> VideoAlignment:
        """Return the reward with a small X-CLIP of random weights."""
        from ._networks.tiny import clip_tokenizer, xclip_model

        reward = cls()
        reward.network, reward.words = Network(xclip_model), clip_tokenizer
        reward.find = lambda: Pixels(32, (32, 32), IMAGENET, "bilinear")
        return reward

    @property
    def streams(self) -> bool:
        """Return False: the places of the frames depend on the length of the clip."""
        return False

    def terms(self, samples: Samples) -> Tensor:
        """Return the agreement of each frame's window, (B, F)."""
        video = samples.frames
        frames = video.shape[1]
        pieces = max(1, round(frames / samples.fps / self.window)) if self.window else 1
        owner = [t * min(pieces, frames) // frames for t in range(frames)]
        windows = [[t for t, o in enumerate(owner) if o == i] for i in sorted(set(owner))]
        judged = [self._agreement(video[:, window], samples) for window in windows]
        return torch.stack(judged, 1)[:, owner]

    def _agreement(self, video: Tensor, samples: Samples) -> Tensor:
        """Return the cosine of each clip, (B,)."""
        self._tokenizer = self._tokenizer or self.words()
        with self.network.on(video) as model:
            self.pixels = self.pixels or self.find()
            frames, longest = (
                model.config.vision_config.num_frames,
                model.config.text_config.max_position_embeddings,
            )
            tokens = self._tokenizer(
                list(samples.prompts),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(video.device)
            video = video[:, middle_frames(video.shape[1], frames)]
            clips = max(1, self.chunk // frames)
            return chunked(
                partial(self._pass, model), clips, video, tokens.input_ids, tokens.attention_mask
            )

    def _pass(self, model: Any, video: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the cosine of each clip of a batch, (B,)."""
        assert self.pixels is not None  # `_agreement` sets it
        ready = self.pixels(video.flatten(0, 1)).unflatten(0, video.shape[:2])
        seen = model(input_ids=ids, attention_mask=mask, pixel_values=ready.to(model.dtype))
        # X-CLIP adapts each text to each clip, so `text_embeds` is (B, B, D); only pairs are read
        return torch.einsum("bd,bbd->b", seen.video_embeds, seen.text_embeds).to(ready.dtype)
