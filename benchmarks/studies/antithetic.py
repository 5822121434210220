"""Do antithetic pairs, in which a clip's mirror has minus its noise at every step, quieten
the gradient?

    python benchmarks/studies/antithetic.py

Of a prompt and a first noise: two groups of 8 clips with noise of their own, and two groups
of four pairs. A clip's baseline is the mean of the others of its group, in pairs that of
the other pairs, so that neither has a bias and both have one expectation m. V = E|g|² − <g,
g'> of two groups is the noise of a group's gradient; V of free noise over V of pairs is how
many free clips a paired one is worth. Gradients are sketched as in gradient_snr.py, whose
model, steps and prompts these are. Intervals: bootstrap over prompts. What is collected
stays in --run, a file each.

Legend: M clips of a group, K steps, L latent frames, D of a sketch, T targets (steps, and
their sums), R resamples.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import gradient_snr as snr
import numpy as np
import torch
from torch import Tensor

from vidrl.credit import estimators
from vidrl.diffusion.schedule import step_weights
from vidrl.rewards._files import atomic_file

KINDS = ("free", "paired")
WAYS = ("whole clip", "segment, sum of its frames")
RESULT = Path("benchmarks/results/credit/antithetic.md")


def noises(bench: snr.Bench, number: int) -> Tensor:
    """Noise (4 M, ...): two groups of their own, then two groups of pairs, from one first
    noise."""
    noise = bench.noise("antithetic", number, 4 * snr.GROUP).clone()
    paired = slice(2 * snr.GROUP, None)
    noise[paired, 1:] = estimators.antithetic(noise[paired, 1:])
    return noise


def gradients(curves: Tensor, sketch: Tensor, data: snr.Data, weights: Tensor) -> Tensor:
    """Gradients (kinds, ways, K, 2 groups, D) of curves (4 M, P, F) and scores (4 M, K, L,
    D)."""
    value, L = torch.einsum("p,npf->n", weights, curves) / curves.shape[2], sketch.shape[2]
    local = snr.local(curves, weights, data, "sum", data.spans)
    group, made = torch.zeros(snr.GROUP, dtype=torch.long), []
    for scores in (value[:, None].expand(-1, L), local):
        for g, (one, found) in enumerate(
            zip(scores.split(snr.GROUP), sketch.split(snr.GROUP), strict=True)
        ):
            away = (estimators.leave_one_out if g < 2 else estimators.leave_pair_out)(one, group)
            made.append(torch.einsum("ml,mkld->kd", away, found) / (snr.GROUP * L))
    return torch.stack(made).unflatten(0, (len(WAYS), len(KINDS), 2)).permute(1, 0, 3, 2, 4)


@torch.no_grad()
def collected(run: Path, repeats: int) -> Tensor:
    """Gradients (B, kinds, ways, K, 2, D) of every prompt and repeat; those that are not
    there yet are made."""
    bench = snr.Bench.demo()
    sketcher, start = snr.Sketcher(bench.policy), time.monotonic()
    names = list(bench.reward.parts)
    weights = torch.tensor([bench.reward.weights[n] / bench.reward.scales[n][1] for n in names])
    spans = snr.frame_spans(bench.policy.backbone.frame_map, bench.policy.backbone.shape[1])
    data = snr.Data(
        torch.zeros(0), {}, spans, names, [str(bench.reward.parts[n].time_support) for n in names]
    )
    run.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(repeats * snr.PROMPTS):
        file = run / f"{number:04d}.npy"
        if not file.exists():
            made_now = _one(bench, sketcher, number, data, weights).numpy()
            with atomic_file.new_file(file) as out:
                np.save(out, made_now)
            print(f"{number}: {time.monotonic() - start:.0f} s", flush=True)
        made.append(torch.from_numpy(np.load(file, allow_pickle=False)))
    return torch.stack(made)


def _one(
    bench: snr.Bench, sketcher: snr.Sketcher, number: int, data: snr.Data, weights: Tensor
) -> Tensor:
    prompt = bench.prompts[number % snr.PROMPTS]
    noise = noises(bench, number)
    cond = bench.policy.backbone.encode([prompt] * len(noise))
    states = bench.rollout(noise, cond)
    found = [
        sketcher(bench.policy, bench.plan, states[k], states[k + 1], k, cond) for k in snr.STEPS
    ]
    return gradients(bench.curves(states[-1], prompt)[:, :-1], torch.stack(found, 1), data, weights)


def noise_of(found: Tensor, mixes: Tensor) -> Tensor:
    """V (B, kinds, ways, T) of gradients (B, kinds, ways, K, 2, D), mixed over steps by (T,
    K)."""
    mixed = torch.einsum("tk,...kgd->...tgd", mixes, found)
    first, second = mixed.unbind(-2)
    return (mixed.square().sum(-1).mean(-1) - (first * second).sum(-1)).float()


def worth(noise: Tensor, times: int) -> Tensor:
    """V of free noise over V of pairs, (1 + R, ways, T), the sample itself first."""
    drawn = snr.resampled(len(noise), snr.PROMPTS, times)
    total = torch.einsum("rb,bkwt->rkwt", drawn, noise)
    return total[:, 0] / total[:, 1]


def page(found: Tensor, times: int, command: str) -> str:
    """The Markdown page."""
    bench = snr.Bench.demo()
    plan, count = bench.plan, len(snr.STEPS)
    level = step_weights(
        bench.policy.backbone.path, plan.sampler, plan.times, snr.STEPS, plan.eta, "rectified"
    ).float()
    mixes = torch.cat([torch.eye(count), torch.ones(1, count) / count, level[None] / count])
    ratio = worth(noise_of(found, mixes), times)
    rows = [
        [snr._told(snr.interval(ratio[:, w, t])) for t in range(len(mixes))]
        for w in range(len(WAYS))
    ]
    return "\n".join(
        [
            "# Antithetic pairs",
            "",
            f"`{command}`  ",
            f"Python {platform.python_version()}, torch {torch.__version__}, CPU, one thread",
            "",
            f"{len(found)} first noises over {snr.PROMPTS} prompts, each with two groups of 8 clips of free noise and two",
            "of four mirrored pairs; composite. How many free clips a paired one is worth, by the noise of a group's",
            "gradient; 95 % intervals. One half is the least: of what is odd in the noise a pair says the same twice.",
            "",
            f"| credit | {' | '.join(snr.TARGETS)} |",
            "|---" * (len(mixes) + 1) + "|",
            *(f"| {name} | {' | '.join(row)} |" for name, row in zip(WAYS, rows, strict=True)),
            "",
        ]
    )


def main() -> None:
    """Collect, analyse, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=4, help="first noises a prompt")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--run", type=Path, default=Path("runs/antithetic"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = collected(args.run, args.repeats)
    command = "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    args.out.write_text(page(found, args.resamples, command), encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
