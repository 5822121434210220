"""VBench's temporal style: ViCLIP measures how well a clip fits a style of motion."""

from __future__ import annotations

from ._vbench.viclip import FitsPrompt
from .base import Card


class VbenchTemporalStyle(FitsPrompt):
    """VBench's temporal_style: ViCLIP measures how well the clip fits a style of motion.

    The value is the cosine of ViCLIP between the clip and the whole prompt, exactly as in
    `vbench_overall_consistency`, in [-1, 1] and usually 0.1 to 0.35. The two dimensions
    differ in the prompts on which VBench measures them. The 100 prompts of temporal_style
    end with a camera motion or a speed, such as "zoom in" or "in super slow motion".

    As published: the words about motion are a small part of the text, so a clip that shows
    the subject without the style scores nearly as high. VBench's total divides the value by
    0.364, the largest value that VBench expects.

    `weights` is ViCLIP's file, a local path or owner/name/file of the hub. `words` is a
    folder or hub id with CLIP's tokenizer. The hub's page of OpenGVLab/ViCLIP states the
    licence MIT for the weights, which were learned from clips under CC BY-NC-SA 4.0.

    Source: VBench, arXiv:2311.17982; ViCLIP, arXiv:2307.06942.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> samples = Samples(torch.rand(1, 9, 3, 32, 32), ["a beach, zoom in"], 8.0)
    >>> VbenchTemporalStyle.tiny()(samples).frames.shape
    torch.Size([1, 9])
    """

    learned = True
    needs = ("transformers", "ftfy")
    extra = "learned"
    range = (-1.0, 1.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Whether 8 frames together show what the prompt names, its camera motion or speed "
        "among other things.",
        blind_to="Most of the motion itself: no speed or direction is measured. Everything that "
        "happens between the 8 frames.",
        hacks="Showing the subject alone; a still or a stereotype of what the prompt names.",
        input="A prompt that ends with a style of motion. Not in pieces: the frames depend on "
        "the clip's length.",
        cost="CLIP ViT-L/14 on 8 frames whose patches all attend to each other, for each clip: "
        "0.8 T multiply-adds.",
    )
