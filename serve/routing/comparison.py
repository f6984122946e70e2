"""How a challenger's answers compare with the champion's, on photos that both have answered. All counts are since the
trial began, for one gateway; ``Comparison.plus`` sums them over gateways."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, TypeAdapter

BUCKETS_MS = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)
"""Upper bounds of the latencies' histogram; a last bucket holds what took longer."""
_SIZE = Field(min_length=len(BUCKETS_MS) + 1, max_length=len(BUCKETS_MS) + 1)


@dataclass(frozen=True, kw_only=True)
class VersionTraffic:
    """The requests that one version got. ``latencies``: how many fell into each bucket of BUCKETS_MS and above."""

    answered: int = 0
    failed: int = 0
    latencies: Annotated[tuple[int, ...], _SIZE] = (0,) * (len(BUCKETS_MS) + 1)

    def plus(self, traffic: "VersionTraffic") -> "VersionTraffic":
        """Both together."""
        return VersionTraffic(
            answered=self.answered + traffic.answered,
            failed=self.failed + traffic.failed,
            latencies=tuple(a + b for a, b in zip(self.latencies, traffic.latencies, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``counts``: photos by "champion's count>challenger's count"; ``verdicts``: the same for verdicts."""

    trial: str
    champion: VersionTraffic = VersionTraffic()
    challenger: VersionTraffic = VersionTraffic()
    counts: Mapping[str, int] = field(default_factory=Counter)
    verdicts: Mapping[str, int] = field(default_factory=Counter)

    def plus(self, comparison: "Comparison") -> "Comparison":
        """Both together; ``comparison`` is about the same trial."""
        return Comparison(
            trial=self.trial,
            champion=self.champion.plus(comparison.champion),
            challenger=self.challenger.plus(comparison.challenger),
            counts=Counter(self.counts) + Counter(comparison.counts),
            verdicts=Counter(self.verdicts) + Counter(comparison.verdicts),
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a gateway tells the promoter. ``gateway``: a name that is new for each start of a process."""

    gateway: str
    comparison: Comparison | None = None


REPORT = TypeAdapter(Report)
"""Reads a report from JSON."""
