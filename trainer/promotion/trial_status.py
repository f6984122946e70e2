"""How far the rollout of a version is, as the text of a tag of that version: for the monitoring and ``--explain``."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from serve.routing.comparison import Comparison, VersionTraffic
from trainer.promotion.trial_decision import Expected, TrialStep, by_count, median_ms


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """The state of a rollout. ``stage``: in words; ``at``: time of the state in UTC, ISO 8601; ``step``: what follows
    from it, with ``reason``; ``comparison``: over all stages so far; ``expected``: by the champion's count."""

    version: str
    champion: str
    plan: str
    stage: str
    at: str
    step: TrialStep
    reason: str
    comparison: Comparison
    expected: Mapping[str, Expected]

    def to_text(self) -> str:
        """JSON, with the medians of the latencies and the agreement by count for those who only show it."""
        agreement = {
            count: {
                "photos": live.photos,
                "share": 1 - live.share,
                "expected": 1 - self.expected[count].share if count in self.expected else None,
            }
            for count, live in sorted(by_count(self.comparison.counts).items(), key=lambda item: int(item[0]))
        }
        latency_ms = {
            name: median_ms(traffic)
            for name, traffic in (("champion", self.comparison.champion), ("challenger", self.comparison.challenger))
        }
        content = _STATUS.dump_python(self, mode="json")  # not asdict, which breaks a Counter
        return json.dumps(content | {"agreement": agreement, "latency_ms": latency_ms})

    def explain(self) -> str:
        """The state in plain words."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        did = {TrialStep.WAIT: "under way", TrialStep.PROCEED: "over", TrialStep.RETURN: "over: it was returned"}
        yield f"Live traffic ({self.plan}), version {self.version} beside version {self.champion}: {did[self.step]}."
        yield f"  {self.stage} ({self.at}): {self.reason}"
        for name, traffic in (("champion", self.comparison.champion), ("challenger", self.comparison.challenger)):
            yield f"  {name:<10}  {_in_words(traffic)}"
        for count, live in sorted(by_count(self.comparison.counts).items(), key=lambda item: int(item[0])):
            before = self.expected.get(count)
            expected = f", {before.share:.0%} of {before.photos} test photos" if before and before.photos else ""
            yield f"  champion counts {count}: another count at {live.share:.0%} of {live.photos} photos{expected}"
        for pair, number in sorted(self.comparison.verdicts.items()):
            yield f"  verdicts {pair.replace('>', ', then ')}: {number}"


def _in_words(traffic: VersionTraffic) -> str:
    return f"{traffic.answered} photos answered, {traffic.failed} failed, median {median_ms(traffic):.0f} ms"


_STATUS = TypeAdapter(TrialStatus)


def status_from_text(text: str) -> TrialStatus | None:
    """The state that a tag holds; None where there is none, or it is unreadable."""
    try:
        return _STATUS.validate_json(text) if text else None
    except ValidationError:
        return None
