"""Compute intervals, tests and corrections for scores of clips, clustered by prompt or video.

Clips of one prompt resemble each other, so the prompt (or video) is the unit of every
statistic here, never the clip. Needs NumPy and SciPy.

Which module answers which question:

means        What is the mean, or the difference of two sets, with its interval and p value?
             One rule answers for all of vidrl; start here.
proportions  What is the rate of wins, detections or agreements, with its interval?
margins      Is a difference small enough (non-inferiority, equivalence)?
families     Several tests at once: Holm's corrected p values, simultaneous intervals.
power        Which difference can so many prompts detect; how many prompts are needed?
components   How much variance lies between prompts, how much between seeds of one prompt?
effects      How large is a difference in units of the standard deviation (Hedges' g)?
flips        Exact test of paired differences that assumes symmetry, not normality.
exchange     Exact test of two unpaired sets that assumes equal distributions under the null.

Calculations behind `means` and `proportions`:

clusters     sums and counts of the values of each group, and the variance of their mean
confidence   the two methods: Student's ratio, and bounds from the known range of the values
resampling   the bootstrap that draws whole groups, for Student's ratio
bounded      bounds of a mean whose values have a known range (Gaffke)
student      Student's t distribution
"""
