"""Measure how long functions take while other functions that are measured run inside them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial, wraps
from typing import Any


class Clock:
    """A clock that measures the seconds of functions, without those of nested ones.

    `now` reads the time in seconds. The default reads the processor time of this process;
    `time.perf_counter` reads the wall time.

    Example:
        >>> readings = iter([0.0, 1.0, 3.0, 7.0, 15.0])
        >>> clock = Clock(lambda: next(readings))
        >>> clock.timed("outer", clock.timed("inner", lambda: None))()
        >>> dict(clock.seconds)
        {'outer': 10.0, 'inner': 4.0}
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.now = now or time.process_time
        self.seconds: Counter[str] = Counter()
        self.running: list[str] = []
        self.last = self.now()

    def _turn(self) -> None:
        """Add the time since the last change to the function that has been running."""
        now = self.now()
        if self.running:
            self.seconds[self.running[-1]] += now - self.last  # type: ignore[assignment]
        self.last = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added to `name`."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self.running.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self.running.pop()

        return run

    def pieces(self, pieces: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Return a generator function with the time of its steps added to "decode"."""

        def run(*args: Any, **kwargs: Any) -> Iterator[Any]:
            step = self.timed("decode", partial(next, pieces(*args, **kwargs), None))
            while (piece := step()) is not None:
                yield piece

        return run

    def read(self) -> dict[str, float]:
        """Return the seconds of every name up to this moment."""
        self._turn()
        return dict(self.seconds)

    def spent(self, names: Iterable[str]) -> float:
        """Return the seconds of these names together, up to this moment."""
        self._turn()
        return sum(self.seconds[name] for name in names)
