"""Train assets/tiny-scene and assets/tiny-scene-4d, flow models of captioned scenes, on one core.

    python scripts/pretrain_scene.py train              # assets/tiny-scene, in minutes
    python scripts/pretrain_scene.py train --moving     # assets/tiny-scene-4d
    python scripts/pretrain_scene.py check [--moving]
    python scripts/pretrain_scene.py diversity [--moving]
    python scripts/pretrain_scene.py prompts

`train` writes config.json, network.safetensors and pretraining.jsonl. The corpus has the faults
of `vidrl.synthetic.scenes.FAULTS`. `--moving` is for scenes in which one thing moves; their
corpus has `MOVING_FAULTS`, too. `check` samples held-out captions and prints what the verifier
reads. `diversity` prints how far two orbits of one caption are apart, with and without the faults
of the corpus. `prompts` writes the captions of all splits to assets/prompts.
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
from vidrl.synthetic import paths, scenes, splat
from vidrl.training import evaluate

CONFIG = {"arcs": 4, "width": 64, "depth": 3, "heads": 4}
# more arcs, so that a path has smaller steps; docs/log.md says why the network is larger
MOVING = CONFIG | {"arcs": 8, "width": 96, "depth": 4}
STEPS, POOL = 2400, 10_000  # of the training of scenes at rest
MOVING_STEPS, MOVING_POOL = 8000, 20_000
MOVING_PROMPTS = 1500  # of the 6352 captions that training may show
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
    """Write the captions of the two splits of scenes at rest and of moving ones, one a line."""
    for split in ("train", "held_out"):
        for name, found in (
            (f"scenes_{split}.txt", scenes.scenes(split)),
            (f"moving_scenes_{split}.txt", scenes.scenes(split, MOVING_PROMPTS, moving=True)),
        ):
            (PROMPTS / name).write_text("".join(f"{scene.caption}\n" for scene in found))


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
    moving = any(scene.motions)
    arcs = (MOVING if moving else CONFIG)["arcs"]
    pair = [scenes.filmed(scene, draw, paths.times(arcs)) for _ in range(2)]
    for tokens in pair if faults else ():
        for fault, share in scenes.fault_shares(moving).items():
            if float(torch.rand((), generator=draw)) < share:
                fault(tokens, draw)
    by_view = torch.stack(pair).repeat_interleave(24 // arcs, 1)
    return splat.render(splat.blobs(by_view), splat.cameras(24), 32)


def diversity(moving: bool = False) -> None:
    """Print the mean distance of two orbits of a caption, as evaluations measure diversity."""
    for faults in (False, True):
        draw = torch.Generator().manual_seed(0)
        pairs = [
            evaluate.thumbnails(orbit_pair(scene, faults, draw))
            for scene in scenes.scenes("held_out", moving=moving)
        ]
        found = torch.stack([(first - other).abs().mean() for first, other in pairs])
        print({"faults": faults, "diversity": round(float(found.mean()), 4)})


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "check", "prompts", "diversity"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--moving", action="store_true", help="scenes in which one thing moves")
    parser.add_argument("--steps", type=int, help="2400, and 8000 with --moving")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pool", type=int, help="scenes: 10000, and 20000 with --moving")
    parser.add_argument("--n", type=int, default=128)
    args = parser.parse_args()
    out = args.out or Path("assets/tiny-scene-4d" if args.moving else "assets/tiny-scene")
    if args.command == "train":
        steps = args.steps or (MOVING_STEPS if args.moving else STEPS)
        pool = args.pool or (MOVING_POOL if args.moving else POOL)
        train(out, steps, args.batch, pool, args.moving)
    elif args.command == "check":
        check(out, args.n, 20, args.moving)
    elif args.command == "diversity":
        diversity(args.moving)
    else:
        write_prompts()


if __name__ == "__main__":
    main()
