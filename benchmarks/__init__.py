"""Benchmarks of temporal consistency: one file each, run over a folder of videos or over a
model."""

if __name__ != "vidrl.benchmarks":
    raise ImportError(
        f"imported as {__name__!r}, expected 'vidrl.benchmarks': write `from vidrl.benchmarks "
        "import ...` "
        "(a bare `benchmarks` would collide with other packages; vidrl/benchmarks links to "
        "this folder)"
    )
