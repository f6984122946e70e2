"""Numbers from environment variables. Every bad value is collected, so that one error can list them all."""

from collections.abc import Mapping
from typing import TypeVar

from serve.errors import SettingsError

Number = TypeVar("Number", int, float)


class Numbers:
    """Reads numbers and collects what is wrong with them in ``problems``; ``check`` raises them together."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def __call__(self, name: str, default: Number, low: float, high: float) -> Number:
        """The value of ``name``, in the default's type; must be from ``low`` to ``high``.

        Returns the default where the variable is unset, empty or (after recording the problem) not usable.
        """
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
        """Raise SettingsError with all problems, if there are any."""
        if self.problems:
            raise SettingsError("; ".join(self.problems))
