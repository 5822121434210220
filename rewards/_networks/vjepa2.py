"""V-JEPA 2 encodes clips, and its predictor predicts the features of the next frames.

Shapes: N clips, T frames, L tokens (two frames and 16 x 16 pixels each, in order of time),
D features of a token.

Source: Assran et al. 2025 (V-JEPA 2), arXiv:2506.09985, github.com/facebookresearch/vjepa2,
here transformers' VJEPA2Model; Yuan et al. 2026 (WMReward), arXiv:2601.10553.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, layer_norm

from .hub import Network, chunked
from .learned import middle_frames
from .pixels import IMAGENET, Pixels

TRAINING_FPS = 4.0  # frames a second in V-JEPA 2's training


class VJepa2:
    """An encoder of clips and of single frames, which are read as clips without motion.

    A feature is the mean of all tokens of the encoder's last layer, (D,). Frames are
    resized to the square that the model was trained with, which changes their shape, as in
    WMReward. `chunk` is the number of single frames of one forward pass.
    """

    def __init__(self, network: Network, chunk: int = 16) -> None:
        self.network, self.chunk = network, chunk

    def __call__(self, images: Tensor, /) -> Tensor:
        """Return features (N, D) of frames (N, 3, H, W) in [0, 1]."""
        return self._encoded(images[:, None], self.chunk)

    def clip(self, frames: Tensor, fps: float, /) -> Tensor:
        """Return the feature (D,) of one clip (F, 3, H, W), uint8 or in [0, 1].

        Frames are taken at about 4 a second, the rate of the training, from the middles of
        equal segments: an even number, at least 2 and at most as many as the model was
        trained with (64).
        """
        with self.network.on(frames) as model:
            chosen = middle_frames(len(frames), frames_read(len(frames), fps, model.config))
        read = frames[chosen]  # chosen before the conversion, which takes 4 times the memory
        read = read.float() / 255 if read.dtype == torch.uint8 else read
        return self._encoded(read[None], 1)[0]

    def _encoded(self, video: Tensor, chunk: int) -> Tensor:
        """Return features of clips, `chunk` clips at a time."""
        with self.network.on(video) as model:
            return chunked(partial(self._features, model), chunk, video)

    @staticmethod
    def _features(model: Any, video: Tensor) -> Tensor:
        """Return features of one chunk of clips."""
        ready = prepared(video, model.config.crop_size)
        # transformers repeats the frame of a clip of one frame, to fill a token of two
        return model.encoder(pixel_values_videos=ready).last_hidden_state.mean(1).to(ready.dtype)


def frames_read(frames: int, fps: float, config: Any) -> int:
    """Return how many frames of a clip are read: about 4 a second, in whole tokens.

    A token covers `config.tubelet_size` frames.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(frames_per_clip=64, tubelet_size=2)
    >>> [frames_read(frames, 8.0, config) for frames in (41, 9, 1, 9999)]
    [20, 4, 2, 64]
    """
    tubes = round(frames / fps * TRAINING_FPS / config.tubelet_size)
    return min(max(tubes, 1), config.frames_per_clip // config.tubelet_size) * config.tubelet_size


def prepared(video: Tensor, side: int) -> Tensor:
    """Return clips (N, T, 3, H, W) in [0, 1] resized to `side` x `side` and normalised.

    Frames are resized without a crop, by bilinear interpolation, so that their shape may
    change, and normalised with ImageNet's mean and deviation.
    """
    return Pixels((side, side), None, IMAGENET, "bilinear")(video.flatten(0, 1)).unflatten(
        0, video.shape[:2]
    )


def prediction_similarity(model: Any, windows: Tensor, context: int) -> Tensor:
    """Return how similar the predicted features of each window's end are to the true ones.

    The result is (N,), in [-1, 1]. `windows` (N, T, 3, H, W) are `prepared`. The predictor
    reads the features of the first `context` frames, encoded without the others, and
    predicts the tokens of the other frames. The true tokens are those of the same frames
    when all frames of the window are encoded together. Both are normalised over the D
    features of a token. The cosine is taken over the tokens, for each feature by itself,
    and then averaged over features, as in WMReward's code (`dim=1` of a tensor (N, L, D)).
    """
    true = model.encoder(pixel_values_videos=windows).last_hidden_state
    known = model.encoder(pixel_values_videos=windows[:, :context]).last_hidden_state
    place = torch.arange(true.shape[1], device=windows.device).expand(len(windows), -1)
    # tokens are in order of time, so those of the context come first
    tokens = known.shape[1]
    masks = {"context_mask": [place[:, :tokens]], "target_mask": [place[:, tokens:]]}
    predicted = model.predictor(known, **masks).last_hidden_state
    actual = true[:, tokens:]
    a, b = (layer_norm(x.to(windows.dtype), x.shape[-1:]) for x in (predicted, actual))
    return cosine_similarity(a, b, dim=1).mean(1)
