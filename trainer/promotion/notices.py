"""Warnings that are logged once: a loop that meets the same problem every few seconds says it when it changes."""

import logging

log = logging.getLogger(__name__)


class Notices:
    """The last warning about each topic."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def warn(self, topic: str, text: str) -> None:
        """Log a warning, unless it is the last one about ``topic``."""
        if self._texts.get(topic) != text:
            log.warning("%s", text)
        self._texts[topic] = text

    def clear(self, topic: str) -> None:
        """The problem is over: the next warning about ``topic`` is logged, whatever it is."""
        self._texts.pop(topic, None)
