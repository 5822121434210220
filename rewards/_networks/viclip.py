"""ViCLIP, a CLIP for videos, in whose video tower the patches of all frames attend together.

Shapes: N clips or texts, T frames, P patches of a frame, L tokens, E width of a tower, D
features.

Source: Wang et al. 2023 (InternVid), arXiv:2307.06942, github.com/OpenGVLab/InternVideo.
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
WORDS = "openai/clip-vit-large-patch14"  # CLIP's tokenizer, which ViCLIP uses
HEAD = 64  # width of an attention head in both published sizes, L/14 and B/16
# A layer's name in the published file; the layers here are nn.TransformerEncoderLayer, whose
# names for the same parts are in PARTS.
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
    """ViCLIP's vision transformer, which maps prepared clips (N, T, 3, H, W) to (N, D).

    The tokens of a clip are a class token and the T P patches of all frames, with learned
    positions in space and time. The feature is the projected state of the class token.
    Parameters have the names of the published file, except for the layers.
    """

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
        # As published a 3D convolution, although a patch covers a single frame.
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
        """Return the features (N, D), not normalised.

        Raises ValueError if frames or size differ from those of the training.
        """
        expected = (self.frames, 3, self.side, self.side)
        if tuple(video.shape[1:]) != expected:
            raise ValueError(
                f"expected clips (N, {', '.join(map(str, expected))}), got {tuple(video.shape)}"
            )
        patches = self.conv1(video.transpose(1, 2)).flatten(3).permute(0, 3, 2, 1)  # (N, P, T, E)
        # position 0 belongs to the class token, which has no position in time
        space, time = self.positional_embedding[1:, None], self.temporal_positional_embedding
        patches = (patches + space + time).flatten(1, 2)
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(video), 1, -1)
        states = self.blocks(self.ln_pre(torch.cat([first, patches], 1)))
        return self.ln_post(states[:, 0]) @ self.proj


class TextTower(nn.Module):
    """CLIP's text transformer, which maps tokens (N, L) to features (N, D).

    The feature is the projected state at the first end token. The end token has the largest
    number of the vocabulary, so argmax finds it.
    """

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
        """Return the features (N, D), not normalised.

        Attention is causal, so tokens after the first end token change nothing.
        """
        length = ids.shape[1]
        embeddings = self.token_embedding(ids) + self.positional_embedding[:length]
        # True forbids attention: here to all later tokens
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        states = self.ln_final(self.blocks(embeddings, mask=later))
        at_end = states[torch.arange(len(ids), device=ids.device), ids.argmax(1)]
        return at_end @ self.text_projection


class ViClip(nn.Module):
    """A module that holds the video tower and the text tower, whose features are comparable."""

    def __init__(self, video: VideoTower, text: TextTower) -> None:
        super().__init__()
        self.video, self.text = video, text


class Pair:
    """A ViCLIP with its tokenizer, which maps clips and prompts to features of length 1.

    `words` is a function that loads the tokenizer; it is called at the first use.

    >>> pair = tiny()
    >>> pair.clips(torch.rand(2, 8, 3, 32, 32)).shape
    torch.Size([2, 16])
    >>> pair.texts(["a red ball"], torch.rand(1)).shape
    torch.Size([1, 16])
    """

    def __init__(self, network: Network, words: Callable[[], Any]) -> None:
        self.network, self.words = network, words
        self._tokenizer: Any = None

    def clips(self, video: Tensor) -> Tensor:
        """Return the features (N, D) of clips (N, T, 3, H, W), resized and normalised before.

        T is 8 in the published weights. Differentiable to the clips.
        """
        with self.network.on(video) as model:
            features = model.video(video.to(model.video.proj.dtype))
            return nn.functional.normalize(features.to(video.dtype), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str], like: Tensor) -> Tensor:
        """Return the features (N, D) of prompts, on the device and in the dtype of `like`.

        Prompts are cut off at the length of the text tower, 32 tokens in the published
        weights.
        """
        with self.network.on(like) as model:
            ids = self._tokens(prompts, len(model.text.positional_embedding)).to(like.device)
            return nn.functional.normalize(model.text(ids).to(like.dtype), dim=-1)

    def _tokens(self, prompts: Sequence[str], longest: int) -> Tensor:
        """Return the tokens (N, longest) of cleaned prompts."""
        self._tokenizer = self._tokenizer or self.words()
        texts = [clean_prompt(prompt) for prompt in prompts]
        return self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        ).input_ids


def load(
    weights: str = WEIGHTS, words: str = WORDS, dtype: str = "float32", offload: bool = False
) -> Pair:
    """Return a ViCLIP with its tokenizer; the weights are loaded at the first use.

    `weights` is a local path or owner/name/file of the hub, `words` the folder or hub id of
    CLIP's tokenizer.

    Licences: InternVideo's code is under Apache-2.0 (its LICENSE). The hub's page of
    OpenGVLab/ViCLIP names MIT for the weights and asks the user to accept its terms before
    the download; OpenGVLab/ViCLIP-L-14-hf, the same network as safetensors, names no
    licence. The clips of InternVid, from which the weights were learned, are under CC
    BY-NC-SA 4.0.
    """
    weight_dtype(dtype)  # fails early, for a dtype that does not exist

    def make() -> ViClip:
        return build_network(read_state(weights_file(weights))).to(weight_dtype(dtype))

    return Pair(Network(make, offload), lambda: tokenizer(words))


def build_network(state: Mapping[str, Tensor], head: int = HEAD) -> ViClip:
    """Return the ViCLIP with the published tensors `state`; sizes are read from `state`.

    `head` is the width of an attention head, which no tensor's shape shows. Raises
    ValueError if the tensors are not those of a ViCLIP.
    """
    renamed = rename_tensors(state)
    try:
        model = _untrained(renamed, head)
        model.load_state_dict(renamed)
    except (KeyError, RuntimeError, ValueError) as error:
        # torch's message has a line for each misfit; the last line is one of them
        reason = str(error).split("\n")[-1].strip()
        raise ValueError(
            f"expected the weights of a ViCLIP, as {WEIGHTS}, but something is amiss: {reason}"
        ) from error
    return model


def rename_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published `state` under the names of ViClip's parameters.

    The temperature ("temp") of the training's loss is left out, because no score needs it.
    """
    renamed = {}
    for name, value in state.items():
        for old, new in TOWERS.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        block = BLOCK.fullmatch(name)
        if block:
            name = f"{block[1]}blocks.layers.{block[2]}.{PARTS[block[3]]}.{block[4]}"
        if name != "temp":
            renamed[name] = value
    return renamed


