"""Generators of images, video and 3D, one file a family."""
