"""Compute distances between sets of clips, one file each; suites, studies and results beside."""

if __name__ != "vidrl.benchmarks":
    raise ImportError(
        f"imported as {__name__!r}, expected 'vidrl.benchmarks': write `from vidrl.benchmarks "
        "import ...` "
        "(a bare `benchmarks` would collide with other packages; vidrl/benchmarks links to "
        "this folder)"
    )
