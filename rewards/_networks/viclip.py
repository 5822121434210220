"""ViCLIP: a CLIP whose video tower lets the patches of all frames see each other, and the
loading of its weights.

Legend: N clips or texts, T frames, P patches a frame, L tokens, E width of a tower, D
features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .hub import Network, read_state, tokenizer, weight_dtype, weights_file
from .openclip import clean_prompt

WEIGHTS = "OpenGVLab/ViCLIP/ViClip-InternVid-10M-FLT.pth"
WORDS = "openai/clip-vit-large-patch14"  # the vocabulary is CLIP's
HEAD = 64  # width of an attention head in both published sizes, L/14 and B/16
BLOCK = re.compile(
    r"(.*)transformer\.resblocks\.(\d+)\.(attn|ln_1|ln_2|mlp\.c_fc|mlp\.c_proj)\.(.*)"
)
PARTS = {
    "attn": "self_attn",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "linear1",
    "mlp.c_proj": "linear2",
}
TOWERS = {"vision_encoder.": "video.", "text_encoder.": "text."}


class VideoTower(nn.Module):
    """Prepared clips (N, T, 3, H, W) as features (N, D): the class token after attention
    among all T P patches."""

    def __init__(
        self,
        patch: int,
        width: int,
        side: int,
        frames: int,
        layers: int,
        out: int,
        head: int = HEAD,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, frames, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = blocks(width, layers, head)
        self.proj = nn.Parameter(torch.zeros(width, out))

    @property
    def frames(self) -> int:
        """The number of frames that the tower was trained with."""
        return self.temporal_positional_embedding.shape[1]

    @property
    def side(self) -> int:
        """The height and width in pixels of the frames that the tower was trained with."""
        return round((len(self.positional_embedding) - 1) ** 0.5) * self.conv1.kernel_size[1]

    def forward(self, video: Tensor) -> Tensor:
        """Features that are not normalised."""
        expected = (self.frames, 3, self.side, self.side)
        if tuple(video.shape[1:]) != expected:
            raise ValueError(
                f"expected clips (N, {', '.join(map(str, expected))}), got {tuple(video.shape)}"
            )
        patches = self.conv1(video.transpose(1, 2)).flatten(3).permute(0, 3, 2, 1)  # (N, P, T, E)
        place, when = self.positional_embedding[1:, None], self.temporal_positional_embedding
        patches = (patches + place + when).flatten(1, 2)
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(video), 1, -1)
        seen = self.blocks(self.ln_pre(torch.cat([first, patches], 1)))
        return self.ln_post(seen[:, 0]) @ self.proj


class TextTower(nn.Module):
    """Tokens (N, L) as features (N, D): the state at the end token, whose number is the
    largest in the vocabulary."""

    def __init__(
        self, vocabulary: int, width: int, longest: int, layers: int, out: int, head: int = HEAD
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(longest, width))
        self.blocks = blocks(width, layers, head)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, out))

    def forward(self, ids: Tensor) -> Tensor:
        """Features that are not normalised; what stands after the first end token changes
        nothing."""
        words = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        read = self.ln_final(self.blocks(words, mask=later))
        return read[torch.arange(len(ids), device=ids.device), ids.argmax(1)] @ self.text_projection


class ViClip(nn.Module):
    """Both towers, with features in one space."""

    def __init__(self, video: VideoTower, text: TextTower) -> None:
        super().__init__()
        self.video, self.text = video, text


class Pair:
    """A ViCLIP with its tokenizer: prepared clips and prompts as features of length 1, (N,
    D).

    >>> pair = tiny()
    >>> pair.clips(torch.rand(2, 8, 3, 32, 32)).shape, pair.texts(["a red ball"], torch.rand(1)).shape
    (torch.Size([2, 16]), torch.Size([1, 16]))
    """

    def __init__(self, network: Network, words: Callable[[], Any]) -> None:
        self.network, self.words = network, words
        self._tokenizer: Any = None

    def clips(self, video: Tensor) -> Tensor:
        """Features of clips (N, T, 3, H, W) that are resized and normalised already; T is 8
        as published."""
        with self.network.on(video) as model:
            found = model.video(video.to(model.video.proj.dtype))
            return nn.functional.normalize(found.to(video.dtype), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str], like: Tensor) -> Tensor:
        """Features of prompts where `like` is; what is longer than 32 tokens, as published,
        is cut off."""
        with self.network.on(like) as model:
            ids = self._tokens(prompts, len(model.text.positional_embedding)).to(like.device)
            return nn.functional.normalize(model.text(ids).to(like.dtype), dim=-1)

    def _tokens(self, prompts: Sequence[str], longest: int) -> Tensor:
        self._tokenizer = self._tokenizer or self.words()
        texts = [clean_prompt(prompt) for prompt in prompts]
        return self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        ).input_ids


def load(
    weights: str = WEIGHTS, words: str = WORDS, dtype: str = "float32", offload: bool = False
) -> Pair:
    """The ViCLIP of a file, a local path or owner/name/file of the hub, and CLIP's
    tokenizer of a folder or hub id.

    Licences: InternVideo's code is under Apache-2.0 (its LICENSE). The hub's page of
    OpenGVLab/ViCLIP names MIT for the weights, which one gets after accepting its terms;
    OpenGVLab/ViCLIP-L-14-hf, the same network as safetensors, names none. The clips of
    InternVid, from which the weights were learned, are under CC BY-NC-SA 4.0. Wang et al.
    2023, arXiv 2307.06942.
    """
    weight_dtype(dtype)
    make = lambda: build_network(read_state(weights_file(weights))).to(weight_dtype(dtype))  # noqa: E731
    return Pair(Network(make, offload), lambda: tokenizer(words))


def build_network(state: Mapping[str, Tensor], head: int = HEAD) -> ViClip:
    """The ViCLIP with the published weights `state`, whose sizes are read from it.

    Raises ValueError where `state` is not that of a ViCLIP.
    """
    ours = rename_tensors(state)
    try:
        model = _empty(ours, head)
        model.load_state_dict(ours)
    except (KeyError, RuntimeError, ValueError) as error:
        told = str(error).split("\n")[-1].strip()
        raise ValueError(
            f"expected the weights of a ViCLIP, as {WEIGHTS}, but something is amiss: {told}"
        ) from error
    return model


def rename_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published state under our names; the temperature, which no score
    needs, is left out."""
    made = {}
    for name, value in state.items():
        for old, new in TOWERS.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        block = BLOCK.fullmatch(name)
        if block:
            name = f"{block[1]}blocks.layers.{block[2]}.{PARTS[block[3]]}.{block[4]}"
        if name != "temp":
            made[name] = value
    return made


