"""Steering methods raise a reward at inference time, without training; one file a method."""
