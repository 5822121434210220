"""A package that computes VBench's dimensions: preparation, networks, totals and result files."""
