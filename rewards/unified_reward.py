"""UnifiedReward 2.0: a reward that asks a served model for alignment, physics and style."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ._prompts import judge_prompts
from ._prompts.chat import Endpoint, NoAnswer
from ._prompts.ratings import normalised_weights, score_of_ratings
from .base import Card, Reward, Samples, Score, all_unscored, refusals

Ask = Callable[[dict[str, Any]], str]  # from the JSON of a request to the text of the answer
PARTS = {"alignment": "Alignment", "physics": "Physics", "style": "Style"}
QUALITY = 95  # of a JPEG


class UnifiedReward(Reward):
    """The weighted mean of the three scores that UnifiedReward 2.0 gives a clip, in [1, 5].

    The model runs behind a server, as its authors run it: `vllm serve
    CodeGoat24/UnifiedReward-2.0-qwen-7b --served-model-name UnifiedReward --port 8080
    --limit-mm-per-prompt.image 16`. `frames` frames of the clip, number i at floor(i F /
    frames), are sent to {base_url}/chat/completions as JPEG of quality 95 in their own
    size, with the published instruction and the prompt. The model answers with three lines
    such as "Physics Score (1-5): 3.0987". `Score.parts` holds the three: alignment, physics
    and style. The authors give no single number; the mean, with `weights`, is this
    library's choice. The curve is flat.

    A clip is unscored, with the reason, if the answer does not have each line exactly once
    with a number from 1 to 5, or if the request fails `retries` + 1 times. Temperature 0
    and `seed` are sent. The key is read from the environment variable `key_from`; plain
    http to another machine would show the key, and is refused unless `insecure` is true.
    `workers` clips are asked about at the same time. `ask`, a function from the request's
    JSON to the model's text, replaces the network.

    UnifiedReward-Think (arXiv:2505.03318) compares two clips and gives no score of a single
    clip, so it is not offered here. UnifiedReward 1.0 has another instruction. Raises
    ValueError for an address that is not http(s), a key that plain http would show, and
    options without meaning.

    Source: Wang et al. 2025, arXiv:2503.05236.

    >>> lines = "Alignment Score (1-5): 2.5\\nPhysics Score (1-5): 3\\nStyle Score (1-5): 3.5"
    >>> reward = UnifiedReward(ask=lambda request: lines)
    >>> score = reward(Samples(torch.rand(1, 9, 3, 32, 32), ["a red ball"], 8.0))
    >>> score.value, score.parts["physics"].value
    (tensor([3.]), tensor([3.]))
    """

    learned = True
    range = (1.0, 5.0)
    time_support = "clip"
    card = Card(
        sees="How well the clip fits the prompt, how plausible the motion is and how good the "
        "picture looks, as far as a few still frames show it.",
        blind_to="Everything that happens between the frames sent, such as flicker, jerk and "
        "stutter. Speed, because the frames carry no times. Where in the clip a fault is.",
        hacks="Pictures that the model likes; text in the picture that addresses the model; "
        "good frames at the places that are sent.",
        input="Any clip. A server with the model.",
        cost="One request for each clip. The model has 3, 7, 32 or 72 billion weights "
        "(Qwen2.5-VL). The hub's page of CodeGoat24/UnifiedReward-2.0-qwen-32b states the "
        "licence MIT, and a host's page states the same for the 7b.",
    )

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080/v1",
        model: str = "UnifiedReward",
        frames: int = 8,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        seed: int = 0,
        key_from: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 3,
        wait: float = 1.0,
        workers: int = 4,
        ask: Ask | None = None,
        insecure: bool = False,
    ) -> None:
        super().__init__()
        if min(frames, workers) < 1:
            raise ValueError(f"expected frames and workers above 0, got {frames} and {workers}")
        if ask is None and not model:
            raise ValueError("expected model, the name that the server knows it by, got ''")
        self.model, self.count = model, frames
        self.seed, self.workers = seed, workers
        self.weights = normalised_weights(weights)
        self.ask: Ask = ask or Endpoint(
            base_url, key_from, timeout, retries, wait, insecure=insecure
        )

    @classmethod
    def tiny(cls) -> UnifiedReward:
        """Return the reward with answers computed from the request, without a network."""
        return cls(ask=drawn, workers=1)

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips; `Score.parts` holds that of each part."""
        why = refusals(samples, 1, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        with ThreadPoolExecutor(self.workers) as pool:
            answers = dict(
                zip(rows, pool.map(lambda i: self._judged(samples, i), rows), strict=True)
            )
        scored = [i for i in rows if not isinstance(answers[i], str)]
        for i in [i for i in rows if isinstance(answers[i], str)]:
            why[i] = f"unscored: UnifiedReward: {answers[i]}"
        if not scored:
            return all_unscored(samples, self.time_support, why)
        ratings = torch.tensor([answers[i] for i in scored]).to(samples.frames)
        return score_of_ratings(
            ratings, list(PARTS), self.weights, samples.video.shape[1], why, scored
        )

    def _judged(self, samples: Samples, row: int) -> list[float] | str:
        """Return the three scores of a clip, or the reason why there are none."""
        try:
            return marks(self.ask(self.request(samples.video[row], samples.prompts[row])))
        except NoAnswer as error:
            return str(error)

    def request(self, clip: Tensor, prompt: str) -> dict[str, Any]:
        """Return the JSON of the request for a clip (F, C, H, W)."""
        at = sorted({i * len(clip) // self.count for i in range(self.count)})
        urls = [
            f"data:image/jpeg;base64,{base64.b64encode(jpeg(frame)).decode()}"
            for frame in levels(clip[at])
        ]
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}} for url in urls
        ]
        content.append(
            {"type": "text", "text": judge_prompts.UNIFIED_REWARD.replace("{text_prompt}", prompt)}
        )
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "seed": self.seed,
            "max_tokens": 4096,
        }


