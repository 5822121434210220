"""Modules that every reward is made of: samples, their checks, scores, curves, parts."""
