"""A tiny image-conditioned denoiser and a reward of its images, to prove that rows do not
get mixed up on the way."""

import json
from pathlib import Path

import numpy as np
import torch
from toys import recipe

from vidrl.backbones.toy import Toy
from vidrl.rewards import Reward, Samples, Score

COLOURS = {
    "red": (230, 40, 30),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "grey": (128, 128, 128),
    "white": (240, 240, 240),
}
TEXT = "a wall"  # of every prompt: the images alone tell the prompts apart


class Tinted(Toy):
    """A toy whose clips have the mean colour of the prompt's image, up to what its small
    network adds."""

    reads = needs = ("image",)

    def encode(self, prompts):
        colours = torch.stack([prompt.picture().mean((1, 2)) for prompt in prompts])
        return super().encode(prompts) | {"image": colours.to(self.device)}

    def predict(self, x, t, cond):
        clean = cond["image"].logit()[:, :, None, None, None]
        return (x - clean) / t.view(-1, 1, 1, 1, 1).to(x) + 0.02 * super().predict(x, t, cond)


class LikeImage(Reward):
    """How near the mean colour of a clip is to that of its reference: 0 at best; −10 for
    another clip's reference."""

    range = (-20.0, 0.0)

    def forward(self, samples: Samples) -> Score:
        assert (
            samples.reference is not None
            and samples.reference.shape[1:] == samples.frames[:, :1].shape[1:]
        )
        given = samples.reference.mean((1, 3, 4))
        asked = torch.stack([prompt.picture().mean((1, 2)) for prompt in samples.prompts])
        curve = -(samples.frames.mean((3, 4)) - given[:, None]).abs().mean(2)
        wrong = (given - asked).abs().amax(1) > 1e-3
        curve = curve - 10 * wrong[:, None]
        return Score(curve.mean(1), curve)


def pictures(folder: Path) -> dict[str, Path]:
    """A picture of one colour each, of different sizes."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    made = {name: folder / "pictures" / f"{name}.png" for name in COLOURS}
    for i, (name, path) in enumerate(made.items()):
        size = (24 + 8 * i, 40 - 8 * i, 1)
        Image.fromarray(np.tile(np.array(COLOURS[name], dtype=np.uint8), size)).save(path)
    return made


def table(folder: Path, suffix: str = ".jsonl") -> Path:
    """A table of prompts of one text with different images."""
    path = folder / f"prompts{suffix}"
    files = [file.relative_to(folder) for file in pictures(folder).values()]
    lines = [json.dumps({"prompt": TEXT, "image": str(file)}) for file in files]
    if suffix == ".csv":
        lines = ["prompt,image", *(f"{TEXT},{file}" for file in files)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def conditioned(folder: Path, **changes) -> dict:
    """A recipe that trains the image-conditioned toy on the table."""
    made = recipe(folder, reward={"name": "conditioned:LikeImage"}, **changes)
    # clips of two groups are scored together, which could mix them up
    made["train"]["score_batch"] = 3
    made["backbone"] = {"name": "conditioned:Tinted", "options": {}}
    made["data"] |= {"prompts": str(table(folder)), "held_out": str(folder / "prompts.jsonl")}
    return made