def marks(answer: str) -> list[float]:
    """Return the three scores in an answer, in the order of the parts.

    Raises NoAnswer for an answer that does not have exactly the requested form.

    >>> lines = "Alignment Score (1-5): 2.4", "Physics Score (1-5): 3.1", "Style Score (1-5): 3.5"
    >>> marks("\\n".join(lines))
    [2.4, 3.1, 3.5]
    """
    return [_mark(answer, label) for label in PARTS.values()]


def levels(frames: Tensor) -> Tensor:
    """Return frames (N, C, H, W) as uint8."""
    if not frames.is_floating_point():
        return frames.detach()
    return (frames.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def jpeg(frame: Tensor) -> bytes:
    """Encode a frame, uint8 (C, H, W) with C = 1 or 3, as a JPEG file."""
    cv2 = importlib.import_module("cv2")
    # OpenCV expects blue, green, red
    blue_first = frame.flip(0).permute(1, 2, 0).contiguous().cpu().numpy()
    _, packed = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(packed)


def drawn(request: Mapping[str, Any]) -> str:
    """Return scores that the request's digest decides, in place of a model, for tests."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).digest()
    scores = [1 + 4 * byte / 255 for byte in digest]
    return "\n".join(
        f"{label} Score (1-5): {score:.4f}"
        for label, score in zip(PARTS.values(), scores, strict=False)
    )


def _mark(answer: str, label: str) -> float:
    """Return the number on the line of `label`; raise NoAnswer unless there is exactly one."""
    # spaces and the asterisks and dashes of Markdown are allowed around the words
    line = (
        rf"^[ \t*-]*{label} Score[ \t*]*\(1-5\)[ \t*]*:[ \t*]*"
        rf"(\d{{1,3}}(?:\.\d{{1,9}})?)[ \t*.\r]*$"
    )
    found = re.findall(line, answer, re.MULTILINE)
    if len(found) != 1:
        raise NoAnswer(f'expected one line "{label} Score (1-5): " with a number, got {len(found)}')
    if not 1 <= float(found[0]) <= 5:
        raise NoAnswer(f"expected {label} Score to be from 1 to 5, got {found[0]}")
    return float(found[0])
