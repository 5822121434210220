"""Teach assets/tiny-wan to film a picture under a moving camera: assets/tiny-i2v.

    python scripts/pretrain_camera.py text      # write the text encoder
    python scripts/pretrain_camera.py encode    # write the latents of clips to runs/pretrain-i2v
    python scripts/pretrain_camera.py flow      # train the transformer
    python scripts/pretrain_camera.py publish   # write the pipeline
    python scripts/pretrain_camera.py prompts   # write pictures and captions to assets/prompts
    python benchmarks/studies/camera_pans.py    # measure what held-out clips show

The model is an image-to-video pipeline as Wan 2.1's, without an image encoder: beside the noisy
latents, the transformer reads the latents of the given picture with grey frames after it, and
a mask that is 1 where the picture is. The captions of `vidrl.synthetic.world` ask for one of
five cameras over a texture. The training is short, so that the model does not always follow the
camera of the caption, and a reward has something to mend. `encode` and `flow` may be killed and
called again.

tiny-wan's own text encoder cannot be used. It is random, and its positions have so little
effect that "left" after "pans" and "left" after "moves" are almost one vector: they differ by 5
to 8 % of their length. The new one has position biases of a standard deviation of 3, and there
they differ by 77 to 117 %.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import _latent_files
import pretrain_tiny as tiny

from vidrl.data import picture
from vidrl.synthetic import films, world

ROOT = Path(__file__).resolve().parent.parent
MODEL, WORK = ROOT / "assets" / "tiny-i2v", ROOT / "runs" / "pretrain-i2v"
BASE = ROOT / "assets" / "tiny-wan"
LINKS = ("vae", "tokenizer", "scheduler")  # parts that are those of assets/tiny-wan
SIZE, FRAMES, FPS = 64, 17, 8.0
CORPUS = 5000
STEPS, BATCH = 2000, 32
PEAK = 0.7  # the fraction of the learning rates of scripts/pretrain_tiny.py
LATE = 0.4  # the mean logit of t
MASKS = 4  # channels of the mask: one for each pixel frame of a latent frame
POSITIONS = 3.0  # standard deviation of the text encoder's position biases
PROMPTS = ROOT / "assets" / "prompts"


class Corpus(NamedTuple):
    """Latents of clips, the table of caption embeddings, and each clip's row of the table.

    `given` are the latents of the first pictures, with grey frames after them.
    """

    latents: Tensor
    table: Tensor
    caption: Tensor
    given: Tensor


# Corpus


def corpus(indices: range) -> Iterator[tuple[str, Tensor]]:
    """Yield the caption and the clip of each index; no scene is held out."""
    pool = films.textured("train")
    for index in indices:
        draw = random.Random(f"tiny-i2v {index}")
        scene = replace(draw.choice(pool), camera=draw.choice(list(world.CAMERAS)))
        yield scene.caption, world.render(scene, SIZE, FRAMES, FPS, draw.randrange(2**31)).video


def given(indices: range) -> Iterator[tuple[str, Tensor]]:
    """Yield the captions, and the clips in which grey follows the first picture."""
    for caption, clip in corpus(indices):
        clip[1:] = 0.5
        yield caption, clip


def encode() -> None:
    """Write the latents of the corpus, and of its first pictures with grey after them."""
    for clips, folder in ((corpus, WORK), (given, WORK / "given")):
        _latent_files.write(clips, CORPUS, BASE, FRAMES, folder)


# Text


def save_text() -> None:
    """Write the text encoder, and link the parts that are those of assets/tiny-wan."""
    from transformers import UMT5EncoderModel

    MODEL.mkdir(exist_ok=True)
    for name in LINKS:
        if not (MODEL / name).is_symlink():
            (MODEL / name).symlink_to(Path("..") / BASE.name / name)
    encoder = UMT5EncoderModel.from_pretrained(BASE / "text_encoder")
    torch.manual_seed(0)
    for name, p in encoder.named_parameters():
        if "relative_attention_bias" in name:
            nn.init.normal_(p, std=POSITIONS)
    encoder.save_pretrained(MODEL / "text_encoder")


# The transformer


def new_transformer() -> nn.Module:
    """Build the transformer: tiny-wan's, with zero weights for what it reads of the picture."""
    from diffusers import WanTransformer3DModel

    start = WanTransformer3DModel.from_pretrained(BASE / "transformer")
    own = start.config.in_channels
    net = WanTransformer3DModel.from_config({**start.config, "in_channels": 2 * own + MASKS})
    weights = start.state_dict()
    first = weights["patch_embedding.weight"]
    weights["patch_embedding.weight"] = torch.cat(
        [first, first.new_zeros(len(first), own + MASKS, *first.shape[2:])], 1
    )
    net.load_state_dict(weights)
    return net


