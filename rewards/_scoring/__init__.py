"""What every reward is made of: samples, scores, their checks, pieces of long clips,
composites' parts."""
