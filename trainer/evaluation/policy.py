"""What the gate asks for: a rule for accuracy, and guards that each can be switched off.

    --policy significant     BINWATCH_GATE_POLICY     greater, and more than luck (the default)
    --policy greater                                  the condition of the report that binwatch starts from

and one option and variable for each number of ``Policy``; ``off`` switches a guard off.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from serve.errors import SettingsError

GREATER, SIGNIFICANT = "greater", "significant"
OFF = "off"
UNDEPLOYED_ACCURACY = 0.1
"""What a first challenger is compared with: the accuracy that counts as deployed when nothing is."""


@dataclass(frozen=True)
class GatePolicy:
    """``level``: the share of equally good challengers that luck may promote; ``min_effect``: the least gain in
    accuracy, 0-1: half a point, which is what the int8 form of a model may lose (``trainer/quantise.py``), so that no
    swap is made for less than is given away there.

    Guards, None where off: the most that may get worse against the champion, where luck is no explanation.
    ``max_class_loss``: accuracy and F1 of one count, 0-1; ``max_calibration_rise``: calibration error, 0-1;
    ``max_rmse_rise``: objects; ``max_false_alarm_rise``: right records that raise the alarm at ``alpha``, 0-1, above
    the champion's share or above ``alpha``, whichever is more; ``max_latency_factor``: times the champion's;
    ``max_archive_mb``: 10^6 bytes. ``guard_level``: how often luck alone may trip a guard.
    """

    rule: str = SIGNIFICANT
    level: float = 0.05
    min_effect: float = 0.005
    guard_level: float = 0.01
    max_class_loss: float | None = 0.1
    max_calibration_rise: float | None = 0.05
    max_rmse_rise: float | None = 0.05
    max_false_alarm_rise: float | None = 0.05
    max_latency_factor: float | None = 3.0
    max_archive_mb: float | None = 1500.0
    alpha: float = 0.05

    def without_guards(self) -> "GatePolicy":
        """The rule for accuracy alone."""
        return replace(self, **dict.fromkeys(GUARDS))  # type: ignore[arg-type]


GUARDS = tuple(each.name for each in fields(GatePolicy) if each.name.startswith("max_"))
DEFAULT = GatePolicy()
RANGES = {
    "level": (1e-6, 0.49, "the share of equally good challengers that luck may promote"),
    "min_effect": (0.0, 1.0, "the least gain in accuracy, 0-1"),
    "guard_level": (0.001, 0.49, "how often luck alone may trip a guard"),
    "max_class_loss": (0.0, 1.0, "accuracy and F1 that one count may lose, 0-1"),
    "max_calibration_rise": (0.0, 1.0, "by how much the calibration error may rise, 0-1"),
    "max_rmse_rise": (0.0, 1e3, "by how many objects the RMSE may rise"),
    "max_false_alarm_rise": (0.0, 1.0, "by how much the false alarms may rise, 0-1"),
    "max_latency_factor": (1.0, 1e3, "times the champion's milliseconds a photo"),
    "max_archive_mb": (1.0, 1e5, "size of an archive in 10^6 bytes"),
    "alpha": (0.0, 1.0, "the share of right records that may raise the alarm"),
}
"""Smallest and largest value of each number, and what it is."""


def variable(name: str) -> str:
    """The environment variable of a number; ``alpha`` is the server's."""
    return "BINWATCH_ALPHA" if name == "alpha" else f"BINWATCH_GATE_{name.upper()}"


def add_options(to: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ) -> None:
    """--policy and one option for each number; the environment gives the defaults."""
    to.add_argument(
        "--policy",
        default=environ.get("BINWATCH_GATE_POLICY") or DEFAULT.rule,
        metavar=f"{GREATER}|{SIGNIFICANT}",
        help="what makes a challenger better",
    )
    for name, (_, _, about) in RANGES.items():
        default = environ.get(variable(name)) or str(getattr(DEFAULT, name))
        about += f"; {OFF}: no such guard" if name in GUARDS else ""
        to.add_argument(f"--{name.replace('_', '-')}", default=default, metavar="X", help=about)


def from_options(options: Mapping[str, Any]) -> GatePolicy:
    """The policy that ``options``, by the names of Policy's numbers and ``policy``, describe.

    Raises SettingsError with all problems.
    """
    problems: list[str] = []
    rule = str(options.get("policy") or DEFAULT.rule)
    if rule not in (GREATER, SIGNIFICANT):
        problems.append(f"policy is {rule!r}; choose {GREATER} or {SIGNIFICANT}")
    numbers = {name: _number(name, options.get(name), problems) for name in RANGES}
    if problems:
        raise SettingsError("; ".join(problems))
    return GatePolicy(rule, **numbers)  # type: ignore[arg-type]


def from_dict(found: Mapping[str, Any]) -> GatePolicy:
    """Read back what ``asdict`` gave."""
    return GatePolicy(**{name: found[name] for name in asdict(DEFAULT)})


def _number(name: str, text: Any, problems: list[str]) -> float | None:
    if text is None or text == "":
        return getattr(DEFAULT, name)  # type: ignore[no-any-return]
    low, high, about = RANGES[name]
    if name in GUARDS and str(text).lower() == OFF:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        off = f", or {OFF}" if name in GUARDS else ""
        problems.append(f"{name} ({about}) is {text!r}; give a number from {low:g} to {high:g}{off}")
    return value
