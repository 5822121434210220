"""Does the circle label, store, fit, train move a generator towards the raters' taste?

    python benchmarks/studies/people_train.py label --out runs/labels        # one store, and stop
    python benchmarks/studies/people_train.py run --out runs/people_train    # all runs; resumable
    python benchmarks/studies/people_train.py page --out runs/people_train   # the page of results

A simulated rater of known utility compares clips of the embedded model. A reward is fitted to the
answers, and the model is trained on the reward. The true utility of the clips of held-out prompts,
which the training never sees, says whether the model has come nearer to the rater's taste.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import _people_train_labels as labels
import _people_train_page as page
import _people_train_runs as runs
from _time_to_reward_ledger import add, read

PARTS = {
    "b": ("fitted", "true", "default", "permuted"),
    "c": ("few", "cautious"),
    "d": ("dpo", "kto"),
}
SEEDS = {"b": 6, "c": 3, "d": 6}


def missing(rows: Sequence[dict[str, object]], parts: str) -> Iterator[tuple[str, int]]:
    """Yield the runs that the ledger lacks, seed by seed."""
    done = {(row["arm"], row["seed"]) for row in rows}
    for seed in range(max(SEEDS[part] for part in parts)):
        for part in parts:
            arms = PARTS[part] if seed < SEEDS[part] else ()
            yield from ((arm, seed) for arm in arms if (arm, seed) not in done)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("label", "run", "page"))
    parser.add_argument("--out", type=Path, default=Path("runs/people_train"))
    parser.add_argument("--parts", default="bcd", help="which parts are run")
    parser.add_argument("--prompts", type=int, default=40, help="of the clips of `label`")
    parser.add_argument("--labels", type=int, default=300, help="answers of `label`")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/training"))
    parser.add_argument("--commit", default="unknown", help="what the page names as its commit")
    args = parser.parse_args()
    ledger = args.out / "ledger.jsonl"
    if args.stage == "label":
        size = labels.Size(args.prompts, labels=args.labels)
        print(f"wrote {labels.label(args.out, 0, size)}")
    elif args.stage == "run":
        while (job := next(missing(read(ledger), args.parts), None)) is not None:
            row = runs.run(*job, args.out, labels.Size(), {})
            add(ledger, row)
            true = row["measures"]["true"]
            print(f"{job[0]} {job[1]}: {true[0]:.2f} to {true[-1]:.2f}", flush=True)
    else:
        fits = list(labels.agreements(args.out))
        room = list(labels.spreads(args.out, labels.Size()))
        text, drawn = page.page(read(ledger), fits, room, args.commit)
        (args.results / "people_train.md").write_text(text, encoding="utf-8")
        (args.results / "people_train.svg").write_text(drawn, encoding="utf-8")
        shutil.copyfile(ledger, args.results / "people_train.jsonl")


if __name__ == "__main__":
    main()
