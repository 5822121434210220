"""Measure how well a learned world agrees with the true one, before and after training.

    python benchmarks/studies/world_agreement.py RUN [RUN ...]

The same policies play the same held-out starts in three worlds: the true one, that of the base
model, and that of the trained weights. Printed are, for each task and policy, the share of
episodes with the same reward as in the true world, and the success in each world; how far the
agent is from its true place under the same actions; and the share of single actions after which
the whole state is right, of actions that push the box and of random ones.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from vidrl.inference import means
from vidrl.synthetic import agent_verifier, agents
from vidrl.training import evaluate
from vidrl.training.rollout import draws
from vidrl.worlds import agreement, policies, simulator, tasks

SLIPS = (0.0, 0.3)  # shares of random actions: a planner, and one that errs
STEPS = (1, 4, 8)  # actions after which distances are printed
SINGLE = 200  # single actions of each kind


def measures(world: simulator.Simulator, episodes: int, limit: int) -> evaluate.Measures:
    """Return the numbers of each episode in a world."""
    found: dict[str, torch.Tensor] = {}
    for task in tasks.TASKS:
        starts = [policies.start(task, random.Random(f"{task} {i}")) for i in range(episodes)]
        for slips in SLIPS:
            act, name = policies.Planner(task, slips), f"{task}, slips {slips}"
            played, truth = (
                agreement.play(w, act, task, starts, limit) for w in (world, simulator.TrueWorld())
            )
            found[f"{name}: same reward"] = agreement.agreement(played, truth)
            found[f"{name}: success"] = (played.reward == 1).float()
            found[f"{name}: true success"] = (truth.reward == 1).float()
    found |= far(world, episodes) | right(world)
    return {name: value.double().numpy() for name, value in found.items()}


def far(world: simulator.Simulator, episodes: int) -> dict[str, torch.Tensor]:
    """Return the distance of the agent from its true place after some of 8 actions."""
    starts = [agents.start(i, held_out=True) for i in range(episodes)]
    actions = [agents.random_actions(max(STEPS), random.Random(i)) for i in range(episodes)]
    away = agreement.distances(world, starts, actions)
    return {f"cells away after {n} actions": away[:, n - 1] for n in STEPS}


def right(world: simulator.Simulator) -> dict[str, torch.Tensor]:
    """Return whether the state is right after single actions, which push the box or are random."""
    found = {}
    for name, start in (("a push", agents.pushing_start), ("a random action", agents.start)):
        states = [start(i, held_out=True) for i in range(SINGLE)]
        words = [_word(state, name == "a push", i) for i, state in enumerate(states)]
        first = torch.cat([agents.render([state]) for state in states])
        noise = draws(0, [("single", i) for i in range(SINGLE)])
        last = world.follow(first, words, noise)[:, -1]
        wanted = [agents.follow(*pair) for pair in zip(states, words, strict=True)]
        same = [agent_verifier.read(a).state == b for a, b in zip(last, wanted, strict=True)]
        found[f"right after {name}"] = torch.tensor(same).float()
    return found


def _word(state: agents.State, pushes: bool, seed: int) -> str:
    """Return the action that pushes the box, or a random action."""
    if not pushes:
        return random.Random(seed).choice(list(agents.ACTIONS))
    return next(word for word in agents.ACTIONS if agents.follow(state, word).box != state.box)


def table(name: str, before: evaluate.Measures, after: evaluate.Measures) -> str:
    """Return the lines of a run."""
    lines = []
    for measure, first in before.items():
        # distances are at most the grid's width, all else are shares
        limits = (0.0, float(agents.GRID) if "cells" in measure else 1.0)
        last = after[measure]
        over = means.interval(last - first, limits=means.limits_of_difference(limits))
        cells = (name, measure, f"{first.mean():.3f}", f"{last.mean():.3f}")
        ends = f"{over.mean:+.3f} [{over.low:+.3f}, {over.high:+.3f}]"
        lines.append(f"| {' | '.join(cells)} | {ends} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--model", default="assets/tiny-world")
    parser.add_argument("-n", type=int, default=48, help="episodes of each task and policy")
    parser.add_argument("--limit", type=int, default=12, help="actions of an episode")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:  # all are loaded before any is measured
        base, *worlds = (
            simulator.load(args.model),
            *(simulator.load(run=run) for run in args.runs),
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    before = measures(base, args.n, args.limit)
    print("| run | measure | before | after | paired difference, 95 % interval |")
    print("|---|---|---|---|---|")
    for run, world in zip(args.runs, worlds, strict=True):
        after = measures(world, args.n, args.limit)
        print(table(Path(run).name, before, after), flush=True)


if __name__ == "__main__":
    main()
