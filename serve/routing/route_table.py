"""Which servers answer, and which share of the photos goes to a challenger."""

from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter

SHADOW = "shadow=1"
"""In the header X-Amzn-SageMaker-Custom-Attributes: a copy of a photo, whose answer no client gets. It is captured with
this mark, and it is no traffic. Only the gateway may say so."""


class TrialMode(StrEnum):
    """What a challenger does with its share: it answers (canary), or its answers are only compared (shadow)."""

    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A challenger beside the champion. ``id`` names this stage of this rollout, ``share`` is 0-1 of the photos."""

    id: str
    version: str
    mode: TrialMode
    share: float


@dataclass(frozen=True, kw_only=True)
class Routes:
    """``servers``: the inference addresses of the servers that are ready to answer with ``champion``."""

    servers: tuple[str, ...]
    champion: str
    trial: Trial | None = None


ROUTES = TypeAdapter(Routes)
"""Reads routes from JSON."""
