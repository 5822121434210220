"""Generators of images, video and 3D: each family that vidrl can train has one file."""
