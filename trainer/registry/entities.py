"""What the registry holds, as values: runs, versions and their status. Importing it takes no MLflow.

The status of a version goes one way:

    (none) -> approved -> promoted -> rolled-back    the gate approved it, the promoter deployed it, and took it back
          |          |`-> rolled-back                it was taken back while it was still on probation
          |          `-> rejected                    its canary failed, or a trial on live traffic: never tried again
          `-> refused                                the gate refused it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

CHAMPION, PREVIOUS = "champion", "previous"
"""The aliases: the version that TorchServe must serve, and the one that a rollback returns to."""


class Status(StrEnum):
    """The value of a version's tag ``status``."""

    UNDECIDED = ""
    APPROVED = "approved"
    REFUSED = "refused"
    REJECTED = "rejected"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"


UNWANTED = frozenset({Status.REFUSED, Status.REJECTED, Status.ROLLED_BACK})


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of the registered model.

    ``run_id``: its training run; ``status``: a Status; ``compared_with``: the champion that the gate compared it with,
    or ""; ``trial``: how it did on live traffic beside the champion, as JSON, or "".
    """

    number: str
    run_id: str
    status: str
    reason: str
    compared_with: str
    trial: str = ""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run in MLflow. Times in seconds since 1970; ``ended_s`` is 0 while it runs; ``parent``: a run's id, or ""."""

    id: str
    name: str
    status: str
    parent: str
    started_s: float
    ended_s: float
    tags: Mapping[str, str]
