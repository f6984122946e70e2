"""The status of a model version. Importing it takes no MLflow.

The status goes one way:

    (none) -> approved -> promoted -> rolled-back    the gate approved it, the promoter deployed it, and took it back
          |          |`-> rolled-back                it was taken back while it was still on probation
          |          `-> rejected                    its canary failed: it is never tried again
          `-> refused                                the gate refused it
"""

from enum import StrEnum


class Status(StrEnum):
    """The value of a version's tag ``status``."""

    UNDECIDED = ""
    APPROVED = "approved"
    REFUSED = "refused"
    REJECTED = "rejected"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"


UNWANTED = frozenset({Status.REFUSED, Status.REJECTED, Status.ROLLED_BACK})
