"""Who counts which bin at the moment, so that two people never get the same one.

    BINWATCH_RECOUNTS/leases.json    {"handed_out": 17, "leases": {"<event_id>": {"client": "...", "until_s": ...}}}

A lease that has run out stays in the file until its bin leaves the queue: it says that the bin was handed out.
"""

import json
from collections.abc import Container
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

LEASE_S = 180.0
"""A bin that was handed out is given to nobody else for this time; the page renews it while it shows the bin."""


@dataclass
class Lease:
    """``until_s``: seconds since the epoch."""

    client: str
    until_s: float


@dataclass
class Leases:
    """All leases, by event id. ``handed_out``: how many bins were, ever."""

    handed_out: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes) -> "Leases":
        """The leases in JSON; none where it is empty or damaged, since they only last minutes."""
        try:
            return _ADAPTER.validate_json(content)
        except ValidationError:
            return cls()

    def to_json(self) -> bytes:
        """The leases in JSON."""
        leases = {event_id: vars(lease) for event_id, lease in self.leases.items()}
        return json.dumps({"handed_out": self.handed_out, "leases": leases}).encode()

    def holder(self, event_id: str, now_s: float) -> str | None:
        """The client that counts a bin, None where nobody does."""
        lease = self.leases.get(event_id)
        return lease.client if lease is not None and lease.until_s > now_s else None

    def grant(self, event_id: str, client: str, now_s: float) -> None:
        """Give a bin to a client, or renew its lease."""
        self.leases[event_id] = Lease(client, now_s + LEASE_S)

    def end(self, event_id: str) -> None:
        """Let others have a bin; it still counts as handed out."""
        if event_id in self.leases:
            self.leases[event_id].until_s = 0.0

    def was_handed_out(self, event_id: str) -> bool:
        """Whether anybody got the bin from here."""
        return event_id in self.leases

    def retain(self, event_ids: Container[str]) -> None:
        """Forget the bins that are not in ``event_ids``."""
        self.leases = {event_id: lease for event_id, lease in self.leases.items() if event_id in event_ids}


_ADAPTER = TypeAdapter(Leases)
