"""A results.json made up for tests: the layout of the real one, its numbers by arithmetic
of this file alone."""

import hashlib
import math

import numpy as np

DIMS = ("flicker", "warp_error", "motion_consistency", "vbench_dynamic_degree")
NAUGHTY = [
    "<script>window.broken=1</script>",
    '"><img src=x onerror="window.broken=1">',
    "${window.broken=1} `$(touch x)`; rm -rf ~",
    "]]></script><script>window.broken=1</script>",
    '=HYPERLINK("http://evil.example","x")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "кот 猫 🐈 \u202eesrever\u2028line",
    "a_b & 50% of $x \\ {y} ~^#",
    "' onload='window.broken=1",
    "javascript:window.broken=1",
]


def dim(name, **more):
    return {
        "name": name,
        "reward": name,
        "options": {},
        "profile": "vbench" if name.startswith("vbench") else "vidrl",
        "version": "1",
        "hash": "ab12cd34ef56",
        "range": [None, 0.0],
        "about": f"What {name} sees.",
        "blind": "All else.",
        "trained": False,
        **more,
    }


def made(
    names=("base", "ours"),
    count=24,
    dims=DIMS,
    prompts=None,
    shift=0.03,
    frames=9,
    trained=(),
    seed=0,
):
    """Sets of `count` clips whose values rise by `shift` from set to set, with a curve of
    `frames` each."""
    draw = np.random.default_rng(seed)
    prompts = prompts or [f"prompt {i // 2}" for i in range(count)]
    level = draw.normal(-0.3, 0.05, (count, len(dims)))
    sets = [
        {
            "name": name,
            "source": f"videos_{name}",
            "model": None,
            "skipped": [],
            "clips": [
                clip(
                    f"videos_{name}/{i}.mp4",
                    prompts[i % len(prompts)],
                    i,
                    level[i] + shift * at + draw.normal(0, 0.01, len(dims)),
                    dims,
                    frames,
                    draw,
                )
                for i in range(count)
            ],
        }
        for at, name in enumerate(names)
    ]
    return finish(
        {
            "format": 1,
            "made": "2026-11-26T12:00:00Z",
            "command": f"vidrl bench {' '.join(names)}",
            "suite": {"name": "temporal", "version": "1", "about": "Any videos.", "least": 20},
            "protocol": {
                "fps": 0,
                "side": 0,
                "frames": 0,
                "decoder": "decord 0.6.0",
                "hash": "3f2a3f2a3f2a",
            },
            "versions": {"vidrl": "0.1.0", "torch": "2.6"},
            "dims": [dim(one, trained=one in trained) for one in dims],
            "sets": sets,
            "distances": [],
            "totals": {},
            "notes": [],
        }
    )


def clip(path, prompt, seed, values, dims, frames, draw):
    curve = {
        name: [float(v) for v in value + draw.normal(0, 0.02, frames)]
        for name, value in zip(dims, values)
    }
    return {
        "path": path,
        "id": hashlib.sha256(path.encode()).hexdigest()[:16],
        "prompt": prompt,
        "seed": seed,
        "reference": None,
        "meta": {},
        "fps": 8.0,
        "size": [64, 48],
        "frames": frames,
        "value": dict(zip(dims, map(float, values))),
        "curve": curve,
        "why": {},
    }


def finish(results):
    """Summary and comparisons, from the clips as they are now."""
    least = results["suite"]["least"]
    results["summary"] = {
        one["name"]: {d["name"]: summary(one, d["name"], least) for d in results["dims"]}
        for one in results["sets"]
    }
    results["comparisons"] = []
    for second in results["sets"][1:]:
        rows = [comparison(results["sets"][0], second, d["name"]) for d in results["dims"]]
        holm(rows)
        results["comparisons"] += rows
    return results


def spread(values):
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    return mean, std, 1.96 * std / math.sqrt(len(values))


def summary(one, name, least):
    values = [c["value"][name] for c in one["clips"] if c["value"][name] is not None]
    lost = len(one["clips"]) - len(values)
    if not values:
        return {
            "mean": None,
            "low": None,
            "high": None,
            "n": 0,
            "prompts": 0,
            "unscored": lost,
            "std": None,
            "within_prompt_std": None,
            "enough": False,
            "saturated": False,
            "notes": [],
        }
    mean, std, half = spread(values)
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "n": len(values),
        "unscored": lost,
        "std": std,
        "prompts": len({c["prompt"] for c in one["clips"]}),
        "within_prompt_std": std / 2,
        "enough": len(values) >= least,
        "saturated": False,
        "notes": [],
    }


def comparison(first, second, name):
    pairs = [(a["value"][name], b["value"][name]) for a, b in zip(first["clips"], second["clips"])]
    gaps = [b - a for a, b in pairs if a is not None and b is not None]
    row = {
        "first": first["name"],
        "second": second["name"],
        "dim": name,
        "paired_by": "prompt and seed",
        "notes": [],
        "n": len(gaps),
        "prompts": len({c["prompt"] for c in first["clips"]}),
        "wins": sum(g > 0 for g in gaps),
        "ties": sum(g == 0 for g in gaps),
        "losses": sum(g < 0 for g in gaps),
    }
    if not gaps:
        return row | dict.fromkeys(("difference", "low", "high", "p", "p_holm", "effect"))
    mean, std, half = spread(gaps)
    p = math.erfc(abs(mean) / (half / 1.96 or 1e-12) / math.sqrt(2))
    return row | {
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
        "p": p,
        "effect": mean / (std or 1),
    }


def holm(rows):
    ranked = sorted((r for r in rows if r.get("p") is not None), key=lambda r: r["p"])
    most = 0.0
    for i, row in enumerate(ranked):
        most = max(most, min(1.0, row["p"] * (len(ranked) - i)))
        row["p_holm"] = most
