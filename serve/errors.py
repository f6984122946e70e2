"""What can go wrong, as one small tree.

    BinwatchError
    ├── SettingsError    settings that cannot be used (all problems at once)
    ├── DataError        photos, records or splits that cannot be used
    │   └── UnavailableError  a store of photos does not answer at the moment; a retry can help
    ├── RequestError     one photo of a request gets no answer; ``status`` is the HTTP status
    │   ├── ModelError         500: the model fails at the photo
    │   ├── PhotoError         400: the photo cannot be decoded
    │   ├── BodyError          400: the body is not the JSON that its content type promises
    │   ├── FieldError         422: a field is not valid
    │   ├── TooLargeError      413: the photo is larger than the limit
    │   ├── BucketError        403: the link names a bucket that is not allowed
    │   ├── AdmissionError     the request as a whole is not looked at, and not recorded
    │   │   ├── OriginError        403: a web page sent it
    │   │   ├── HostError          421: it is for another host
    │   │   └── MediaTypeError     415: its body has a type that is not accepted
    │   ├── MissingError       404: the store has no such object, or does not show it
    │   ├── EventError         404: no bin with that event id waits for a recount
    │   ├── SettledError       409: the bin was recounted already
    │   ├── StoreError         502: the store failed
    │   ├── BusyError          503: the photo was not processed in time
    │   └── StoreTimeoutError  504: the store took too long
    ├── ArchiveError     a model archive that is damaged, foreign or incomplete
    ├── TrainingError    a training that cannot continue
    ├── TrackingError    MLflow does not answer, or not as expected
    ├── LockHeldError    another process holds an exclusive lock
    ├── LockLostError    this process no longer holds its lock
    ├── AwsError         AWS refuses, or does not answer; ``code`` and ``message`` are its own
    └── ServerError      TorchServe does not answer
        ├── PromoterTimeoutError  the promoter does not deal with a version in time
        ├── RefusedError          TorchServe refuses a request
        │   └── OverloadedError       because its queue is full
        └── CanaryError           a model does not load, or does not give the answers that its archive promises

A message states what happened, the value that caused it and what to do. Scripts print it without a traceback
(``--debug`` shows it) and exit with 1. ``sentence`` puts errors of Python into words.
"""

import errno

OUTSIDE = (OSError, UnicodeError, MemoryError, RecursionError)
"""Errors of Python that have their cause outside of the code: a disk, a right, a file's content, the memory."""


class BinwatchError(Exception):
    """Base class of all errors that a user is meant to read."""


class SettingsError(BinwatchError):
    """Settings that cannot be used."""


class DataError(BinwatchError):
    """Photos, records or splits that cannot be used."""


class UnavailableError(DataError):
    """A store of photos does not answer at the moment; a retry can help."""


class RequestError(BinwatchError):
    """One photo of a request gets no answer. ``status``: the HTTP status; ``kind``: the error body's ``type``."""

    status = 500
    kind = "Internal"


class ModelError(RequestError):
    """The model fails at a photo that was read: the model's fault, not the sender's."""


class PhotoError(RequestError):
    """The photo cannot be decoded."""

    status = 400
    kind = "BadPhoto"


class BodyError(RequestError):
    """The body is not the JSON that its content type promises."""

    status = 400
    kind = "BadBody"


class FieldError(RequestError):
    """A field of the request is not valid."""

    status = 422
    kind = "BadField"


class TooLargeError(RequestError):
    """The photo is larger than the limit."""

    status = 413
    kind = "TooLarge"


class BucketError(RequestError):
    """The link names a bucket that is not allowed."""

    status = 403
    kind = "BucketNotAllowed"


class AdmissionError(RequestError):
    """The request as a whole is not looked at, and not recorded."""


class OriginError(AdmissionError):
    """A web page sent the request."""

    status = 403
    kind = "WrongOrigin"


class HostError(AdmissionError):
    """The request is for a host of another name."""

    status = 421
    kind = "WrongHost"


class MediaTypeError(AdmissionError):
    """The body has a type that is not accepted."""

    status = 415
    kind = "UnsupportedMediaType"


class MissingError(RequestError):
    """The store has no such object, or does not show it."""

    status = 404
    kind = "NoSuchPhoto"


class EventError(RequestError):
    """No bin with that event id waits for a recount."""

    status = 404
    kind = "NoSuchEvent"


class SettledError(RequestError):
    """The bin was recounted already."""

    status = 409
    kind = "Settled"


class StoreError(RequestError):
    """The store failed."""

    status = 502
    kind = "StoreFailed"


class BusyError(RequestError):
    """The photo was not processed in time."""

    status = 503
    kind = "Busy"


class StoreTimeoutError(RequestError):
    """The store took too long."""

    status = 504
    kind = "StoreTimeout"


class ArchiveError(BinwatchError):
    """A model archive that is damaged, foreign or incomplete."""


class TrainingError(BinwatchError):
    """A training that cannot continue."""


class TrackingError(BinwatchError):
    """MLflow does not answer, or not as expected. ``code``: MLflow's error code, where it sent one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class LockHeldError(BinwatchError):
    """Another process holds an exclusive lock."""


class LockLostError(BinwatchError):
    """This process no longer holds its lock, or cannot ask for it: it must change nothing."""


class AwsError(BinwatchError):
    """AWS refuses a request, or does not answer; ``code`` and ``message`` are AWS's, empty where there is none."""

    def __init__(self, text: str, code: str = "", message: str = "") -> None:
        super().__init__(text)
        self.code, self.message = code, message


class ServerError(BinwatchError):
    """TorchServe does not answer."""


class PromoterTimeoutError(ServerError):
    """The promoter does not deal with a version in time."""


class RefusedError(ServerError):
    """TorchServe refuses a request."""


class OverloadedError(RefusedError):
    """TorchServe refuses a request because its queue is full."""


class CanaryError(ServerError):
    """A model does not load, or does not give the answers that its archive promises."""


def sentence(error: BaseException) -> str:
    """An error in one line for its reader: what happened and, for one of Python's, what to do."""
    if isinstance(error, BinwatchError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeError):
        return f"a text is not what its encoding promises: {error}; save the file as UTF-8"
    if isinstance(error, MemoryError):
        return "there is not enough memory; free some, or give the process more"
    if isinstance(error, RecursionError):
        return "a text is nested too deeply to be read; is the file damaged?"
    return (
        f"unexpected {type(error).__name__}: {error}".rstrip(": ") + "; this is a fault of binwatch, please report it"
    )


def _of_system(error: OSError) -> str:
    place = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"{error.strerror or error or type(error).__name__}{f': {place}' if place else ''}"
    advice = {
        errno.ENOSPC: "free some space on that disk",
        errno.EDQUOT: "free some space, or raise the quota",
        errno.EACCES: "give this user the right to it",
        errno.EPERM: "give this user the right to it",
        errno.EROFS: "that file system is read-only; name another folder",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENOENT: "is it the right path?",
        errno.ENAMETOOLONG: "give it a shorter name",
    }.get(error.errno or 0, "")
    return f"{what}; {advice}" if advice else what
