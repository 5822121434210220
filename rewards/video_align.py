"""VideoReward: a reward that rates looks, motion and fit to the prompt, by Qwen2-VL."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._networks import qwen
from ._networks.hub import Network, load_weights, read_state, tokenizer, weight_dtype, weights_file
from ._prompts import judge_prompts
from .base import Card, Reward, Samples, Score, all_unscored, refusals, score_of_curves

PARTS = ("VQ", "MQ", "TA")  # visual quality, motion quality, text alignment
MARKS = tuple(f"<|{part}_reward|>" for part in PARTS)
# of the published ratings, in the order of PARTS; used where model_config.json has none
MEAN, DEVIATION = (3.6757, 1.1646, 2.8105), (2.2476, 1.3811, 2.5121)
LEAST = 128 * 28 * 28  # the least pixels of a frame: 128 tokens of 28 x 28 pixels
LEAST_FRAMES = 4  # the model is given at least so many frames, as published


class VideoAlign(Reward):
    """The sum of VideoReward's ratings: how a clip looks, moves and fits its prompt.

    VQ is visual quality, MQ motion quality, TA text alignment. The value is sum_p w_p (head
    at the mark of p - mean_p) / deviation_p, so that each rating has about mean 0 and
    deviation 1; there are no bounds. Frames are taken evenly at 2 a second, at least 4,
    resized to 100352 to 200704 pixels with sides that are multiples of 28, and read
    together with the published instruction. Nothing is written to disk. The curve is flat,
    because the model gives one number a clip. `Score.parts` holds the three ratings.

    `model` is a local folder or hub id with model_config.json and `checkpoint`/model.pth as
    published (adapters are merged); rates, sizes and moments are read from
    model_config.json. `base`, if given, replaces its model_name_or_path, from which
    config.json and the tokenizer are read. Raises ValueError for a layout or template other
    than the published one.

    Source: Liu et al. 2025, arXiv:2501.13918.

    >>> score = VideoAlign.tiny()(Samples(torch.rand(1, 9, 3, 32, 32), ["a red ball"], 8.0))
    >>> score.value.shape, sorted(score.parts)
    (torch.Size([1]), ['MQ', 'TA', 'VQ'])
    """

    needs = ("transformers",)
    extra = "learned"
    learned = True
    time_support = "clip"
    lookahead = 1
    card = Card(
        sees="What annotators preferred among generated clips: looks (VQ), motion (MQ), fit to "
        "the prompt (TA).",
        blind_to="Everything faster than its 2 frames a second: flicker, jitter, single broken "
        "frames.",
        hacks="VQ drifts to animation; both VQ and MQ are known to be hacked. A wrong fps makes "
        "all ratings negative.",
        input="At least 2 frames, with the true fps. Made for clips of about 2 to 6 seconds.",
        cost="Qwen2-VL 2B has 2.2 billion weights and reads about 2200 tokens for 5 seconds. "
        "Not timed here.",
    )

    def __init__(
        self,
        model: str = "KwaiVGI/VideoReward",
        base: str = "",
        checkpoint: str = "checkpoint-11352",
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        chunk: int = 1,
        dtype: str = "bfloat16",
        offload: bool = False,
    ) -> None:
        super().__init__()
        weight_dtype(dtype)
        if chunk < 1:
            raise ValueError(f"expected chunk, clips a forward pass, to be at least 1, got {chunk}")
        self.model, self.base = model, base
        self.checkpoint, self.weights = checkpoint, weights
        self.chunk = chunk
        self.network = Network(lambda: self._judge(dtype), offload)
        self.words: Callable[[], qwen.ChatTokenizer] = lambda: _words(tokenizer(self._base()))
        self._config: dict[str, Any] | None = None
        self._words: qwen.ChatTokenizer | None = None
        self.least = LEAST

    @classmethod
    def tiny(cls) -> VideoAlign:
        """Return the reward with a small Qwen2-VL of random weights."""
        from ._networks.tiny import qwen_judge, qwen_tokenizer

        reward = cls(chunk=2)
        reward.network = Network(lambda: qwen_judge(lambda width: nn.Linear(width, 1, bias=False)))
        reward.words = lambda: _words(qwen_tokenizer(), "{text_prompt}" + "".join(MARKS))
        reward._config, reward.least = {"data_config": {"max_frame_pixels": 56 * 56}}, 56 * 56
        return reward

    @property
    def streams(self) -> bool:
        """Return False: the places of the frames depend on the length of the clip."""
        return False

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips with its three parts."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        rated = self.ratings(samples.pick(rows))
        flat = [rating[:, None].expand(-1, samples.video.shape[1]) for rating in rated.unbind(1)]
        total = torch.stack([w * curve for w, curve in zip(self.weights, flat, strict=True)]).sum(0)
        score = score_of_curves(total, self.time_support, why, rows)
        score.parts = {
            p: score_of_curves(c, self.time_support, list(why), rows)
            for p, c in zip(PARTS, flat, strict=True)
        }
        score.weights = dict(zip(PARTS, self.weights, strict=True))
        return score

    @torch.no_grad()
    def ratings(self, samples: Samples) -> Tensor:
        """Return VQ, MQ and TA of each clip, normalised, (B, 3)."""
        video, data = samples.frames.detach().float(), self.config.get("data_config", {})
        video = video[:, sampled(video.shape[1], samples.fps, data.get("fps") or 2.0)]
        words = self._words = self._words or self.words()
        most = int(data.get("max_frame_pixels", 200704))
        with self.network.on(video) as judge:
            marks = []
            for clips, prompts in zip(
                video.split(self.chunk), _groups(samples.prompts, self.chunk), strict=True
            ):
                asked = qwen.build_conversation(
                    qwen.prepare_frames(clips, self.least, most), prompts, words
                )
                marks.append(read_marks(judge(asked, words.media_id, words.mark_ids)))
        mean, deviation = (torch.tensor(x, device=video.device) for x in self._moments())
        return (torch.cat(marks).float() - mean) / deviation

    @property
    def config(self) -> dict[str, Any]:
        """Return the published model_config.json."""
        if self._config is None:
            self._config = checked(json.loads(self._file("model_config.json").read_text()))
        return self._config

    def _file(self, name: str) -> Path:
        """Return the path of a file of the model, from the folder or the hub."""
        return weights_file(
            str(Path(self.model).expanduser() / name)
            if Path(self.model).expanduser().is_dir()
            else f"{self.model}/{name}"
        )

    def _base(self) -> str:
        """Return the folder or hub id of the network that was fine-tuned."""
        return self.base or self.config["model_config"]["model_name_or_path"]

    def _moments(self) -> tuple[list[float], list[float]]:
        """Return the mean and the deviation of each rating."""
        given = self.config.get("inference_config") or {}
        mean = [
            float(given.get(f"{p}_mean", default)) for p, default in zip(PARTS, MEAN, strict=True)
        ]
        return mean, [
            float(given.get(f"{p}_std", default))
            for p, default in zip(PARTS, DEVIATION, strict=True)
        ]

    def _judge(self, dtype: str) -> qwen.Judge:
        """Load the network and its head."""
        state = read_state(self._file(f"{self.checkpoint}/model.pth"))
        body, head = qwen.split_state(state, lora_scale(self.config.get("peft_lora_config") or {}))
        rows, width = head.get("weight", torch.empty(1, 1)).shape
        linear = nn.Linear(width, rows, bias=False)
        load_weights(linear, head, "VideoReward's head")
        return qwen.Judge(
            qwen.build_body(body, qwen.read_configuration(self._base()), dtype), linear
        )


def sampled(frames: int, fps: float, rate: float = 2.0) -> list[int]:
    """Return the frames that the model reads, about `rate` a second from first to last.

    Their number is even and at least 4, or all frames of a shorter clip.

    >>> sampled(81, 16.0), sampled(3, 8.0)
    ([0, 9, 18, 27, 36, 44, 53, 62, 71, 80], [0, 2])
    """
    most = frames // 2 * 2  # a token of the network is two frames, so the number is even
    count = min(max(frames / fps * rate, LEAST_FRAMES), most)
    count = min(round(count / 2) * 2, frames)
    return torch.linspace(0, frames - 1, count).round().long().tolist()


def read_marks(found: Tensor) -> Tensor:
    """Return one number for each mark, (N, 3).

    `found` holds the head's output at each mark. A head with one output gives (N, 3, 1). Of
    a head with three outputs, each mark reads the output with its own number.
    """
    return found[..., 0] if found.shape[-1] == 1 else found.diagonal(dim1=1, dim2=2)


def lora_scale(config: dict[str, Any]) -> float:
    """Return the factor of adapters: alpha / r, or alpha / sqrt(r) with rslora."""
    rank, alpha = config.get("lora_r", 16), config.get("lora_alpha", 32)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """Return the published configuration; raise ValueError if it asks for other things."""
    data = config.get("data_config", {})
    asked = {
        "prompt_template_type": data.get("prompt_template_type", "detailed_special"),
        "sample_type": data.get("sample_type", "uniform"),
        "num_frames": data.get("num_frames"),
    }
    supported = {
        "prompt_template_type": "detailed_special",
        "sample_type": "uniform",
        "num_frames": None,
    }
    for name, want in supported.items():
        if asked[name] != want:
            raise ValueError(
                f"expected {name} = {want!r} in model_config.json, as published, "
                f"got {asked[name]!r}"
            )
    return config


def _words(tokens: Any, template: str = judge_prompts.VIDEO_REWARD) -> qwen.ChatTokenizer:
    return qwen.ChatTokenizer(tokens, template, MARKS, "<|video_pad|>")


def _groups(prompts: Any, size: int) -> list[list[str]]:
    return [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]
