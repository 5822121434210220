"""VideoReward: visual quality, motion quality and text alignment of a whole clip, by
Qwen2-VL."""

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

PARTS = ("VQ", "MQ", "TA")
MARKS = tuple(f"<|{part}_reward|>" for part in PARTS)
MEAN, DEVIATION = (3.6757, 1.1646, 2.8105), (2.2476, 1.3811, 2.5121)
LEAST = 128 * 28 * 28  # pixels a frame
LEAST_FRAMES = 4


class VideoAlign(Reward):
    """VideoReward's ratings of a clip, each about mean 0 and deviation 1: VQ, MQ, TA, and
    their weighted sum.

    value = sum_p w_p (head at the mark of p - mean_p) / deviation_p. Frames are taken
    evenly at 2 a second, at least 4, resized to 100352 to 200704 pixels in multiples of 28,
    and read together with the published instruction; nothing is written to disk. The curve
    is flat: the judge gives one number a clip. `parts` of the score holds the three.
    `model` is a local folder or hub id with model_config.json and `checkpoint`/model.pth as
    published (adapters are merged); rates, sizes and moments are read from that file.
    `base`, if given, replaces its model_name_or_path, whose config.json and tokenizer are
    needed. Raises ValueError for a layout or template other than the published. Liu et al.
    2025, arXiv 2501.13918.

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
        sees="What annotators preferred among generated clips: looks (VQ), motion (MQ), fit to the prompt (TA).",
        blind_to="Anything quicker than its 2 frames a second: flicker, jitter, single broken frames.",
        hacks="VQ drifts to animation; VQ and MQ are both known to be hacked. A wrong fps makes all negative.",
        input="At least 2 frames, with the true fps; made for clips of about 2 to 6 seconds.",
        cost="Qwen2-VL 2B, 2.2 billion weights, about 2200 tokens for 5 seconds; not timed here.",
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
        """A small Qwen2-VL of random weights, which reads frames of 56 x 56."""
        from ._networks.tiny import qwen_judge, qwen_tokenizer

        reward = cls(chunk=2)
        reward.network = Network(lambda: qwen_judge(lambda width: nn.Linear(width, 1, bias=False)))
        reward.words = lambda: _words(qwen_tokenizer(), "{text_prompt}" + "".join(MARKS))
        reward._config, reward.least = {"data_config": {"max_frame_pixels": 56 * 56}}, 56 * 56
        return reward

    @property
    def streams(self) -> bool:
        """Never: where its frames lie depends on the length of the clip."""
        return False

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips, with its three parts."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        rated = self.ratings(samples.pick(rows))
        flat = [one[:, None].expand(-1, samples.video.shape[1]) for one in rated.unbind(1)]
        whole = torch.stack([w * curve for w, curve in zip(self.weights, flat, strict=True)]).sum(0)
        score = score_of_curves(whole, self.time_support, why, rows)
        score.parts = {
            p: score_of_curves(c, self.time_support, list(why), rows)
            for p, c in zip(PARTS, flat, strict=True)
        }
        score.weights = dict(zip(PARTS, self.weights, strict=True))
        return score

    @torch.no_grad()
    def ratings(self, samples: Samples) -> Tensor:
        """VQ, MQ and TA of each clip, normalised, (B, 3)."""
        video, data = samples.frames.detach().float(), self.config.get("data_config", {})
        video = video[:, sampled(video.shape[1], samples.fps, data.get("fps") or 2.0)]
        words = self._words = self._words or self.words()
        most = int(data.get("max_frame_pixels", 200704))
        with self.network.on(video) as judge:
            found = []
            for clips, prompts in zip(
                video.split(self.chunk), _groups(samples.prompts, self.chunk), strict=True
            ):
                said = qwen.build_conversation(
                    qwen.prepare_frames(clips, self.least, most), prompts, words
                )
                found.append(read_marks(judge(said, words.medium, words.marks)))
        mean, deviation = (torch.tensor(x, device=video.device) for x in self._moments())
        return (torch.cat(found).float() - mean) / deviation

    @property
    def config(self) -> dict[str, Any]:
        """The published model_config.json."""
        if self._config is None:
            self._config = checked(json.loads(self._file("model_config.json").read_text()))
        return self._config

    def _file(self, name: str) -> Path:
        return weights_file(
            str(Path(self.model).expanduser() / name)
            if Path(self.model).expanduser().is_dir()
            else f"{self.model}/{name}"
        )

    def _base(self) -> str:
        return self.base or self.config["model_config"]["model_name_or_path"]

    def _moments(self) -> tuple[list[float], list[float]]:
        given = self.config.get("inference_config") or {}
        mean = [
            float(given.get(f"{p}_mean", default)) for p, default in zip(PARTS, MEAN, strict=True)
        ]
        return mean, [
            float(given.get(f"{p}_std", default))
            for p, default in zip(PARTS, DEVIATION, strict=True)
        ]

    def _judge(self, dtype: str) -> qwen.Judge:
        state = read_state(self._file(f"{self.checkpoint}/model.pth"))
        body, head = qwen.split_state(state, lora_scale(self.config.get("peft_lora_config") or {}))
        rows, width = head.get("weight", torch.empty(1, 1)).shape
        linear = nn.Linear(width, rows, bias=False)
        load_weights(linear, head, "VideoReward's head")
        return qwen.Judge(
            qwen.build_body(body, qwen.read_configuration(self._base()), dtype), linear
        )


def sampled(frames: int, fps: float, rate: float = 2.0) -> list[int]:
    """The frames looked at: about `rate` a second, an even number, at least 4 or all,
    spread from first to last.

    >>> sampled(81, 16.0), sampled(3, 8.0)
    ([0, 9, 18, 27, 36, 44, 53, 62, 71, 80], [0, 2])
    """
    most = frames // 2 * 2
    count = min(max(frames / fps * rate, LEAST_FRAMES), most)
    count = min(round(count / 2) * 2, frames)
    return torch.linspace(0, frames - 1, count).round().long().tolist()


def read_marks(found: Tensor) -> Tensor:
    """One number a mark, (N, 3), of the head at each, (N, 3, 1); where the head has three,
    each mark reads its own."""
    return found[..., 0] if found.shape[-1] == 1 else found.diagonal(dim1=1, dim2=2)


def lora_scale(config: dict[str, Any]) -> float:
    """What adapters are multiplied with: alpha / r, or alpha / sqrt(r)."""
    rank, alpha = config.get("lora_r", 16), config.get("lora_alpha", 32)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The published configuration; ValueError where it asks for what is not done here."""
    data = config.get("data_config", {})
    asked = {
        "prompt_template_type": data.get("prompt_template_type", "detailed_special"),
        "sample_type": data.get("sample_type", "uniform"),
        "num_frames": data.get("num_frames"),
    }
    known = {
        "prompt_template_type": "detailed_special",
        "sample_type": "uniform",
        "num_frames": None,
    }
    for name, want in known.items():
        if asked[name] != want:
            raise ValueError(
                f"expected {name} = {want!r} in model_config.json, as published, got {asked[name]!r}"
            )
    return config


def _words(tokens: Any, template: str = judge_prompts.VIDEO_REWARD) -> qwen.ChatTokenizer:
    return qwen.ChatTokenizer(tokens, template, MARKS, "<|video_pad|>")


def _groups(prompts: Any, size: int) -> list[list[str]]:
    return [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]
