"""Hold the sentences of the page that the study time_to_reward writes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import _time_to_reward_ledger as ledger
from _time_to_reward_arms import PLAIN_ROUNDS
from _time_to_reward_run import PROMPTS, STEPS, TWINS

CHANGED = """
The study was changed while it ran, after some results had been seen. The level of +1.5 was
added, and rates were chosen by it, after the first runs of nft-5. Plain's rate is the
better of two on the seeds of the final runs themselves, which favours plain. Sweeps were
cut to a third of the budget and to one seed. The first runs, of plain's sweep and of
segment at 0.003, ended by earlier rules. One run of nft-5 (rate 0.003, seed 100) that an
earlier rule had ended after two rounds was run again. A rate at which a guard fails in the
first three final runs gives way to the next best of its sweep: the rule was added when
awm-1 had collapsed. The last twelve arms got five or six pairs, and then draft and chunks,
the best of them, got ten: these two were chosen after five pairs had been seen. Arms with
fewer than six pairs have no interval: what the tables say of them is a lead. Arms with "not
run" below have no runs. The machine was more than twice as fast for the last twelve arms,
so their plain CPU seconds flatter them: compare steady CPU seconds.
"""
MERIT = f"""
Merit of the sweep's runs, of one seed of its own: log(budget / time to a gain of
{ledger.HIGH:+.1f}) where they arrived, else the share of that gain that is missing, and 0.5
less for a broken guard. A sweep's run has a third of the budget. Plain's has all of it, and
its merit is its gain at the end; its best two rates both have final runs, and the one with
the greater mean gain counts, which flatters plain."""
MEAN = """
The last two columns are differences, first less second: of the gain after a quarter of the
budget, and of the gain averaged over the whole budget, where a run that ended early keeps
its last gain. The averaged gain was added after the first six pairs of segment and control
had been seen. Unlike a time to a level, it uses every look of every run, and neither
censoring nor guards touch it."""
FAR = """
Fast arms pass the target in one or two rounds, so this level tells them apart. Plain counts
at the budget where it does not arrive, so its ratios are lower bounds."""
HELD = """
At the first look at or after the arrival, whatever the guards say: means over seeds with 95
% intervals. A guard holds beyond doubt for an arm where the whole interval lies above the
guard's margin, which is 5 % of the base model's dynamic_degree, 3.5 % of its verifier, and
10 % of its identity and diversity. A run's verifier is the share of 64 clips that are read
as asked: three fewer break its guard. The mean over seeds says more. The table was added
when ten runs of plain and nine of nft-5 had been seen."""


def about(target: float, budgets: Mapping[str, float], usual: float) -> str:
    """Return the paragraphs that explain what the numbers of the page mean."""
    goal = f"""
    The target is a held-out composite {target:+.3f} above the base model's: the mean over
    its seeds of what plain Flow-GRPO reaches at the end of its budget, {PLAIN_ROUNDS}
    rounds of 24 clips, which take it {budgets["cpu"]:.0f} CPU seconds and
    {budgets["calls"]:.0f} denoiser calls. The composite is measured every one to four
    rounds on the same {PROMPTS} held-out prompts with the same noise ({STEPS} denoising
    steps); the verifier and identity are also of a second clip of {TWINS} of them. A run's
    time to the target is interpolated between two looks."""
    cut = f"""
    A run is cut, and counts at the budget, where it does not arrive within the budget, or
    where at or before its arrival a guard fails: dynamic_degree below 0.95 of the base
    model's value, the verifier below 0.965, identity or diversity below 0.9. Where an arm
    has runs that were cut, its true ratio is lower than the one shown; where plain has
    some, it is higher. The verifier reads {PROMPTS + TWINS} clips: two more that are read
    wrongly and its guard fails, which happens by chance. The last column gives the ratio
    without guards."""
    ratios = f"""
    Ratios are geometric means over pairs (one seed: the same prompts and first noise) of
    plain's use over the arm's, above 1 in the arm's favour, with 95 % intervals of
    `vidrl.inference.means.interval` on logarithms. CPU seconds are the process's own, of
    training alone, one thread, two runs side by side on a machine that others use. Steady
    CPU seconds are CPU seconds divided by how much longer than usual ({usual:.1f} s) the
    next look at the held-out prompts took, which is the same work each time. A denoiser
    call is one clip's forward pass, in sampling or in the update; a pass with gradient
    costs about three."""
    return "\n\n".join(paragraph(words) for words in (goal, cut, ratios))


def paragraph(words: str) -> str:
    """Wrap text in lines of at most 100 characters."""
    return textwrap.fill(
        " ".join(words.split()), 100, break_on_hyphens=False, break_long_words=False
    )
