"""The list of bins to recount: ranked, with what to expect of it, and as a CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from serve.bin_check.checked_bin import CheckedBin
from serve.errors import DataError
from serve.files import write_text
from serve.recount.base_rate import BaseRate
from serve.recount.budget import Expectation
from serve.recount.ranking import rank
from serve.recount.selection import Selection
from serve.verdict import VerdictKind

ONE_IN = 20.0
COLUMNS = (
    *("rank", "bin_id", "photo", "recorded", "seen", "p_value", "probability_wrong", "verdict", "evidence", "reason"),
    "chosen",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the list is to say. ``budget``: bins that somebody can recount; ``fdr``: the share of right records that is
    allowed in the chosen list (0-1); ``one_in``: when a recount is no longer worthwhile."""

    budget: int | None = None
    fdr: float | None = None
    one_in: float = ONE_IN

    def check(self) -> None:
        """Raises SettingsError for values out of range, before anybody waits for a long check."""
        empty = rank(())
        empty.worthwhile(self.one_in)
        if self.budget is not None:
            empty.budget(self.budget)
        if self.fdr is not None:
            empty.select(self.fdr)


@dataclass(frozen=True)
class Entry:
    """A bin in the list; ``probability_wrong``: None where nothing can be said of its record; ``chosen``: whether it
    is in the list of --fdr, or without that within the budget."""

    rank: int
    item: CheckedBin
    probability_wrong: float | None
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class RecountList:
    """The list. ``entries``: all bins that were answered, best first, those of which nothing can be said last;
    ``problems``: bins that could not be checked; ``worthwhile``: bins before the next finds fewer than one wrong record
    in ``one_in``; ``base_rate``: of wrong records, from ``recounts`` recounts and a prior."""

    entries: tuple[Entry, ...]
    problems: tuple[CheckedBin, ...]
    unknown: int
    expectation: Expectation | None
    selection: Selection | None
    worthwhile: int
    one_in: float
    rate: float
    recounts: int

    @property
    def alarms(self) -> int:
        """The number of mismatches."""
        return sum(entry.item.verdict == VerdictKind.MISMATCH for entry in self.entries)

    def to_json(self) -> dict[str, object]:
        """The summary for programs."""
        selection = self.selection and {
            "fdr": self.selection.fdr,
            "bins": len(self.selection.rows),
            "reason": self.selection.reason or None,
        }
        return {
            "checked": len(self.entries),
            "problems": len(self.problems),
            "not_judged": self.unknown,
            "alarms": self.alarms,
            "base_rate": round(self.rate, 4),
            "recounts": self.recounts,
            "budget": self.expectation and asdict(self.expectation),
            "worthwhile": {"bins": self.worthwhile, "one_in": self.one_in},
            "fdr": selection,
        }

    def text(self) -> str:
        """The summary in sentences."""
        parts = [
            f"{len(self.entries)} bins checked: {self.alarms} alarms; {self.unknown} without a judgement; "
            f"{len(self.problems)} could not be checked"
        ]
        if expectation := self.expectation:
            low, high = expectation.interval
            parts.append(
                f"the first {expectation.bins} are expected to hold {expectation.wrong:.1f} wrong records (90 %: "
                f"{low}-{high})"
            )
        parts.append(f"after {self.worthwhile} bins the next finds fewer than one wrong record in {self.one_in:g}")
        if self.selection and self.selection.reason:
            parts.append(f"no list of which at most {self.selection.fdr:.0%} are right: {self.selection.reason}")
        elif self.selection:
            parts.append(
                f"the longest list of which at most {self.selection.fdr:.0%} are expected to be right has "
                f"{len(self.selection.rows)} bins, marked as chosen"
            )
        source = f"{self.recounts} recounts and a prior" if self.recounts else "a prior, as there are no recounts yet"
        parts.append(f"base rate of wrong records: {self.rate:.1%}, from {source}")
        return "\n".join(parts)


def make_list(bins: Iterable[CheckedBin], order: Sequence[str], rate: BaseRate, wishes: Wishes) -> RecountList:
    """Rank bins; ``order``: the ids of all bins, so that the list does not depend on who was answered first.

    Raises DataError where no bin was answered, SettingsError for wishes out of range.
    """
    places = {bin_id: place for place, bin_id in enumerate(order)}
    checked = sorted((item for item in bins if item.bin_id in places), key=lambda item: places[item.bin_id])
    answered = [item for item in checked if not item.problem]
    problems = tuple(item for item in checked if item.problem)
    if not answered:
        example = f"; the first one, {problems[0].bin_id}: {problems[0].problem}" if problems else ""
        raise DataError(f"none of {len(places)} bins could be checked{example}")
    judged = [(item, judged) for item in answered if (judged := item.judged) is not None]
    ranking = rank([what for _, what in judged], rate)
    expectation = ranking.budget(wishes.budget) if wishes.budget is not None else None
    selection = ranking.select(wishes.fdr) if wishes.fdr is not None else None
    first = ranking.order[: wishes.budget or 0].tolist()
    chosen = set(selection.rows if selection else first)
    entries = [
        Entry(number, judged[row][0], float(ranking.probabilities[row]), row in chosen)
        for number, row in enumerate(ranking.order.tolist(), 1)
    ]
    rest = [item for item in answered if item.judged is None]
    entries += [Entry(len(judged) + number, item, None, False) for number, item in enumerate(rest, 1)]
    return RecountList(
        entries=tuple(entries),
        problems=problems,
        unknown=len(rest),
        expectation=expectation,
        selection=selection,
        worthwhile=ranking.worthwhile(wishes.one_in),
        one_in=wishes.one_in,
        rate=rate.mean,
        recounts=rate.recounts,
    )


def write_list(recount_list: RecountList, folder: Path) -> Path:
    """Write ``recount.csv`` and ``problems.csv``; returns the first."""
    problems = [(item.bin_id, item.photo, item.problem) for item in recount_list.problems]
    write_text(folder / "problems.csv", _table(("bin_id", "photo", "problem"), problems))
    return write_text(folder / "recount.csv", _table(COLUMNS, map(_row, recount_list.entries)))


def _row(entry: Entry) -> Sequence[object]:
    item = entry.item
    return (
        entry.rank,
        item.bin_id,
        item.photo,
        item.recorded,
        item.seen,
        "" if item.p_value is None else f"{item.p_value:.4f}",
        "" if entry.probability_wrong is None else f"{entry.probability_wrong:.4f}",
        item.verdict,
        item.evidence,
        item.reason,
        "yes" if entry.chosen else "",
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_defused(cell) for cell in row] for row in rows)
    return out.getvalue()


def _defused(cell: object) -> object:
    """A cell that no spreadsheet computes: what would be a formula begins with an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
