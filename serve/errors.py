"""What can go wrong, as one small tree.

    BinwatchError
    ├── SettingsError    a setting that cannot be used (all problems at once)
    ├── DataError        photos, records or splits that cannot be used
    │   └── AwayError    a store of photos does not answer at the moment
    ├── RequestError     one photo of a request gets no answer; ``status`` is what HTTP calls it
    │   ├── PhotoError         400: it cannot be read
    │   ├── BodyError          400: the body is not the JSON that its type promises
    │   ├── FieldError         422: a field cannot be used
    │   ├── TooLargeError      413: it is larger than what is read
    │   ├── BucketError        403: its link names a bucket that is not allowed
    │   ├── MissingError       404: its link names an object that the store does not have, or does not show
    │   ├── StoreError         502: the store failed
    │   ├── BusyError          503: its turn did not come in time
    │   └── StoreTimeoutError  504: the store took too long
    ├── ArchiveError     a model archive that is damaged, foreign or incomplete
    ├── TrainingError    a training that cannot go on
    ├── TrackingError    MLflow does not answer, or not as expected
    ├── HeldError        another process does what only one may do at a time
    ├── AwsError         AWS refuses, or does not answer; ``code`` and ``message`` are its own
    └── ServerError      TorchServe does not answer
        ├── AbsentError  the promoter does not deal with a version in time
        ├── RefusedError TorchServe answered that it will not
        └── CanaryError  a model does not load, or not with the answers that its archive promises

A message says what happened, the value seen and what to do next. Scripts print it without a
traceback (``--debug`` shows that) and exit with 1.
"""


class BinwatchError(Exception):
    """Base of every error that a user of binwatch is meant to read."""


class SettingsError(BinwatchError):
    """A setting that cannot be used."""


class DataError(BinwatchError):
    """Photos, records or splits that cannot be used."""


class AwayError(DataError):
    """A store of photos does not answer at the moment: asking again later can help."""


class RequestError(BinwatchError):
    """One photo of a request gets no answer. ``status``: the HTTP status; ``kind``: the answer's ``type``."""

    status = 500
    kind = "Internal"


class PhotoError(RequestError):
    """One photo that cannot be read."""

    status = 400
    kind = "BadPhoto"


class BodyError(RequestError):
    """A body that is not the JSON that its content type promises."""

    status = 400
    kind = "BadBody"


class FieldError(RequestError):
    """One field of a request that cannot be used."""

    status = 422
    kind = "BadField"


class TooLargeError(RequestError):
    """A photo that is larger than what is read."""

    status = 413
    kind = "TooLarge"


class BucketError(RequestError):
    """A link to a bucket that is not allowed."""

    status = 403
    kind = "BucketNotAllowed"


class MissingError(RequestError):
    """A link to an object that the store does not have, or does not show."""

    status = 404
    kind = "NoSuchPhoto"


class StoreError(RequestError):
    """The store of a link failed."""

    status = 502
    kind = "StoreFailed"


class BusyError(RequestError):
    """A photo whose turn did not come in time."""

    status = 503
    kind = "Busy"


class StoreTimeoutError(RequestError):
    """The store of a link took too long."""

    status = 504
    kind = "StoreTimeout"


class ArchiveError(BinwatchError):
    """A model archive that is damaged, foreign or incomplete."""


class TrainingError(BinwatchError):
    """A training that cannot go on."""


class TrackingError(BinwatchError):
    """MLflow does not answer, or not as expected. ``code``: MLflow's error code, where it gave one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class HeldError(BinwatchError):
    """Another process does what only one may do at a time."""


class AwsError(BinwatchError):
    """AWS refuses a request, or does not answer; ``code`` and ``message`` are AWS's, empty where it said nothing."""

    def __init__(self, text: str, code: str = "", message: str = "") -> None:
        super().__init__(text)
        self.code, self.message = code, message


class ServerError(BinwatchError):
    """TorchServe does not answer."""


class AbsentError(ServerError):
    """The promoter does not deal with a version in time."""


class RefusedError(ServerError):
    """TorchServe answered that it will not do what was asked."""


class CanaryError(ServerError):
    """A model does not load, or does not give the answers that its archive promises."""
