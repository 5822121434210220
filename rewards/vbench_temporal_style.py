"""VBench's temporal style: how well a clip fits a prompt that asks for a camera motion or a
speed, by ViCLIP."""

from __future__ import annotations

from ._vbench.viclip import FitsPrompt
from .base import Card


class VbenchTemporalStyle(FitsPrompt):
    """VBench's temporal_style: the cosine of ViCLIP between a clip and its prompt, about
    0.1 to 0.35.

    The arithmetic is exactly that of `vbench_overall_consistency`, with the whole prompt as
    text; the two dimensions differ in the prompts that VBench measures them on. Those of
    temporal_style, 100, end with a camera motion or a speed, such as "zoom in" or "in super
    slow motion".

    As published: the words of the style are a small part of the text, so that a clip which
    shows the subject without the style scores nearly as high. The total scales the score by
    0.364, the largest that VBench expects.

    `weights` is ViCLIP's file, a local path or owner/name/file of the hub; `words` a folder
    or hub id with CLIP's tokenizer. The hub's page of OpenGVLab/ViCLIP names MIT for the
    weights, which were learned from clips under CC BY-NC-SA 4.0.

    Source: VBench, arXiv:2311.17982; ViCLIP, arXiv:2307.06942.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> score = VbenchTemporalStyle.tiny()(Samples(torch.rand(1, 9, 3, 32, 32), ["a beach, zoom in"], 8.0))
    >>> score.frames.shape
    torch.Size([1, 9])
    """

    learned = True
    needs = ("transformers", "ftfy")
    extra = "learned"
    range = (-1.0, 1.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Whether 8 frames together show what the prompt names, its camera motion or speed among other things.",
        blind_to="Most of the motion itself: no speed or direction is measured; what happens between the 8 frames.",
        hacks="Showing the subject alone; a still or a stereotype of what the prompt names.",
        input="A prompt that ends with a style of motion. Not in pieces: the frames depend on the clip's length.",
        cost="8 frames of CLIP ViT-L/14, whose patches all see each other, a clip: 0.8 T multiply-adds.",
    )
