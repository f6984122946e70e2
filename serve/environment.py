"""Settings from environment variables. Every bad value is collected, so that one error can list them all."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from serve.errors import SettingsError

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")
SWITCH = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}
"""The words of a switch; those that pydantic takes, too."""


class Variables:
    """Reads variables and collects what is wrong with them in ``problems``; ``check`` raises them together.

    Each method returns the default where the variable is unset, empty or (after recording the problem) not usable.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def number(self, name: str, default: Number, low: float, high: float) -> Number:
        """The value of ``name``, in the default's type; must be from ``low`` to ``high``."""
        kind = "a whole number" if isinstance(default, int) else "a number"
        advice = f"give {kind} from {low:g} to {high:g}"

        def parse(text: str) -> Number:
            value = type(default)(text)
            if not low <= value <= high:
                raise ValueError(advice)
            return value

        return self.parsed(name, default, parse, advice)

    def switch(self, name: str, default: bool) -> bool:
        """Whether ``name`` is on."""
        return self.parsed(name, default, lambda text: SWITCH[text.lower()], "give 1 or 0")

    def parsed(self, name: str, default: Value, parse: Callable[[str], Value], advice: str = "") -> Value:
        """What ``parse`` makes of the text of ``name``; it raises ValueError, with the advice unless that is given."""
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            self.problems.append(f"{name} is {text!r}; {advice or error}")
            return default

    def check(self) -> None:
        """Raise SettingsError with all problems, if there are any."""
        if self.problems:
            raise SettingsError("; ".join(self.problems))


def web_address(text: str) -> str:
    """An http:// or https:// address, as it is. Raises ValueError."""
    try:
        address = urlsplit(text)
        usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in text):
        raise ValueError("give an address that starts with http:// or https://")
    return text


def server_address(text: str) -> str:
    """An http:// or https:// address, or ``unix:/PATH``, a socket; without a slash at its end. Raises ValueError."""
    if re.fullmatch(r"unix:/[^\0]+", text):
        return text
    try:
        return web_address(text).rstrip("/")
    except ValueError as error:
        raise ValueError(f"{error}, or unix:/PATH of a socket") from error


def folder_or_bucket(text: str) -> str:
    """A folder, or an address s3://bucket/prefix, as it is. Raises ValueError."""
    if re.match(r"[A-Za-z][\w+.-]+:/", text) and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/.*)?", text):
        raise ValueError("give a folder, or s3://bucket/prefix")
    return text
