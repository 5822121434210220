"""Train assets/tiny-scene, a flow model of captioned scenes in space, in minutes on one core.

    python scripts/pretrain_scene.py train --out assets/tiny-scene
    python scripts/pretrain_scene.py check
    python scripts/pretrain_scene.py prompts
    python scripts/pretrain_scene.py diversity

`train` writes config.json, network.safetensors and pretraining.jsonl. The corpus has the faults
of `vidrl.synthetic.scenes.FAULTS`. `--moving` trains and checks a model of scenes in which one
thing moves, of 8 arcs, in runs/tiny-scene-4d by default. `check` samples held-out captions and
prints what the verifier reads. `prompts` writes the captions of both splits to assets/prompts.
`diversity` prints how far two orbits of one caption are apart, with and without the faults of
the corpus.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _averaged_training
import torch
from torch import Tensor

from vidrl.backbones import scene as backbone
from vidrl.backbones._scene_net import SceneNet
from vidrl.synthetic import scenes, splat
from vidrl.training import evaluate

CONFIG = {"arcs": 4, "width": 64, "depth": 3, "heads": 4}
MOVING = CONFIG | {"arcs": 8}  # more arcs, so that a path has smaller steps
PROMPTS = Path("assets/prompts")


def examples(pool: int, seed: int, moving: bool = False) -> tuple[Tensor, Tensor]:
    """Return the latents (n, 8, L, N, 1) and the words (n, 12) of a corpus of n scenes."""
    arcs = (MOVING if moving else CONFIG)["arcs"]
    reader = backbone.Scene(views=arcs)
    made = scenes.corpus(seed, arcs, moving)
    captions, tokens = zip(*(next(made) for _ in range(pool)), strict=True)
    latents = torch.stack(tokens).permute(0, 3, 1, 2)[..., None].contiguous()
    return latents, reader.encode(captions)["words"]


def loss(network: SceneNet, x0: Tensor, words: Tensor, draw: torch.Generator) -> Tensor:
    """Return the flow-matching loss, mean (v − (ε − x0))², with times of a logistic normal."""
    t = torch.randn(len(x0), generator=draw).sigmoid()
    eps = torch.randn(x0.shape, generator=draw)
    at = t.view(-1, 1, 1, 1, 1)
    return (network((1 - at) * x0 + at * eps, t, words) - (eps - x0)).square().mean()


def train(out: Path, steps: int, batch: int, pool: int, moving: bool = False) -> None:
    """Train a network from random weights; keep an average of its weights."""
    config = MOVING if moving else CONFIG
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config) + "\n")
    latents, words = examples(pool, 1, moving)
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(2)
    vocabulary = len(backbone.KNOWN) + backbone.OTHERS + 1
    sizes = {key: config[key] for key in ("width", "depth", "heads")}
    network = SceneNet(
        splat.CHANNELS, config["arcs"], scenes.BLOBS, backbone.WORDS, vocabulary, **sizes
    )

    def loss_of(step: int) -> Tensor:
        pick = torch.randint(pool, (batch,), generator=draw)
        return loss(network, latents[pick], words[pick], draw)

    _averaged_training.train(network, loss_of, out, steps, peak_rate=3e-3, every=200)


def write_prompts() -> None:
    """Write the captions of the two splits, one a line."""
    for split in ("train", "held_out"):
        lines = [scene.caption for scene in scenes.scenes(split)]
        (PROMPTS / f"scenes_{split}.txt").write_text("\n".join(lines) + "\n")


@torch.no_grad()
def check(model: Path, n: int, steps: int, moving: bool = False) -> None:
    """Print the shares of held-out captions that the verifier reads back."""
    from vidrl.synthetic import scene_verifier

    made = backbone.Scene(str(model))
    prompts = [scene.caption for scene in scenes.scenes("held_out", n, moving)]
    noise = made.noise([torch.Generator().manual_seed(i) for i in range(n)])
    views = made.decode(made.generate(noise, made.encode(prompts), steps))
    found = scene_verifier.verify(views, prompts)
    print({name: round(float(value.float().mean()), 3) for name, value in vars(found).items()})


def orbit_pair(scene: scenes.Scene, faults: bool, draw: torch.Generator) -> Tensor:
    """Return two orbits of one caption, (2, 24, 3, 32, 32)."""
    pair = [scenes.made(scene, draw).repeat(CONFIG["arcs"], 1, 1) for _ in range(2)]
    for tokens in pair if faults else ():
        for fault, share in scenes.FAULTS.items():
            if float(torch.rand((), generator=draw)) < share:
                fault(tokens, draw)
    by_view = torch.stack(pair).repeat_interleave(24 // CONFIG["arcs"], 1)
    return splat.render(splat.blobs(by_view), splat.cameras(24), 32)


def diversity() -> None:
    """Print the mean distance of two orbits of a caption, as evaluations measure diversity."""
    for faults in (False, True):
        draw = torch.Generator().manual_seed(0)
        pairs = [
            evaluate.thumbnails(orbit_pair(scene, faults, draw))
            for scene in scenes.scenes("held_out")
        ]
        found = torch.stack([(first - other).abs().mean() for first, other in pairs])
        print({"faults": faults, "diversity": round(float(found.mean()), 4)})


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "check", "prompts", "diversity"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--moving", action="store_true", help="scenes in which one thing moves")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pool", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=128)
    args = parser.parse_args()
    out = args.out or Path("runs/tiny-scene-4d" if args.moving else "assets/tiny-scene")
    if args.command == "train":
        train(out, args.steps, args.batch, args.pool, args.moving)
    elif args.command == "check":
        check(out, args.n, 20, args.moving)
    elif args.command == "diversity":
        diversity()
    else:
        write_prompts()


if __name__ == "__main__":
    main()
