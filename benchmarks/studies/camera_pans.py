"""Measure how the camera follows captions, and the things under it, in clips of tiny-i2v.

    python benchmarks/studies/camera_pans.py [RUN ...]

The prompts are those of assets/prompts/cameras_held_out.jsonl: a picture, and a caption that asks
for one of five cameras. Measured are rendered clips, whose truth is known, the same clips through
the autoencoder, clips of assets/tiny-wan, which sees no picture, clips of assets/tiny-i2v, and
clips of each RUN's weights, of the same noise. Differences are paired, after - before.

The camera:

- `named`: the share of clips in which optical flow (`camera_object`) finds the asked camera. The
  five cameras are the four pans and a camera slower than `STILL`.
- `along`: its speed in the direction of the caption, in picture diagonals a second; where the
  caption asks for a camera at rest, minus its speed.
- `explained`: the share of clips whose ground the asked camera explains best of the five
  (`CameraFit`, which is the reward of scripts/recipes/tiny_camera.toml), and its value.

The things: the words of `vidrl.synthetic.verifier`, `identity`, their speed by `camera_object`,
and `contrast`, the standard deviation of grey.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.backbones.base import PromptCache
from vidrl.data import prompts
from vidrl.rewards import Samples, load
from vidrl.synthetic import camera_fit, films, verifier, world
from vidrl.training import evaluate
from vidrl.training.clips import generate
from vidrl.training.model_source import resolve
from vidrl.training.policy import load_adapter
from vidrl.training.rollout import draws

STEPS = 8
STILL = 0.005  # diagonals a second; the rendered camera has 0.106
CAMERAS = list(world.CAMERAS)
CALL = {"guidance_scale": 1.0, "max_sequence_length": 24}


def asked(samples: Samples) -> Tensor:
    """Return the number of each caption's camera, (B,)."""
    return torch.tensor([CAMERAS.index(world.parse(text).camera) for text in samples.prompts])


def camera(samples: Samples) -> dict[str, Tensor]:
    """Return what is measured of the camera, each (B,)."""
    parts = load("camera_object", what="camera")(samples).parts
    seen = torch.stack([parts["pan"].value, -parts["tilt"].value], 1)  # world's y points down
    speeds = seen @ torch.tensor([world.CAMERAS[name] for name in CAMERAS]).T
    speeds[:, 0] = -seen.norm(dim=1)
    best = torch.where(speeds[:, 1:].amax(1) > STILL, speeds[:, 1:].argmax(1) + 1, 0)
    wanted = asked(samples)
    fits = torch.stack([camera_fit.explained(clip, samples.fps).mean(1) for clip in samples.frames])
    return {
        "named": (best == wanted).float(),
        "along": speeds.gather(1, wanted[:, None])[:, 0],
        "explained": (fits.argmax(1) == wanted).float(),
        "CameraFit": camera_fit.CameraFit()(samples).value,
    }


def things(samples: Samples) -> dict[str, Tensor]:
    """Return what is measured of the things, each (B,)."""
    verdict = verifier.verify(samples.frames, list(samples.prompts), samples.fps)
    words = ("shape", "colour", "motion", "all")
    return {
        **{word: getattr(verdict, word).float() for word in words},
        "identity": verdict.identity,
        "speed": load("camera_object")(samples).value,
        "contrast": samples.frames.mean(2).flatten(1).std(1),
    }


def measured(samples: Samples) -> dict[str, Tensor]:
    """Return all measures of each clip, each (B,)."""
    return {**camera(samples), **things(samples)}


def clips(model: Any, policy: Any, asks: list[str]) -> Samples:
    """Return one clip for each prompt, of noise that does not depend on the policy."""
    noise = draws(0, [("camera", i) for i in range(len(asks))])
    return generate(policy, asks, noise, STEPS, encode=PromptCache(model))


def row(name: str, found: dict[str, Tensor]) -> str:
    """Return a line of the table: means over the clips."""
    return f"| {name} | " + " | ".join(f"{float(x.mean()):.3f}" for x in found.values()) + " |"


def differences(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """Return a line for each measure: the mean paired difference and its 95 % interval."""
    pair = [{k: x.double().numpy() for k, x in found.items()} for found in (before, after)]
    return "\n".join(
        f"  {name}: {found['difference']:+.3f} {interval(found)} {found['note']}"
        for name, found in evaluate.compare(*pair).items()
    )


def interval(found: dict[str, Any]) -> str:
    """Return the 95 % interval as text; "none" where no bound is known."""
    low, high = found["low"], found["high"]
    return "none" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def known(asks: list[str]) -> None:
    """Print the rows of clips whose truth is known, and of tiny-wan, which reads no picture."""
    wan = plugin.load("backbones", "wan", model="assets/tiny-wan", text_length=24)
    shown = [world.render(scene, 64, 17, 8.0, seed) for scene, _, seed in films.films("held_out")]
    video = torch.stack([clip.video for clip in shown[: len(asks)]])
    rendered = measured(Samples(video, asks, 8.0))
    print(f"| clips | {' | '.join(rendered)} |\n|{'---|' * (len(rendered) + 1)}")
    print(row("rendered", rendered), flush=True)
    with torch.no_grad():
        again = torch.cat([wan.decode(wan.encode_video(part)) for part in video.split(16)])
    print(row("rendered, through the autoencoder", measured(Samples(again, asks, 8.0))))
    print(row("tiny-wan", measured(clips(wan, wan, [str(text) for text in asks]))), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="*", help="folders of runs of scripts/recipes/tiny_camera.toml"
    )
    parser.add_argument("-n", type=int, default=120, help="how many held-out prompts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    asks = prompts.read("assets/prompts/cameras_held_out.jsonl")[: args.n]
    known(asks)
    model = plugin.load("backbones", "pipeline", model="assets/tiny-i2v", call=CALL, decode_chunk=8)
    base = measured(clips(model, model, asks))
    print(row("tiny-i2v", base), flush=True)
    for run in args.runs:
        policy = load_adapter(model, str(resolve(run=run).lora), False)
        after = measured(clips(model, policy, asks))
        print(f"{row(Path(run).name, after)}\n{differences(base, after)}", flush=True)


if __name__ == "__main__":
    main()
