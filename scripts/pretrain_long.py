"""Teach assets/tiny-wan-32 to continue a clip: assets/tiny-long, weights for the backbone `long`.

    python scripts/pretrain_long.py encode   # write the latents of long clips to runs/pretrain-long
    python scripts/pretrain_long.py flow     # train the transformer to continue
    python scripts/pretrain_long.py publish  # write assets/tiny-long
    python scripts/pretrain_long.py check    # measure chunk by chunk what the verifier reads

A clip has four chunks of four latent frames. The transformer sees the last latent frame of the
chunk before, at time 0, in front of the noisy latent frames of a chunk. A quarter of the rows
are first chunks, which have nothing before them. In the corpus, something changes where chunks
meet with probability `FAULTS`, so that a reward has something to mend (see `film`). Every
stage but `publish` and `check` may be killed and called again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import exp
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import _latent_files
import pretrain_tiny as tiny

from vidrl.rewards._files import atomic_file
from vidrl.synthetic import verifier, world

ROOT = Path(__file__).resolve().parent.parent
MODEL, WORK = ROOT / "assets" / "tiny-long", ROOT / "runs" / "pretrain-long"
SIZE, FPS = 32, 8.0
CHUNKS, LATENTS = 4, 4
HISTORY = 1
FRAMES = 4 * (CHUNKS * LATENTS - 1) + 1
# the first pixel frames of the chunks after the first one
SEAMS = [4 * (LATENTS * j - 1) + 1 for j in range(1, CHUNKS)]
CORPUS = 500
STEPS, BATCH = 700, 16
FAULTS = 0.4  # how often something changes at a seam
GAIN = 0.35  # the largest change of the light, as a natural logarithm
PEAK = 0.25  # the fraction of the learning rates of scripts/pretrain_tiny.py
GRAIN = 0.05  # the std of noise on the latent frame before, because a generated one has errors


# Corpus


def film(scene: world.Scene, draw: random.Random) -> Tensor:
    """Return a long clip (F, 3, SIZE, SIZE) in which something may change at each seam.

    What changes, for the rest of the clip, is the colour or the shape of the object, or the
    light of the whole picture.
    """
    seed, light = draw.randrange(2**31), 0.0
    pieces, start = [], 0
    clip = world.render(scene, SIZE, FRAMES, FPS, seed).video
    for end in [*SEAMS, FRAMES]:
        pieces.append((clip[start:end] * exp(light)).clamp(0, 1))
        start = end
        if draw.random() < FAULTS:
            former = scene
            scene, light = changed(scene, light, draw)
            clip = clip if scene == former else world.render(scene, SIZE, FRAMES, FPS, seed).video
    return torch.cat(pieces)


def changed(scene: world.Scene, light: float, draw: random.Random) -> tuple[world.Scene, float]:
    """Return the scene and the light after a seam with a fault."""
    what = draw.choice(("colour", "shape", "light"))
    if what == "light":
        return scene, light + draw.choice((-1, 1)) * draw.uniform(GAIN / 2, GAIN)
    names = world.COLOURS if what == "colour" else world.SHAPES
    other = draw.choice([name for name in names if name != getattr(scene, what)])
    return replace(scene, **{what: other}), light


def corpus(indices: range) -> Iterator[tuple[str, Tensor]]:
    """Yield the caption and the clip of each index; no caption is held out."""
    pool = world.scenes("train")
    for index in indices:
        draw = random.Random(f"tiny-long {index}")
        scene = draw.choice(pool)
        yield scene.caption, film(scene, draw)


def encode() -> None:
    """Write the latents of the corpus."""
    _latent_files.write(corpus, CORPUS, tiny.MODEL, FRAMES, WORK)


# The transformer


def batch(latents: Tensor, step: int) -> tuple[list[tuple[Tensor, Tensor | None, Tensor]], Tensor]:
    """Return parts (x0, before, clip) of a step's batch, and the times of all rows.

    Three quarters of the rows have the last latent frame of the chunk before, the others are
    first chunks.
    """
    draw = torch.Generator().manual_seed(step)
    clip = torch.randint(len(latents), (BATCH,), generator=draw)
    first = BATCH // 4
    number = torch.randint(1, CHUNKS, (BATCH - first,), generator=draw)
    pairs = zip(clip[first:].tolist(), (LATENTS * number).tolist(), strict=True)
    later = torch.stack([latents[i, :, k - HISTORY : k + LATENTS] for i, k in pairs])
    before, x0 = later[:, :, :HISTORY], later[:, :, HISTORY:]
    before = before + GRAIN * torch.randn(before.shape, generator=draw)
    t = torch.sigmoid(torch.randn(BATCH, generator=draw) * 1.2)
    begun = latents[clip[:first], :, :LATENTS]
    return [(begun, None, clip[:first]), (x0, before, clip[first:])], t


def predict(net: nn.Module, x: Tensor, t: Tensor, before: Tensor | None, words: Tensor) -> Tensor:
    """Return the velocity of the latent frames x, which follow the latent frames `before`."""
    words = torch.cat([words, torch.zeros_like(words[:, :1])], 1)
    given = 0 if before is None else before.shape[2]
    seen = x if before is None else torch.cat([before, x], 2)
    tokens = x.shape[3] * x.shape[4]
    times = 1000 * t[:, None].expand(-1, seen.shape[2] * tokens).clone()
    times[:, : given * tokens] = 0
    return net(seen, times, words, return_dict=False)[0][:, :, given:]


def loss(net: nn.Module, text: tiny.PaddedText, data: tuple[Tensor, ...], step: int) -> Tensor:
    """Return the velocity matching loss of one step."""
    latents, table, caption = data
    draw = torch.Generator().manual_seed(10_000_000 + step)
    text.bias = torch.zeros(1, tiny.TEXT_LENGTH + 1)
    text.bias[0, -1] = torch.tensor(float(tiny._padded(draw, step) - tiny.TEXT_LENGTH)).log()
    parts, times = batch(latents, step)
    errors, start = [], 0
    for x0, before, clip in parts:
        t = times[start : start + len(x0)]
        start += len(x0)
        at = t.view(-1, 1, 1, 1, 1)
        noise = torch.randn(x0.shape, generator=draw)
        velocity = predict(net, (1 - at) * x0 + at * noise, t, before, table[caption[clip]])
        errors.append((velocity - (noise - x0)).square().flatten(1).mean(1))
    return torch.cat(errors).mean()


def run_of(net: nn.Module) -> tiny.Run:
    """Return the resumable run, which begins with the weights of assets/tiny-wan-32."""
    from diffusers import WanTransformer3DModel

    start = WanTransformer3DModel.from_pretrained(tiny.MODEL / "transformer")
    net.load_state_dict(start.state_dict())

    class Continued(tiny.Run):
        """A run with a fraction of the learning rates, because it begins with trained weights."""

        def rate(self) -> float:
            return PEAK * super().rate()

    return Continued("flow", net, STEPS, 0.99, tiny._inner)


def flow() -> None:
    """Train the transformer on the latents."""
    net, text = tiny.new_transformer(), tiny.PaddedText()
    run = run_of(net)
    tiny._read_padded(net, text)
    data = tiny.flow_corpus()
    run.go(lambda step: loss(net, text, data, step))


def publish() -> None:
    """Write the average weights as half precision, which is a third of what a pipeline takes."""
    net = tiny.new_transformer()
    run_of(net).averaged()
    MODEL.mkdir(exist_ok=True)
    weights = {name: p.detach().half().contiguous() for name, p in net.named_parameters()}
    with atomic_file.new_path(MODEL / "network.safetensors") as private:
        save_file(weights, private)
    (MODEL / "pretraining.jsonl").write_text((WORK / "flow.jsonl").read_text())


# The bar


def check(n: int, chunks: int) -> dict[str, list[float]]:
    """Return what the verifier reads of each chunk of clips of n held-out captions.

    The clips have `chunks` chunks; the numbers are fractions of n.
    """
    from vidrl.backbones.long import Long
    from vidrl.training.clips import generate
    from vidrl.training.rollout import draws

    options = {"frames": SEAMS[0], "text_length": 24}
    long = Long(str(tiny.MODEL), chunks=chunks, weights=str(MODEL), options=options)
    captions = [scene.caption for scene in world.scenes("held_out", n)]
    clips = generate(long, captions, draws(0, [(i,) for i in range(n)]), steps=8)
    edges = [0, *long.borders, clips.video.shape[1]]
    return {
        name: [
            float(getattr(verifier.verify(clips.video[:, a:b], captions, FPS), name).float().mean())
            for a, b in pairwise(edges)
        ]
        for name in ("colour", "shape", "motion")
    }


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("encode", "flow", "publish", "check"))
    parser.add_argument("-n", type=int, default=32, help="check: how many held-out captions")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="check: chunks of a clip")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tiny.choose(SIZE)
    tiny.WORK = WORK
    WORK.mkdir(parents=True, exist_ok=True)
    if args.stage == "check":
        print(json.dumps(check(args.n, args.chunks)))
        return
    {"encode": encode, "flow": flow, "publish": publish}[args.stage]()


if __name__ == "__main__":
    main()
