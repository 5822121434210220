"""Prompts and clips: read, check and prepare the files that a run learns from."""
