"""Do antithetic pairs reduce the noise of the policy gradient?

    python benchmarks/studies/antithetic.py

In an antithetic pair a clip's partner has minus its noise at every step. The question is
how many clips with independent noise one clip of such a pair is worth.

Design: for each prompt and first noise, two groups of eight clips with independent noise,
and two groups of four pairs. A clip's baseline is the mean of the others of its group, in
pairs the mean of the other pairs, so that neither baseline has a bias and both gradients
have one expectation m. V = E|g|² − <g, g'> of two groups is the noise of a group's
gradient; V of independent noise over V of pairs is the worth of a paired clip. Gradients
are sketched as in gradient_snr.py; model, steps and prompts come from there too. Intervals
are a bootstrap over prompts.

Output: benchmarks/results/credit/antithetic.md. The folder --run keeps one file for each
prompt and repeat, so that a run that was stopped continues.

Legend: B first noises, M clips of a group, K steps, L latent frames, P parts, F frames, D
numbers of a sketch, T targets (steps, and their sums), R resamples.
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
    """Return the noise of two independent groups, then of two groups of pairs.

    The result is (4 M, 1 + steps, ...); all clips have one first noise.
    """
    noise = bench.noise("antithetic", number, 4 * snr.GROUP).clone()
    # the first noise (index 0) is shared by all clips; only the noise of the steps is mirrored
    paired = slice(2 * snr.GROUP, None)
    noise[paired, 1:] = estimators.antithetic(noise[paired, 1:])
    return noise


def gradients(curves: Tensor, sketch: Tensor, data: snr.Data, weights: Tensor) -> Tensor:
    """Return the gradients (kinds, ways, K, 2 groups, D) of one first noise.

    `curves` is (4 M, P, F), and `sketch` holds the scores (4 M, K, L, D).
    """
    value, L = torch.einsum("p,npf->n", weights, curves) / curves.shape[2], sketch.shape[2]
    local = snr.local(curves, weights, data, "sum", data.spans)
    group, gradients_ = torch.zeros(snr.GROUP, dtype=torch.long), []
    for scores in (value[:, None].expand(-1, L), local):
        groups = zip(scores.split(snr.GROUP), sketch.split(snr.GROUP), strict=True)
        for g, (credit, sketched) in enumerate(groups):
            # the first two groups have independent noise, the last two are pairs
            baseline = estimators.leave_one_out if g < 2 else estimators.leave_pair_out
            advantage = baseline(credit, group)
            gradients_.append(torch.einsum("ml,mkld->kd", advantage, sketched) / (snr.GROUP * L))
    return torch.stack(gradients_).unflatten(0, (len(WAYS), len(KINDS), 2)).permute(1, 0, 3, 2, 4)


@torch.no_grad()
def collected(run: Path, repeats: int) -> Tensor:
    """Return the gradients of all first noises, and compute the missing ones.

    The result is (B, kinds, ways, K, 2, D).
    """
    bench = snr.Bench.demo()
    sketcher, start = snr.Sketcher(bench.policy), time.monotonic()
    names = list(bench.reward.parts)
    weights = torch.tensor([bench.reward.weights[n] / bench.reward.scales[n][1] for n in names])
    spans = snr.frame_spans(bench.policy.backbone.frame_map, bench.policy.backbone.shape[1])
    data = snr.Data(
        torch.zeros(0), {}, spans, names, [str(bench.reward.parts[n].time_support) for n in names]
    )
    run.mkdir(parents=True, exist_ok=True)
    collected_ = []
    for number in range(repeats * snr.PROMPTS):
        file = run / f"{number:04d}.npy"
        if not file.exists():
            computed = _one(bench, sketcher, number, data, weights).numpy()
            with atomic_file.new_file(file) as out:
                np.save(out, computed)
            print(f"{number}: {time.monotonic() - start:.0f} s", flush=True)
        collected_.append(torch.from_numpy(np.load(file, allow_pickle=False)))
    return torch.stack(collected_)


def _one(
    bench: snr.Bench, sketcher: snr.Sketcher, number: int, data: snr.Data, weights: Tensor
) -> Tensor:
    """Compute the gradients of one first noise."""
    prompt = bench.prompts[number % snr.PROMPTS]
    noise = noises(bench, number)
    cond = bench.policy.backbone.encode([prompt] * len(noise))
    states = bench.rollout(noise, cond)
    found = [
        sketcher(bench.policy, bench.plan, states[k], states[k + 1], k, cond) for k in snr.STEPS
    ]
    curves = bench.curves(states[-1], prompt)[:, :-1]  # the last curve is the composite's
    return gradients(curves, torch.stack(found, 1), data, weights)


def noise_of(found: Tensor, mixes: Tensor) -> Tensor:
    """Return the noise V (B, kinds, ways, T) of gradients, mixed over steps.

    `found` is (B, kinds, ways, K, 2, D), `mixes` is (T, K). The dot product of two
    independent groups estimates |m|² without bias, so that V = mean |g|² − <g, g'>.
    """
    mixed = torch.einsum("tk,...kgd->...tgd", mixes, found)
    first, second = mixed.unbind(-2)
    return (mixed.square().sum(-1).mean(-1) - (first * second).sum(-1)).float()


def worth(noise: Tensor, times: int) -> Tensor:
    """Return V of independent noise over V of pairs, (1 + R, ways, T).

    Row 0 is the sample itself, the other rows are resamples.
    """
    drawn = snr.resampled(len(noise), snr.PROMPTS, times)
    total = torch.einsum("rb,bkwt->rkwt", drawn, noise)
    return total[:, 0] / total[:, 1]


def page(found: Tensor, times: int, command: str) -> str:
    """Return the page as Markdown."""
    bench = snr.Bench.demo()
    plan, count = bench.plan, len(snr.STEPS)
    level = step_weights(
        bench.policy.backbone.path, plan.sampler, plan.times, snr.STEPS, plan.eta, "rectified"
    ).float()
    mixes = torch.cat([torch.eye(count), torch.ones(1, count) / count, level[None] / count])
    ratio = worth(noise_of(found, mixes), times)
    rows = [
        [snr._shown(snr.interval(ratio[:, w, t])) for t in range(len(mixes))]
        for w in range(len(WAYS))
    ]
    return "\n".join(
        [
            "# Antithetic pairs",
            "",
            f"`{command}`  ",
            f"Python {platform.python_version()}, torch {torch.__version__}, CPU, one thread",
            "",
            f"{len(found)} first noises over {snr.PROMPTS} prompts, "
            "each with two groups of 8 clips of free noise and two",
            "of four mirrored pairs; composite. "
            "How many free clips a paired one is worth, by the noise of a group's",
            "gradient; 95 % intervals. One half is the least: "
            "of what is odd in the noise a pair says the same twice.",
            "",
            f"| credit | {' | '.join(snr.TARGETS)} |",
            "|---" * (len(mixes) + 1) + "|",
            *(f"| {name} | {' | '.join(row)} |" for name, row in zip(WAYS, rows, strict=True)),
            "",
        ]
    )


def main() -> None:
    """Collect the gradients, analyse them and write the page."""
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
