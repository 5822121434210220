"""What may be said of numbers of clips: intervals, tests and corrections, clustered by
prompt or video. NumPy only.

means          the one rule by which a mean, or a difference of two, gets its interval and
p; start here shares         proportions, as of wins and detections margins        whether a
difference is small enough: non-inferiority, equivalence families       several tests at
once: corrected p values, simultaneous intervals power          the least difference that so
many prompts can find, and how many prompts a difference needs components     variance
between prompts and between the seeds of a prompt effects        how large a difference is
confidence     the two calculations behind means and shares; resampling and limited draw for
them clusters       values in groups, the variance of their mean flips, exchange  exact
tests of symmetric differences, and of two sets that are alike in all but their names
student        Student's t
"""