def tiny(patch: int = 16, frames: int = 8) -> Pair:
    """Return a ViCLIP with one layer in each tower and random weights, for tests.

    Clips have `frames` frames, and each frame has 2 x 2 patches of `patch` pixels.
    """
    from .tiny import LETTERS, clip_tokenizer, seeded

    video = lambda: VideoTower(patch, 16, 2 * patch, frames, 1, 16, head=8)  # noqa: E731
    text = lambda: TextTower(2 * len(LETTERS) + 2, 16, 32, 1, 16, head=8)  # noqa: E731
    return Pair(Network(lambda: seeded(lambda: ViClip(video(), text()))), clip_tokenizer)


def blocks(width: int, layers: int, head: int) -> nn.TransformerEncoder:
    """Return the layers of a CLIP tower.

    A layer has attention and two linear layers, each with a layer norm before
    (`norm_first`), and quick GELU between the linear layers. `head` is the width of an
    attention head.
    """
    layer = nn.TransformerEncoderLayer(
        width,
        width // head,
        4 * width,
        dropout=0.0,
        activation=quick_gelu,
        batch_first=True,
        norm_first=True,
    )
    # nested tensors need the norm after attention; without this torch warns
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def quick_gelu(x: Tensor) -> Tensor:
    """Return x times the logistic function of 1.702 x, OpenAI's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def _untrained(state: Mapping[str, Tensor], head: int) -> ViClip:
    """Return a ViCLIP whose sizes are those of `state`, with untrained weights."""
    width, _, _, patch, _ = state["video.conv1.weight"].shape
    # One position belongs to the class token, the others form a square.
    side = round((len(state["video.positional_embedding"]) - 1) ** 0.5) * patch
    frames = state["video.temporal_positional_embedding"].shape[1]
    features = state["video.proj"].shape[1]
    video = VideoTower(patch, width, side, frames, _depth(state, "video"), features, head)
    vocabulary, text_width = state["text.token_embedding.weight"].shape
    longest = len(state["text.positional_embedding"])
    features = state["text.text_projection"].shape[1]
    text = TextTower(vocabulary, text_width, longest, _depth(state, "text"), features, head)
    return ViClip(video, text)


def _depth(state: Mapping[str, Tensor], tower: str) -> int:
    """Return the number of layers of a tower, "video" or "text"."""
    start = f"{tower}.blocks."  # a name is {tower}.blocks.layers.{number}.{part}
    return 1 + max(int(name.split(".")[3]) for name in state if name.startswith(start))
