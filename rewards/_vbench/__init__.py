"""VBench: its totals, result files, preparation of pictures, and networks."""
