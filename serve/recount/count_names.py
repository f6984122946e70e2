"""The names of counts in answers: ``3``, or where the last one is open ``8+``, which stands for 8 and more."""

from collections.abc import Iterable

OPEN = "+"


def name_of(count: int, names: Iterable[object]) -> str:
    """The name, of those in an answer, that a count belongs to; the count as text where there is none."""
    texts = (name for name in names if isinstance(name, str) and name.endswith(OPEN))
    return next((name for name in texts if count >= int(name.removesuffix(OPEN))), str(count))


def is_open(name: str) -> bool:
    """Whether a name also stands for all larger counts."""
    return name.endswith(OPEN)