def tiny(patch: int = 16, frames: int = 8) -> Pair:
    """A ViCLIP of one layer a tower and random weights, which reads 8 frames of 32 x 32."""
    from .tiny import LETTERS, clip_tokenizer, seeded

    video = lambda: VideoTower(patch, 16, 2 * patch, frames, 1, 16, head=8)  # noqa: E731
    text = lambda: TextTower(2 * len(LETTERS) + 2, 16, 32, 1, 16, head=8)  # noqa: E731
    return Pair(Network(lambda: seeded(lambda: ViClip(video(), text()))), clip_tokenizer)


def blocks(width: int, layers: int, head: int) -> nn.TransformerEncoder:
    """`layers` of CLIP: the norm before attention and before the two linear layers, quick
    GELU between those."""
    one = nn.TransformerEncoderLayer(
        width,
        width // head,
        4 * width,
        dropout=0.0,
        activation=quick_gelu,
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(one, layers, enable_nested_tensor=False)


def quick_gelu(x: Tensor) -> Tensor:
    """x times the logistic function of 1.702 x."""
    return x * torch.sigmoid(1.702 * x)


def _empty(state: Mapping[str, Tensor], head: int) -> ViClip:
    width, _, _, patch, _ = state["video.conv1.weight"].shape
    places, frames = (
        len(state["video.positional_embedding"]),
        state["video.temporal_positional_embedding"].shape[1],
    )
    side, (words, narrow) = (
        round((places - 1) ** 0.5) * patch,
        state["text.token_embedding.weight"].shape,
    )
    depth = {
        tower: 1
        + max(int(name.split(".")[3]) for name in state if name.startswith(f"{tower}.blocks."))
        for tower in ("video", "text")
    }
    sight = VideoTower(
        patch, width, side, frames, depth["video"], state["video.proj"].shape[1], head
    )
    longest, out = len(state["text.positional_embedding"]), state["text.text_projection"].shape[1]
    return ViClip(sight, TextTower(words, narrow, longest, depth["text"], out, head))
