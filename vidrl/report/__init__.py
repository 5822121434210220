"""Turns a run folder into one HTML page: run_folder reads, page prepares, templates draw."""
