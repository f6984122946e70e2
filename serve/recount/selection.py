"""The longest list of which at most a given share is expected to be right: Benjamini and Hochberg on p-values.

Y. Jin and E. Candès, "Selection by prediction with conformal p-values", JMLR 2023, show that the bound holds for
conformal p-values although they share their calibration photos: they are positively dependent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from serve.errors import SettingsError

ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The bins to recount: ``rows`` of those judged; ``reason``: why there are none, empty if there are."""

    rows: tuple[int, ...]
    fdr: float
    reason: str = ""


def select(p_values: Sequence[float], calibration_photos: Sequence[int], fdr: float) -> Selection:
    """The most bins so that the expected share of right records among them is at most ``fdr`` (0-1, both excluded).

    ``p_values``: of the recorded counts of all bins that were judged; ``calibration_photos``: of each, how many it was
    ranked among. Raises SettingsError.
    """
    if not 0 < fdr < 1:
        raise SettingsError(f"fdr is {fdr:g}; give the share of right records that is allowed, above 0 and below 1")
    number = len(p_values)
    order = sorted(range(number), key=lambda row: p_values[row])
    last = max(
        (place for place, row in enumerate(order, 1) if p_values[row] <= fdr * place / number + ROUNDING), default=0
    )
    reason = "" if last else _why_none(p_values, calibration_photos, fdr)
    return Selection(rows=tuple(order[:last]), fdr=fdr, reason=reason)


def _why_none(p_values: Sequence[float], calibration_photos: Sequence[int], fdr: float) -> str:
    number, photos = len(p_values), max(calibration_photos, default=0)
    if not number:
        return "no bin was judged"
    lowest = 1 / (1 + photos)
    needed = ceil(number * lowest / fdr - ROUNDING)
    there = sum(p_value <= lowest + ROUNDING for p_value in p_values)
    return (
        f"no p-value is below {lowest:.4f}, with {photos} calibration photos; {needed} of {number} bins would have to "
        f"be as low as that, and {there} are; check fewer bins at a time, allow a larger share, or use --budget"
    )
