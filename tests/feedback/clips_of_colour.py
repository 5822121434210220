"""Small clips on disk for the tests of labelling: each of one colour, with a bar that moves."""

import csv

import torch

from vidrl.rewards import video

PROMPTS = ["a dog runs", "a cat <script>alert(1)</script> sleeps", "a boat turns"]


def write_clip(path, colour, frames=10, size=(32, 48), fps=8.0):
    clip = torch.full((frames, 3, *size), 0.1)
    clip[:, colour % 3] = 0.3 + 0.1 * (colour // 3 % 7)
    for i in range(frames):
        clip[i, :, :, 4 * i : 4 * i + 4] = 1.0
    path.parent.mkdir(parents=True, exist_ok=True)
    return video.write(path, clip, fps)


def two_folders(home, prompts=PROMPTS, suffix=".mp4"):
    """The folders base and ours with a clip for each prompt, and prompts.csv."""
    for side, name in enumerate(("base", "ours")):
        for i, _ in enumerate(prompts):
            write_clip(home / name / f"{i}{suffix}", 2 * i + side)
        with open(home / name / "prompts.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "prompt"])
            writer.writerows([f"{i}{suffix}", prompt] for i, prompt in enumerate(prompts))
    return [home / "base", home / "ours"]
