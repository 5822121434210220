"""Synthetic clips whose truth is known, a verifier that reads the truth back, and
corruptions that spoil clips."""
