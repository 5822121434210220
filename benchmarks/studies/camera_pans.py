"""Measure how the camera follows captions, and the things under it, in clips of tiny-wan.

    python benchmarks/studies/camera_pans.py [RUN ...]

The captions are held-out ones of `vidrl.synthetic.world` over stripes or speckles, with a camera
that pans left, right, up and down in turn. Measured are rendered clips, whose truth is known,
the same clips through the autoencoder of assets/tiny-wan, clips of the base model, and clips of
each RUN's weights, of the same noise.

`along` is the camera's speed in the direction of the caption by optical flow (`camera_object`),
in picture diagonals a second; `right` is the share of clips where it is 0.03 or more, a third
of the rendered speed. `motion_target` reads the whole caption. `contrast` is the standard
deviation of grey. The last columns are the words of `vidrl.synthetic.verifier`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.backbones.base import PromptCache
from vidrl.rewards import Samples, load
from vidrl.synthetic import verifier, world
from vidrl.training import evaluate
from vidrl.training.clips import generate
from vidrl.training.model_source import resolve
from vidrl.training.policy import load_adapter
from vidrl.training.rollout import draws

STEPS, RIGHT = 8, 0.03


def panned(n: int) -> list[world.Scene]:
    """Return the first n held-out scenes over a texture, each under a camera that pans."""
    ways = [camera for camera in world.CAMERAS if camera != "static"]
    over = [s for s in world.scenes("held_out") if s.background in ("striped", "speckled")]
    return [replace(scene, camera=ways[i % 4]) for i, scene in enumerate(over[:n])]


def along(samples: Samples) -> Tensor:
    """Return the camera's speed in the direction of each caption, (B,), diagonals a second."""
    parts = load("camera_object", what="camera")(samples).parts
    seen = torch.stack([parts["pan"].value, -parts["tilt"].value], 1)  # world's y points down
    ways = [world.CAMERAS[world.parse(prompt).camera] for prompt in samples.prompts]
    return (seen * torch.tensor(ways)).sum(1)


def measured(samples: Samples) -> dict[str, Tensor]:
    """Return the measures of each clip, each (B,)."""
    verdict = verifier.verify(samples.frames, list(samples.prompts), samples.fps)
    speed = along(samples)
    return {
        "along": speed,
        "right": (speed >= RIGHT).float(),
        "camera_fit": load("vidrl.synthetic.camera_fit:CameraFit")(samples).value,
        "motion_target": load("motion_target")(samples).value,
        "contrast": samples.frames.mean(2).flatten(1).std(1),
        **{word: getattr(verdict, word).float() for word in ("shape", "colour", "motion", "all")},
        "identity": verdict.identity,
    }


def clips(model: Any, policy: Any, prompts: list[str]) -> Samples:
    """Return one clip for each prompt, of noise that does not depend on the policy."""
    noise = draws(0, [("camera", i) for i in range(len(prompts))])
    return generate(policy, prompts, noise, STEPS, encode=PromptCache(model))


def row(name: str, found: dict[str, Tensor]) -> str:
    """Return a line of the table: means over the clips."""
    return f"| {name} | " + " | ".join(f"{float(x.mean()):.3f}" for x in found.values()) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("-n", type=int, default=48)
    args = parser.parse_args()
    torch.set_num_threads(1)
    scenes = panned(args.n)
    prompts = [scene.caption for scene in scenes]
    video = torch.stack([world.render(s, 64, 17, 8.0, i).video for i, s in enumerate(scenes)])
    model = plugin.load("backbones", "wan", model="assets/tiny-wan", text_length=24)
    rendered = measured(Samples(video, prompts, 8.0))
    print(f"| clips | {' | '.join(rendered)} |")
    print(f"|{'---|' * (len(rendered) + 1)}")
    print(row("rendered", rendered), flush=True)
    with torch.no_grad():
        again = model.decode(model.encode_video(video)).clamp(0, 1)
    print(row("rendered, through the autoencoder", measured(Samples(again, prompts, 8.0))))
    base = measured(clips(model, model, prompts))
    print(row("base model", base), flush=True)
    for run in args.runs:
        policy = load_adapter(model, str(resolve(run=run).lora), False)
        after = measured(clips(model, policy, prompts))
        print(row(Path(run).name, after), flush=True)
        before_after = [{k: x.double().numpy() for k, x in m.items()} for m in (base, after)]
        for name, found in evaluate.compare(*before_after).items():
            ends = f"[{found['low']}, {found['high']}] {found['note']}"
            print(f"{Path(run).name} {name}: {found['difference']:+.3f} {ends}", flush=True)


if __name__ == "__main__":
    main()
