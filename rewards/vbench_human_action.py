"""VBench's human action: whether the classifier UMT sees the action that a prompt names."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from ._networks.hub import Network, chunked, nearest
from ._vbench import umt
from ._vbench.kinetics import ACTIONS
from ._vbench.semantic import grey_levels, middle_frames
from .base import Card, Reward, Samples, Score, all_unscored, refusals, score_of_curves
from .vbench import IMAGENET, middle, normalised

SURE = 0.85  # the least probability that counts
BEST = 5  # classes that may count


class VbenchHumanAction(Reward):
    """VBench's human_action: 1 if UMT is sure to see the action the prompt names, else 0.

    The value is 1 if the action is among the 5 likeliest of Kinetics-400's 400 classes, and
    its probability, the logistic function of its logit rounded to 4 digits, is at least
    0.85. UMT-L/16 sees 16 frames, the middles of 16 segments of equal length; the last
    frame is repeated in shorter clips. A frame is resized to a shorter side of 256 by
    OpenCV's bilinear filter, and its central square of 224 is used.

    The prompt names the action as VBench's 100 prompts do, "A person is riding a bike". A
    prompt without an action of Kinetics-400 takes the option `action`, and is inapplicable
    without that option.

    As published: the probabilities of the classes are independent of each other, not a
    softmax; the sides of a wide frame are cut off; half of the events may happen between
    the 16 frames.

    `weights` is UMT's file, a local path or owner/name/file of the hub. UMT's code is under
    MIT; VBench's copy of the weights states no licence.

    Source: VBench, arXiv:2311.17982; UMT, arXiv:2303.16058.

    >>> from vidrl.rewards import Samples
    >>> samples = Samples(torch.rand(1, 9, 3, 32, 32), ["A person is marching"], 8.0)
    >>> VbenchHumanAction.tiny()(samples).value.item() in (0.0, 1.0)
    True
    """

    learned = True
    needs = ("transformers", "cv2")
    extra = "learned"
    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Whether 16 frames together look like the named action to a classifier of real films.",
        blind_to="How well the action is done; faults of the body; everything else in the picture; "
        "actions beyond the 400.",
        hacks="The usual place and things of the action without the action; a still of its most "
        "typical pose.",
        input="A prompt such as 'A person is marching'. Not in pieces: the frames depend on the "
        "clip's length.",
        cost="UMT-L/16 on 16 frames a clip, 1.4 T multiply-adds.",
    )

    def __init__(
        self, weights: str = umt.WEIGHTS, action: str = "", chunk: int = 1, offload: bool = False
    ) -> None:
        super().__init__()
        if action and action.lower() not in ACTIONS:
            raise ValueError(
                f"no action {action!r} in Kinetics-400: "
                f"{nearest(action.lower(), ACTIONS)[:200]} ..."
            )
        if chunk < 1:
            raise ValueError(f"expected chunk, clips at a time, to be 1 or more, got {chunk}")
        self.action, self.chunk = action, chunk
        self.network = Network(lambda: umt.load(weights), offload)

    @classmethod
    def tiny(cls) -> VbenchHumanAction:
        """Return the reward with a UMT of one layer and random weights.

        Prompts that name no action ask for marching.
        """
        reward = cls(action="marching")
        reward.network = Network(umt.tiny)
        return reward

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        wanted = [asked(prompt) or self.action.lower() for prompt in samples.prompts]
        silent = (
            "inapplicable: the prompt names no action of Kinetics-400, "
            "as 'A person is riding a bike' does, and action is not given"
        )
        why = [
            reason or (None if action else silent)
            for reason, action in zip(refusals(samples, self.needed, self.least_side), wanted)
        ]
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        classes = torch.tensor(
            [ACTIONS.index(wanted[i]) for i in rows], device=samples.video.device
        )
        seen = sure(self.logits(samples.pick(rows).video), classes)
        return score_of_curves(
            seen[:, None].expand(-1, samples.video.shape[1]), self.time_support, why, rows
        )

    def logits(self, video: Tensor) -> Tensor:
        """Return UMT's logits of clips (B, F, C, H, W), (B, 400)."""
        chosen = video[:, middle_frames(video.shape[1], umt.FRAMES)]
        clips = prepared(chosen.flatten(0, 1)).unflatten(0, chosen.shape[:2])
        with self.network.on(clips) as model:
            return chunked(model, self.chunk, clips)


def asked(prompt: str) -> str:
    """Return the action of Kinetics-400 that a prompt names, or an empty text.

    VBench reads the action from the name of a file in the same way, which is why "-" and
    "_" end it.

    >>> asked("A person is riding a bike"), asked("A person is sleeping"), asked("a dog")
    ('riding a bike', '', '')
    """
    action = prompt.lower().split("-")[0].split("person is ")[-1].split("_")[0].strip(" .")
    return action if action in ACTIONS else ""


def sure(logits: Tensor, classes: Tensor) -> Tensor:
    """Return 1.0 where the class is among the five likeliest and sure, else 0.0, (B,).

    A class is sure if its probability is at least 0.85.

    >>> logits = torch.tensor([[4.0, 2.0, 0.0, -1.0, -2.0, -3.0]]).expand(3, 6)
    >>> sure(logits, torch.tensor([0, 1, 2]))
    tensor([1., 1., 0.])
    """
    likely = logits.sigmoid().topk(BEST, dim=1)
    enough = likely.values.double().round(decimals=4) >= SURE
    return ((likely.indices == classes[:, None]) & enough).any(1).to(logits.dtype)


def prepared(frames: Tensor) -> Tensor:
    """Turn frames (N, C, H, W) into UMT's input.

    The shorter side becomes 256 pixels by OpenCV, the central square of 224 is cut out, and
    colours are normalised by ImageNet's statistics.
    """
    height, width = frames.shape[-2:]
    goal = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
    bytes_ = grey_levels(frames).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    resized = (
        bytes_
        if min(height, width) == 256
        else np.stack([cv2.resize(frame, goal, interpolation=cv2.INTER_LINEAR) for frame in bytes_])
    )
    pictures = torch.from_numpy(resized).permute(0, 3, 1, 2).to(frames.device)
    return normalised(middle(pictures, umt.SIDE).float() / 255, IMAGENET)
