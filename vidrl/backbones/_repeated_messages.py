"""Show each message of diffusers once, while its pipelines run for every prediction.

A pipeline logs what a user should know of a call. vidrl calls it for each prediction, so that a
round would show one message hundreds of times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class ShownOnce(logging.Filter):
    """A filter that lets a message pass the first time it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = dict[tuple[str, str], logging.LogRecord]()  # the first record of a message

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is the first one of its message; each handler asks."""
        return self.shown.setdefault((record.name, record.getMessage()), record) is record

    @contextmanager
    def of(self, library: str) -> Iterator[None]:
        """Filter what the handlers of a library's logger show within this context."""
        handlers = list(logging.getLogger(library).handlers)
        for handler in handlers:
            handler.addFilter(self)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(self)
