"""What may be said of numbers of clips: intervals, tests and corrections, clustered by prompt or video. NumPy only.

clusters        values in groups, the variance of their mean
means, shares   a mean or a proportion with its interval; resampling draws whole groups for it
flips, exchange tests of paired differences, and of two unpaired sets
families        several tests at once
effects         how large a difference is
student         Student's t
"""
