"""A challenger's share of the photos. The version that did not answer the client gets a copy in the background, and
both answers are compared.

A copy starts when the client's answer is there, so it neither delays nor fails it. Copies go through a sender of their
own, and only so many are in flight; where there are more, a copy is dropped.
"""

import asyncio
import bisect
import json
from collections import Counter
from collections.abc import Iterable

from serve.gateway.parsing import ModelRequest, with_shadow
from serve.gateway.upstreams.sender import Reply, Sender
from serve.gateway.upstreams.server_metrics import ServerMetrics
from serve.routing.comparison import BUCKETS_MS, Comparison, VersionTraffic
from serve.routing.route_table import Trial, TrialMode

MAX_COPIES = 16
"""Copies in flight; each holds its photo in memory."""


class TrialTraffic:
    """Sends the photos of a trial to both versions. ``copies``: the sender of copies; ``timeout_s``: of one answer."""

    def __init__(self, sender: Sender, copies: Sender, metrics: ServerMetrics, timeout_s: float) -> None:
        self._sender, self._copies, self._metrics, self._timeout_s = sender, copies, metrics, timeout_s
        self._in_flight = set[asyncio.Task[None]]()
        self.comparison: Comparison | None = None

    def begin(self, trial: Trial | None) -> None:
        """Count anew where ``trial`` is not the one under way. None ends it."""
        if trial is None:
            self.comparison = None
        elif self.comparison is None or self.comparison.trial != trial.id:
            self.comparison = Comparison(trial=trial.id)

    async def ask(self, request: ModelRequest, champion: str, trial: Trial) -> Reply:
        """The reply for the client: the champion's in a shadow; in a canary the challenger's, if it has a count.

        A client never gets a challenger's error: the champion is asked instead, and has half of the time for it.
        """
        if trial.mode is TrialMode.SHADOW:
            reply = await self._sender.send(request, champion, self._timeout_s)
            if reply.failure or not reply.refusal:
                self._add(Comparison(trial=trial.id, champion=_traffic(reply)))
            if not reply.refusal:
                self._start_copy(request, trial.version, trial, reply)
            return reply
        reply = await self._sender.send(request, trial.version, self._timeout_s / 2, exact=True)
        if reply.refusal:
            return await self._ask_champion_instead(request, champion, trial, reply)
        self._add(Comparison(trial=trial.id, challenger=_traffic(reply)))
        self._start_copy(request, champion, trial, reply)
        return reply

    async def close(self) -> None:
        """Give up the copies in flight."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _ask_champion_instead(self, request: ModelRequest, champion: str, trial: Trial, failed: Reply) -> Reply:
        """The champion's reply. Where it refuses the photo as well, that is the photo's fault, and nobody's failure."""
        reply = await self._sender.send(request, champion, self._timeout_s / 2)
        if not reply.refusal or reply.failure:
            self._add(Comparison(trial=trial.id, champion=_traffic(reply), challenger=_traffic(failed)))
        return reply

    def _start_copy(self, request: ModelRequest, version: str, trial: Trial, reply: Reply) -> None:
        if len(self._in_flight) >= MAX_COPIES:
            self._metrics.copied("dropped")
            return
        task = asyncio.create_task(self._compare(with_shadow(request), version, trial, reply))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _compare(self, request: ModelRequest, version: str, trial: Trial, reply: Reply) -> None:
        """Ask ``version``, too, and count how its answer compares with that of the other version, ``reply``."""
        copy = await self._copies.send(request, version, self._timeout_s, exact=True)
        self._metrics.copied("failed" if copy.refusal else "answered")
        if trial.mode is TrialMode.SHADOW:
            self._add(Comparison(trial=trial.id, challenger=_traffic(copy)))
        else:
            self._add(Comparison(trial=trial.id, champion=_traffic(copy)))
        if not copy.refusal:
            champion, challenger = (reply, copy) if trial.mode is TrialMode.SHADOW else (copy, reply)
            photos = list(zip(_photos(champion), _photos(challenger), strict=False))
            pairs = Comparison(
                trial=trial.id, counts=_pairs(photos, "count", int), verdicts=_pairs(photos, "verdict", str)
            )
            self._add(pairs)

    def _add(self, addition: Comparison) -> None:
        """Add to the comparison, unless its trial has ended since."""
        if self.comparison is not None and self.comparison.trial == addition.trial:
            self.comparison = self.comparison.plus(addition)


def _traffic(reply: Reply) -> VersionTraffic:
    """One request as traffic."""
    if reply.refusal:
        return VersionTraffic(failed=1)
    bucket = bisect.bisect_left(BUCKETS_MS, 1000 * reply.seconds)
    return VersionTraffic(answered=1, latencies=tuple(int(i == bucket) for i in range(len(BUCKETS_MS) + 1)))


def _photos(reply: Reply) -> list[dict[str, object]]:
    """The answers for the photos of a reply, which is one or a list; none where it is broken."""
    try:
        content = json.loads(reply.content)
    except ValueError:
        return []
    return [answer for answer in (content if isinstance(content, list) else [content]) if isinstance(answer, dict)]


def _pairs(
    photos: Iterable[tuple[dict[str, object], dict[str, object]]], field: str, kind: type[int] | type[str]
) -> Counter[str]:
    """How often the two versions have which values of ``field``: "champion's>challenger's"."""
    values = [(champion.get(field), challenger.get(field)) for champion, challenger in photos]
    return Counter(
        f"{first}>{second}" for first, second in values if isinstance(first, kind) and isinstance(second, kind)
    )
