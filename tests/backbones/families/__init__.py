"""A tiny pipeline of each family of diffusers, with random weights, built in memory.

    from families import FAMILIES
    family = FAMILIES["wan"]
    clip = family.build()(**family.ask("a red circle"), num_inference_steps=2).frames[0]

The builders need no file and no network. Each file of this folder holds the builders of one
kind of network; `parts` holds what several families share.
"""

from . import _shapes, cosmos, images, motion, packed, sound, unets, video, wan
from ._family import FAMILIES, PROMPTS, Family, clips, picture

_shapes.share()
# importing them fills FAMILIES
BUILDERS = (cosmos, images, motion, packed, sound, unets, video, wan)
__all__ = ["FAMILIES", "PROMPTS", "Family", "clips", "picture"]
