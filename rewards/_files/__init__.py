"""A package for files: it reads and writes videos, frame times and tables, in safe processes."""
