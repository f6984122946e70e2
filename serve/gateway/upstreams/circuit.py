"""When a failing server gets no more requests, and when it is tried again. Pure."""

from dataclasses import dataclass

MAX_FAILURES = 3
"""Failures in a row after which a server is taken out."""
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 10.0
"""How long it stays out at first, and at most: each failed trial doubles the time."""


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A server's failures in a row; once it is open, it is tried again at ``retry_at_s`` of a monotonic clock."""

    failures: int = 0
    retry_at_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the server is out."""
        return self.failures >= MAX_FAILURES

    def is_due(self, now_s: float) -> bool:
        """Whether a server that is out should be tried again."""
        return self.is_open and now_s >= self.retry_at_s

    def after_failure(self, now_s: float) -> "Circuit":
        """The circuit after one more failure. While the server is out, requests that it still had change nothing."""
        if self.is_open and not self.is_due(now_s):
            return self
        failures = self.failures + 1
        doublings = failures - MAX_FAILURES
        if doublings < 0:
            return Circuit(failures=failures)
        backoff_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(doublings, 10))
        return Circuit(failures=failures, retry_at_s=now_s + backoff_s)
