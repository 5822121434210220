"""Optical flow and what is read from it: the estimators, the camera's motion, the geometry
of two views."""
