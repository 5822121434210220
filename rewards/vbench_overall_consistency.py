"""VBench's overall consistency: ViCLIP measures how well a clip fits its prompt."""

from __future__ import annotations

from ._vbench.viclip import FitsPrompt
from .base import Card


class VbenchOverallConsistency(FitsPrompt):
    """VBench's overall_consistency: ViCLIP measures how well the clip fits its prompt.

    The value is cos(v, t) in [-1, 1], where v is ViCLIP-L/14's feature of 8 frames and t
    that of the prompt's first 32 tokens; usual values are 0.1 to 0.35. The 8 frames are the
    middles of 8 segments of equal length; in shorter clips the last frame is repeated. A
    frame is resized to a shorter side of 224, bicubic without antialiasing, rounded to
    whole grey levels, and cut to its central square.

    As published: the sides of a wide frame are cut off, and the words of a prompt after 32
    tokens do not count. VBench measures this dimension on 93 prompts made for it. VBench's
    total divides the value by 0.364, the largest value that VBench expects.

    `weights` is ViCLIP's file, a local path or owner/name/file of the hub. `words` is a
    folder or hub id with CLIP's tokenizer. The hub's page of OpenGVLab/ViCLIP states the
    licence MIT for the weights, which were learned from clips under CC BY-NC-SA 4.0.

    Source: VBench, arXiv:2311.17982; ViCLIP, arXiv:2307.06942.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> samples = Samples(torch.rand(1, 9, 3, 32, 32), ["a red ball"], 8.0)
    >>> VbenchOverallConsistency.tiny()(samples).frames.shape
    torch.Size([1, 9])
    """

    learned = True
    needs = ("transformers", "ftfy")
    extra = "learned"
    range = (-1.0, 1.0)
    time_support = "clip"
    card = Card(
        sees="Whether 8 frames together show what the prompt names: things, places, actions, "
        "style.",
        blind_to="Quality; everything that happens between the 8 frames; counts and negation; the "
        "end of a prompt after 32 tokens.",
        hacks="A still or a stereotype of what the prompt names; the words of the prompt "
        "written in the picture.",
        input="A prompt. Not in pieces: the places of the 8 frames depend on the length of the "
        "clip.",
        cost="CLIP ViT-L/14 on 8 frames whose patches all attend to each other, for each clip: "
        "0.8 T multiply-adds.",
    )
