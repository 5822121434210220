"""VBench's overall consistency: how well a clip fits its prompt, by ViCLIP."""

from __future__ import annotations

from ._vbench.viclip import FitsPrompt
from .base import Card


class VbenchOverallConsistency(FitsPrompt):
    """VBench's overall_consistency: the cosine of ViCLIP between a clip and its prompt,
    about 0.1 to 0.35.

    cos(v, t), v ViCLIP-L/14's feature of 8 frames, t that of the prompt's first 32 tokens.
    The frames are the middles of 8 segments of equal length, the last repeated in clips of
    fewer frames; each is resized to a shorter side of 224, bicubic without antialiasing,
    rounded to whole grey levels, and cut to its central square.

    As published: the sides of a wide frame are cut off, and what a prompt says after 32
    tokens does not count. VBench measures it on 93 prompts of its own; the total scales it
    by 0.364, the largest score that VBench expects.

    `weights` is ViCLIP's file, a local path or owner/name/file of the hub; `words` a folder
    or hub id with CLIP's tokenizer. The hub's page of OpenGVLab/ViCLIP names MIT for the
    weights, which were learned from clips under CC BY-NC-SA 4.0.

    Source: VBench, arXiv:2311.17982; ViCLIP, arXiv:2307.06942.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> VbenchOverallConsistency.tiny()(Samples(torch.rand(1, 9, 3, 32, 32), ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 9])
    """

    learned = True
    needs = ("transformers", "ftfy")
    extra = "learned"
    range = (-1.0, 1.0)
    time_support = "clip"
    card = Card(
        sees="Whether 8 frames together show what the prompt names: things, places, actions, style.",
        blind_to="Quality, and what happens between the 8 frames; counts, negation; a prompt's end after 32 tokens.",
        hacks="A still or a stereotype of what the prompt names; its words written in the picture.",
        input="A prompt. Not in pieces: where the 8 frames lie depends on the length of the clip.",
        cost="8 frames of CLIP ViT-L/14, whose patches all see each other, a clip: 0.8 T multiply-adds.",
    )
