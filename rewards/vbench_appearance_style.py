"""VBench's appearance style: CLIP measures how well each frame fits a named style."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._networks.hub import Network
from ._networks.learned import encode_distinct
from ._vbench.semantic import mask_unknown, pictures_for_clip, style_of
from .base import About, Card, Reward, Samples
from .encoders import TextImage, cosine, load_pair
from .vbench import colour, unit


class VbenchAppearanceStyle(Reward):
    """VBench's appearance_style: CLIP ViT-B/32 measures how well each frame fits a style.

    The value is the mean over all frames of exp(s) cos(z_t, z_style) / 100. z_t is CLIP's
    embedding of the central square of a frame whose shorter side is resized to 224. exp(s)
    is CLIP's trained factor, which is 100 in the published weights. The range is [-1, 1];
    usual values are 0.15 to 0.3.

    The style is given alone, without the rest of the prompt: "oil painting" of "The bund
    Shanghai, oil painting". It is the entry "appearance_style" of the clip's
    `Samples.meta`. Without that entry, it is the one of VBench's nine styles with which the
    prompt ends. For other prompts it is the option `style`. A clip without any of these is
    unscored.

    As published: the sides of a wide frame are cut off. On several GPUs, VBench's script
    averages only the last frame of each clip. The published code uses half precision on
    CUDA, this one single precision.

    `weights` is a folder or hub id of transformers' CLIPModel with its tokenizer.

    Source: VBench, arXiv:2311.17982; CLIP, arXiv:2103.00020.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> reward = VbenchAppearanceStyle.tiny()
    >>> video = torch.rand(1, 4, 3, 32, 32)
    >>> reward(Samples(video, ["a shark, pixel art"], 8.0)).frames.shape
    torch.Size([1, 4])
    """

    learned = True
    needs = ("transformers",)
    extra = "learned"
    range = (-1.0, 1.0)
    time_support = "frame"
    lost = (
        "unscored: no style is known, or the network's answer is not finite. The prompt ends with "
        "none of VBench's nine styles, such as 'oil painting': pass style='...', or meta with an "
        "entry 'appearance_style'"
    )
    card = Card(
        sees="How near each frame is to the name of a style in CLIP's embedding.",
        blind_to="What the picture shows; time; the sides of a wide frame.",
        hacks="The name of the style written in the picture; a stereotype of the style (swirls, "
        "blocks, neon) that fills the frame; a frozen frame.",
        input="Any clip, and a style: VBench's prompts end with it.",
        cost="CLIP ViT-B/32 for each frame, 4.4 G multiply-adds.",
    )

    def __init__(
        self,
        weights: str = "openai/clip-vit-base-patch32",
        style: str = "",
        chunk: int = 16,
        offload: bool = False,
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"expected chunk, frames at a time, to be 1 or more, got {chunk}")
        self.style, self.pair = style, load_pair(f"clip:{weights}", chunk, offload=offload)
        self.pair.find = lambda _: pictures_for_clip  # type: ignore[assignment, return-value]

    @classmethod
    def tiny(cls) -> VbenchAppearanceStyle:
        """Return the reward with a small CLIP of random weights and one style."""
        from ._networks.tiny import clip_model, clip_tokenizer

        reward = cls(style="oil painting")
        network = Network(lambda: clip_model(224))
        reward.pair = TextImage(
            network,
            lambda _: pictures_for_clip,  # type: ignore[arg-type, return-value]
            clip_tokenizer,
        )
        return reward

    def features(self, samples: Samples) -> Tensor:
        """Return CLIP's embedding of each frame, (B, F, D)."""
        return self.pair(colour(unit(samples.video.flatten(0, 1)))).unflatten(
            0, samples.video.shape[:2]
        )

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the agreement of each frame with the style, (B, F).

        A clip without a style gets NaN.
        """
        styles = self.styles(about)
        texts = encode_distinct(styles, lambda words: self.pair.texts(words, features))
        likeness = self.pair.scale(features) / 100 * cosine(features, texts[:, None])
        return mask_unknown(likeness, [bool(style) for style in styles])

    def styles(self, about: About) -> Sequence[str]:
        """Return the style of each clip; empty if none is known."""
        given = [str(meta.get("appearance_style") or "") for meta in about.meta] or [""] * len(
            about.prompts
        )
        return [own or style_of(prompt) or self.style for own, prompt in zip(given, about.prompts)]
