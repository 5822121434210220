"""Video files: readers, writers, frame times, tables of prompts, and workers that may
crash."""
