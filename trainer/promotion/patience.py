"""How long something that fails again and again is left alone: twice as long each time."""

import time
from collections.abc import Callable

FIRST_WAIT_S, MAX_WAIT_S = 3.0, 600.0


class Patience:
    """The failures of things by their names. ``clock``: in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._next_s: dict[str, float] = {}

    def waits(self, name: str) -> bool:
        """Whether it is not the time yet to try it again."""
        return self._clock() < self._next_s.get(name, 0.0)

    def fail(self, name: str) -> float:
        """Note a failure; returns the seconds until the next attempt."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(failures - 1, 30), MAX_WAIT_S)
        self._next_s[name] = self._clock() + wait_s
        return wait_s

    def succeed(self, name: str) -> None:
        """Forget the failures."""
        self._failures.pop(name, None)
        self._next_s.pop(name, None)
