"""Train assets/tiny-world, a flow model of a world that follows actions, in minutes on one core.

    python scripts/pretrain_world.py train --out assets/tiny-world
    python scripts/pretrain_world.py check
    python scripts/pretrain_world.py prompts

`train` writes config.json, network.safetensors and pretraining.jsonl. The corpus has the faults
of `vidrl.synthetic.agents.FAULTS`. `check` samples held-out prompts and prints what the verifier
reads. `prompts` writes the first frames and the actions of both splits to assets/prompts; every
second first frame is beside the box, and its actions push the box.
"""

from __future__ import annotations

import argparse
import json
import random
from itertools import islice
from pathlib import Path

import _averaged_training
import torch
from torch import Tensor

from vidrl.backbones import world as backbone
from vidrl.backbones._world_net import WorldNet
from vidrl.data import picture, prompts
from vidrl.synthetic import agents

ACTIONS = 4  # in a clip
CONFIG = {
    "side": agents.SIDE,
    "patch": agents.CELL,
    "frames": agents.FRAMES,
    "length": ACTIONS,
    "width": 48,
    "depth": 5,
    "actions": list(agents.ACTIONS),
}
RATE = 3e-3
PROMPTS = Path("assets/prompts")
SPLITS = {"train": (128, 4), "held_out": (128, 1)}  # first frames, and prompts of each


def examples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return n clips (n, 9, 3, 36, 36) of the corpus and their actions (n, 4)."""
    words, found = zip(*islice(agents.corpus(seed, ACTIONS), n), strict=True)
    grounds = torch.stack([agents.ground(states[0]) for states in found])
    agent, box = (torch.stack(side) for side in zip(*map(agents.paths, found), strict=True))
    frames = agent.shape[1]
    clips = agents.draw(
        grounds.repeat_interleave(frames, 0), agent.flatten(0, 1), box.flatten(0, 1)
    )
    numbers = [[CONFIG["actions"].index(word) for word in row] for row in words]
    return clips.unflatten(0, (n, frames)), torch.tensor(numbers)


def loss(network: WorldNet, clips: Tensor, actions: Tensor, draw: torch.Generator) -> Tensor:
    """Return the flow-matching loss of x̂0, mean (x̂0 − x0)²/(t² + 0.1).

    With (x̂0 − x0)²/t² the loss would be that of the velocity; but late times would then outweigh
    the early ones, where it is decided what happens. Times are a shifted logistic normal. The
    given frame has a little noise, because the model will have to go on from frames of its own.
    """
    x0 = backbone.latents_of(clips, ACTIONS)
    frame = 2 * clips[:, 0] - 1
    little = 0.06 * torch.rand(len(clips), 1, 1, 1, generator=draw)
    frame = frame + little * torch.randn(frame.shape, generator=draw)
    u = torch.randn(len(x0), generator=draw).sigmoid()
    t = backbone.SHIFT * u / (1 + (backbone.SHIFT - 1) * u)
    eps = torch.randn(x0.shape, generator=draw)
    at = t.view(-1, 1, 1, 1, 1)
    clean = network((1 - at) * x0 + at * eps, t, frame, actions)
    return ((clean - x0).square() / (at**2 + 0.1)).mean()


def train(out: Path, steps: int, batch: int) -> None:
    """Train a network from random weights; keep an average of its weights."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(CONFIG) + "\n")
    torch.manual_seed(0)
    sizes = {key: CONFIG[key] for key in backbone.SIZES}
    network = WorldNet(words=len(CONFIG["actions"]), **sizes)
    torch.nn.init.zeros_(network.out.weight)  # at first nothing moves
    torch.nn.init.zeros_(network.out.bias)

    def loss_of(step: int) -> Tensor:
        clips, actions = examples(batch, seed=step)
        return loss(network, clips, actions, torch.Generator().manual_seed(step))

    _averaged_training.train(network, loss_of, out, steps, RATE, every=50)


def write_prompts() -> None:
    """Write the first frames, and tables of prompts that name them; print what share pushes."""
    for split, (starts, each) in SPLITS.items():
        folder = PROMPTS / f"agents_{split}"
        folder.mkdir(parents=True, exist_ok=True)
        draw, rows, pushed = random.Random(split), [], []
        for number in range(starts):
            state = first_state(number, split)
            file = folder / f"{number:03d}.png"
            picture.write(file, agents.render([state])[0])
            texts = sorted(texts_of(state, each, number, draw))
            image = f"{folder.name}/{file.name}"
            rows += [{"prompt": words, "image": image} for words in texts]
            pushed += [agents.pushes(agents.states(state, words.split())) for words in texts]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (PROMPTS / f"agents_{split}.jsonl").write_text(text)
        print(split, shares(pushed))


def first_state(number: int, split: str) -> agents.State:
    """Return the state of a first frame: every second one is beside a box that can be pushed."""
    draw = agents.pushing_start if number % 2 else agents.start
    return draw(number, held_out=split == "held_out")


def texts_of(state: agents.State, each: int, number: int, draw: random.Random) -> set[str]:
    """Return different texts of actions for a first frame; of every second one, all push."""
    texts: set[str] = set()
    while len(texts) < each:
        if number % 2:
            words = agents.pushing_actions(state, ACTIONS, draw)
        else:
            words = agents.random_actions(ACTIONS, draw)
        texts.add(" ".join(words))
    return texts


def shares(pushed: list[list[bool]]) -> dict[str, float]:
    """Return the share of prompts, and of their actions, that push the box."""
    rows = torch.tensor(pushed, dtype=torch.float64)
    return {
        "prompts": round(float(rows.amax(1).mean()), 3),
        "actions": round(float(rows.mean()), 3),
    }


@torch.no_grad()
def check(model: Path, n: int, steps: int) -> None:
    """Print the share of held-out actions that the verifier reads as followed."""
    from vidrl.rewards import Samples
    from vidrl.synthetic.agent_verifier import ActionVerifier

    made = backbone.World(str(model))
    asked = prompts.read(PROMPTS / "agents_held_out.jsonl")[:n]
    noise = made.noise([torch.Generator().manual_seed(i) for i in range(len(asked))])
    cond = made.encode(asked)
    clips = made.decode_with(made.generate(noise, cond, steps), cond)
    found = ActionVerifier()(Samples(clips, asked, made.fps)).frames[:, 1 :: agents.FRAMES]
    by_action = [round(x, 3) for x in found.mean(0).tolist()]
    print({"right": round(float(found.mean()), 3), "by_action": by_action})


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "check", "prompts"))
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-world"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--n", type=int, default=128)
    args = parser.parse_args()
    if args.command == "train":
        train(args.out, args.steps, args.batch)
    elif args.command == "check":
        check(args.out, args.n, 10)
    else:
        write_prompts()


if __name__ == "__main__":
    main()
