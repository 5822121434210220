"""Steering: rewards at inference time, without training; one file a method."""
