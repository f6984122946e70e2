"""The counts that a model tells apart: ``1-5``, ``0-5``, ``1,3,5``, or ``1-8+``, where 8 stands for 8 and above."""

import re
from dataclasses import dataclass

from serve.errors import DataError
from serve.manifest import class_names


@dataclass(frozen=True)
class Counts:
    """The counts, ascending; with ``open_top`` the highest one stands for itself and all above."""

    values: tuple[int, ...] = (1, 2, 3, 4, 5)
    open_top: bool = False

    def count_of(self, quantity: int) -> int | None:
        """The count that stands for a recorded quantity, or None if there is none."""
        if self.open_top and quantity > self.values[-1]:
            return self.values[-1]
        return quantity if quantity in self.values else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the counts in answers and tables."""
        return class_names(self.values, self.open_top)

    def __str__(self) -> str:
        """The text that ``parse`` reads."""
        whole = range(self.values[0], self.values[-1] + 1)
        text = f"{whole[0]}-{whole[-1]}" if tuple(whole) == self.values else ",".join(map(str, self.values))
        return text + "+" * self.open_top


def all_counts(counts: Counts) -> Counts:
    """All counts from 0 up that a model learns if it learns from every photo: at least to 8, the last one open.

    Each of ``counts`` is one of them.
    """
    top = counts.values[-1]
    return Counts(tuple(range((top if counts.open_top else max(top + 1, 8)) + 1)), open_top=True)


def parse(text: str) -> Counts:
    """Read ``1-5``, ``0-8``, ``1,3,5`` or ``1-8+``. Raises DataError."""
    values: set[int] = set()
    closed = text.strip().removesuffix("+")
    for part in closed.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if not match:
            raise DataError(f"COUNTS is {text!r}; write a range such as 1-5 or 1-8+, or a list such as 1,3,5")
        values.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if len(values) < 2:
        raise DataError(f"COUNTS is {text!r}; give at least two different counts")
    return Counts(tuple(sorted(values)), open_top=closed != text.strip())
