"""Play a policy in the learned world and in the true one, as Gymnasium environments.

    python scripts/examples/world_env.py [RUN] [--out OUT.mp4]

With RUN, the folder of a run of scripts/recipes/tiny_world.toml, the learned world has the trained
weights. The same planner, which reads the state from the pixels, plays five episodes of the task
"push" in both worlds. OUT.mp4 gets the learned world's frames. Needs the extra `world`.
"""

import argparse
import random
from pathlib import Path

import torch

from vidrl.rewards import video
from vidrl.worlds import policies, simulator
from vidrl.worlds.environment import WorldEnv

ROOT = Path(__file__).resolve().parents[2]  # the script runs from any folder
TASK = "push"  # or "reach", "avoid": vidrl.worlds.tasks


def play(env: WorldEnv, seed: int) -> tuple[float, list]:
    """Return the reward of one episode, and all its frames."""
    act, draw = policies.Planner(TASK), random.Random(seed)
    frames, _ = env.reset(seed=seed)
    seen, reward, ended = list(frames[-1:]), 0.0, False
    while not ended:
        # an observation has the frames of one action, uint8 (F, H, W, 3); the last one is read
        picture = torch.from_numpy(frames[-1]).permute(2, 0, 1).float() / 255
        action = env.world.actions.index(act(picture, draw))
        frames, reward, terminated, truncated, _ = env.step(action)
        seen, ended = seen + list(frames), terminated or truncated
    return reward, seen


def main(run: str = "", out: str = "") -> None:
    """Play both worlds, and print the rewards."""
    learned = WorldEnv(simulator.load(str(ROOT / "assets/tiny-world"), run=run), TASK)
    truth = WorldEnv(simulator.TrueWorld(), TASK)
    frames = []
    for seed in range(5):
        (reward, seen), (true, steps) = play(learned, seed), play(truth, seed)
        print(
            f"episode {seed}: reward {reward:+.0f} after {len(seen) // 2} actions in the learned "
            f"world, {true:+.0f} after {len(steps) // 2} in the true one"
        )
        frames += seen
    if not run:
        print(
            "The learned world is the base model, which often ignores a push: a reward of +0 there "
            "beside +1 in the true world is expected. Train it by scripts/recipes/tiny_world.toml."
        )
    if out:
        clip = torch.stack([torch.from_numpy(frame) for frame in frames]).permute(0, 3, 1, 2)
        video.write(out, clip, learned.world.fps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", default="", metavar="OUT.mp4", help="a film of the learned world")
    words = parser.parse_args()
    if words.run and not (Path(words.run) / "config.toml").is_file():
        parser.error(f"expected RUN to be the folder of a run, got {words.run}: --out names a film")
    main(words.run, words.out)
