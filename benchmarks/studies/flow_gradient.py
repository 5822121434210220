"""Are the gradients of rewards that use optical flow correct, and do they help?

    python benchmarks/studies/flow_gradient.py --out benchmarks/results/rewards/flow_gradient.md

Design: for each reward and flow estimator, the derivative along a random direction by
automatic differentiation is compared with difference quotients of smaller and smaller
steps, for which the flow is estimated again. The study also measures how much the reward
rises when a clip takes a step along the gradient. "held" is the gradient with the flow held
fixed, as the rewards compute it. "differentiated" is the gradient through the estimator as
well, which only the estimator "torch" allows.

Output: the page --out, or standard output.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidrl.rewards import Reward, Samples, flow
from vidrl.rewards._flow.estimators import batched
from vidrl.rewards.drift import Drift
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.warp_error import WarpError
from vidrl.synthetic import world

SCENES = (
    world.Scene("circle", "red", "left", "slow", "speckled"),
    world.Scene("square", "blue", "down", "fast", "light"),
    world.Scene("cross", "yellow", "right", "fast", "striped"),
)
REWARDS: dict[str, Callable[[str], Reward]] = {
    "flicker": lambda method: Flicker(flow=method),
    "drift": lambda method: Drift(flow=method),
    "warp_error": lambda method: WarpError(flow=method),
    "warp_error relative": lambda method: WarpError(relative=True, flow=method),
}
KINDS = (("dis", "held"), ("torch", "held"), ("torch", "differentiated"))
STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # h of the difference quotients


@dataclass(frozen=True)
class Row:
    """The numbers of one reward, estimator and kind of gradient.

    Derivatives and rises are of the sum over the clips; `seconds` is the time of the
    gradient.
    """

    name: str
    method: str
    kind: str
    derivative: float
    quotients: Sequence[float]
    rises: Sequence[float]
    seconds: float


def clips(size: int, frames: int = 9) -> Tensor:
    """Render scenes with a little grain, float64 (3, F, 3, H, W).

    The grain keeps values away from the kinks of |x|, at which a gradient is not defined.
    """
    video = torch.stack(
        [world.render(one, size, frames, seed=i).video for i, one in enumerate(SCENES)]
    ).double()
    grain = torch.rand(video.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 0.8 * video + 0.05 + 0.1 * grain


def direction(like: Tensor) -> Tensor:
    """Draw a random direction, smooth over three frames and pixels, of norm 10."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool3d(noise.transpose(1, 2), 3, 1, 1).transpose(1, 2)
    return smooth / smooth.norm() * 10


def value(reward: Reward, video: Tensor) -> Tensor:
    """Return the sum of the clips' values."""
    return reward(Samples(video, [scene.caption for scene in SCENES], 8.0)).value.sum()


@contextmanager
def gradient(kind: str) -> Iterator[None]:
    """Within this context, differentiate the flow of "torch" if `kind` is "differentiated".

    The context changes nothing if `kind` is "held".
    """
    usual = flow.estimate

    def through(video: Tensor, method: str, size: int) -> flow.Motion:
        # `__wrapped__` is the function without its decorator no_grad
        both = batched.__wrapped__(video, method, flow.PAIRS)  # type: ignore[attr-defined]
        there, _ = flow.zero_where_still(both[0], video[:, :-1], video[:, 1:])
        back, _ = flow.zero_where_still(both[1], video[:, 1:], video[:, :-1])
        return flow.Motion(video, there, back)

    flow.estimate = through if kind == "differentiated" else usual  # type: ignore[assignment]
    try:
        yield
    finally:
        flow.estimate = usual


def measure(name: str, method: str, kind: str, video: Tensor) -> Row:
    """Compute one row; quotients and rises are of the reward as users call it."""
    reward, away = REWARDS[name](method), direction(video)
    leaf = video.clone().requires_grad_()
    start = time.process_time()
    with gradient(kind):
        (slope,) = torch.autograd.grad(value(reward, leaf), leaf)
    seconds = time.process_time() - start
    quotients = [
        float(value(reward, video + h * away) - value(reward, video - h * away)) / (2 * h)
        for h in STEPS
    ]
    unit = slope / slope.square().mean((1, 2, 3, 4), keepdim=True).sqrt()
    rises = [rise(REWARDS[name](judge), video, unit * 1e-3) for judge in ("dis", "torch")]
    return Row(name, method, kind, float((slope * away).sum()), quotients, rises, seconds)


def rise(reward: Reward, video: Tensor, step: Tensor) -> float:
    """Return how much the reward of clips rises by a step."""
    return float(value(reward, video + step) - value(reward, video))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table with one line for each row."""
    titles = [
        "reward",
        "flow",
        "gradient",
        "derivative",
        *(f"quotient, h = {h:g}" for h in STEPS),
        "rise, judged with dis",
        "rise, judged with torch",
        "seconds",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        values = (row.derivative, *row.quotients, *row.rises)
        numbers = " | ".join(f"{x:.5f}" for x in values)
        lines.append(f"| {row.name} | {row.method} | {row.kind} | {numbers} | {row.seconds:.1f} |")
    return "\n".join(lines)


def report(rows: Sequence[Row], size: int) -> str:
    """Return the page as Markdown."""
    return f"""# Gradients of rewards that use optical flow

```
python benchmarks/studies/flow_gradient.py --out benchmarks/results/rewards/flow_gradient.md
```

Three scenes of `synthetic`, nine frames of {size} x {size} pixels, with grain, float64; \
all numbers are sums over the
clips. "derivative": along one random direction, by automatic differentiation, with the \
flow held fixed or with the
flow differentiated. "quotient": (R(x + h d) - R(x - h d)) / 2h with the flow estimated \
anew at both places.
"rise": by how much the reward rises when the clips take a step of 0.001 (root mean \
square of pixel values in [0, 1])
along the gradient, judged with either estimator of flow. Seconds are of processor time \
on one thread, for one gradient.

{markdown(rows)}

With OpenCV's flow ("dis") the quotients grow as h falls, until h is so small that the \
bytes that OpenCV sees stay the
same: this flow jumps. With "torch" they converge, to the derivative through the flow. \
For a step of this length
neither gradient is the better one throughout: the one with the flow held raises the \
relative warp_error more, the one
through the flow lets drift fall less (flicker and drift are sums of absolute values, \
whose kinks such a step passes).
The gradient through the flow takes 3 to 12 times as long. So rewards hold the flow fixed.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    video = clips(asked.size)
    text = report([measure(name, *kind, video) for name in REWARDS for kind in KINDS], asked.size)
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
