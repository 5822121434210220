"""This package describes one denoising step as a Gaussian, and cuts a clip into segments.

`path` mixes signal and noise, `transition` is the Gaussian of a step, `segments` maps pixel
frames to latent frames and segments, and `schedule` says which steps draw noise and how much
each step and segment counts.
"""
