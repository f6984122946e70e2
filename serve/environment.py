"""Numbers that the environment sets: each is read by itself, all that cannot be used are refused at once."""

from collections.abc import Mapping
from typing import TypeVar

from serve.errors import SettingsError

Number = TypeVar("Number", int, float)


class Numbers:
    """Reads numbers, and keeps what is wrong with them in ``problems`` until ``check``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def __call__(self, name: str, default: Number, low: float, high: float) -> Number:
        """What ``name`` sets, from ``low`` to ``high`` and of the default's type; the default where that is nothing,
        or cannot be used."""
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            value = type(default)(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            kind = "a whole number" if isinstance(default, int) else "a number"
            self.problems.append(f"{name} is {text!r}; give {kind} from {low:g} to {high:g}")
            return default
        return value

    def check(self) -> None:
        """Raises SettingsError with all problems, if there are any."""
        if self.problems:
            raise SettingsError("; ".join(self.problems))
