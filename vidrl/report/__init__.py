"""A run folder as a page: what the run wrote, charts, and the sections of the page."""