def conditions(latents: Tensor) -> Tensor:
    """Return what the transformer reads of pictures: the mask and the latents, channels first."""
    mask = torch.zeros_like(latents[:, :MASKS])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], 1)


def loss(net: nn.Module, text: tiny.PaddedText, data: Corpus, step: int) -> Tensor:
    """Return the velocity matching loss ||v(x_t, t, picture, caption) − (noise − x0)||²."""
    draw = torch.Generator().manual_seed(step)
    clip = torch.randint(len(data.latents), (BATCH,), generator=draw)
    text.bias = torch.zeros(1, tiny.TEXT_LENGTH + 1)
    text.bias[0, -1] = log(tiny._padded(draw, step) - tiny.TEXT_LENGTH)
    t = torch.sigmoid(LATE + 1.2 * torch.randn(BATCH, generator=draw))
    x0, at = data.latents[clip], t.view(-1, 1, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=draw)
    words = data.table[data.caption[clip]]
    # the appended token stands for all padding tokens (see `pretrain_tiny.PaddedText`)
    words = torch.cat([words, torch.zeros_like(words[:, :1])], 1)
    seen = torch.cat([(1 - at) * x0 + at * noise, conditions(data.given[clip])], 1)
    velocity = net(seen, 1000 * t, words, return_dict=False)[0]
    return (velocity - (noise - x0)).square().mean()


def run_of(net: nn.Module) -> tiny.Run:
    """Return the resumable run of the transformer."""

    class Further(tiny.Run):
        """A run with a fraction of the learning rates, because it begins with trained weights."""

        def rate(self) -> float:
            return PEAK * super().rate()

    return Further("flow", net, STEPS, 0.99, tiny._inner)


def read_corpus() -> Corpus:
    """Read what `encode` wrote."""
    tiny.WORK = WORK / "given"
    given = tiny.load_corpus()[0]
    tiny.WORK = WORK
    return Corpus(*tiny.flow_corpus(), given)


def flow() -> None:
    """Train the transformer on the latents."""
    net, text = new_transformer(), tiny.PaddedText()
    tiny._read_padded(net, text)
    run, data = run_of(net), read_corpus()
    run.go(lambda step: loss(net, text, data, step))


def publish() -> None:
    """Write the pipeline; the transformer's average weights in half precision."""
    from diffusers import WanImageToVideoPipeline

    net = new_transformer()
    run_of(net).averaged()
    net.half().save_pretrained(MODEL / "transformer")
    index = json.loads((BASE / "model_index.json").read_text())
    index |= {
        "_class_name": WanImageToVideoPipeline.__name__,
        "image_encoder": [None, None],
        "image_processor": [None, None],
    }
    (MODEL / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    size = {"height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS}
    (MODEL / "vidrl.json").write_text(json.dumps(size) + "\n")
    tiny._forget_paths()
    (MODEL / "pretraining.jsonl").write_text((WORK / "flow.jsonl").read_text())


# Prompts


def write_prompts() -> None:
    """Write the first pictures of films, and a table of prompts."""
    for split in films.COUNT:
        folder = PROMPTS / f"cameras_{split}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for scene, number, seed in films.films(split):
            file = folder / f"{number:03d}.png"
            picture.write(file, world.render(scene, SIZE, FRAMES, FPS, seed).video[0])
            rows.append({"prompt": scene.caption, "image": f"{folder.name}/{file.name}"})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (PROMPTS / f"cameras_{split}.jsonl").write_text(lines)


STAGES = {
    "text": save_text,
    "encode": encode,
    "flow": flow,
    "publish": publish,
    "prompts": write_prompts,
}


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=tuple(STAGES))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tiny.choose(SIZE)
    tiny.MODEL, tiny.WORK = MODEL, WORK
    WORK.mkdir(parents=True, exist_ok=True)
    STAGES[args.stage]()


if __name__ == "__main__":
    main()
