"""Measure any folder of videos, or any model, on the dims of a suite.

The result has means with intervals, paired differences between sets, and an HTML page.
`vidrl bench videos/` is the command; from Python:

>>> import tempfile, torch
>>> from pathlib import Path
>>> from vidrl.bench import items, measure, results, suite
>>> from vidrl.rewards import video
>>> folder = Path(tempfile.mkdtemp())
>>> for i in range(2):
...     _ = video.write(folder / f"{i}.mp4", torch.rand(5, 3, 32, 32), fps=8.0)
>>> chosen = suite.load("temporal").only(["flicker", "frame_quality"])
>>> rows = measure.run(items.find([folder]).items, chosen, cache=folder / "cache")
>>> found = results.assemble([results.measured_set("noise", str(folder), rows)], chosen)
>>> found["summary"]["noise"]["flicker"]["n"], found["summary"]["noise"]["flicker"]["enough"]
(2, False)
"""
