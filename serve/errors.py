"""What can go wrong, as one small tree.

    BinwatchError
    ├── SettingsError    a setting that cannot be used (all problems at once)
    ├── DataError        photos, records or splits that cannot be used
    ├── PhotoError       one photo that cannot be read: the sender's fault, HTTP 400
    ├── FieldError       one field of a request that cannot be used: the sender's fault, HTTP 422
    ├── ArchiveError     a model archive that is damaged, foreign or incomplete
    ├── TrainingError    a training that cannot go on
    ├── TrackingError    MLflow does not answer, or not as expected
    └── ServerError      TorchServe does not answer
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


class PhotoError(BinwatchError):
    """One photo that cannot be read."""


class FieldError(BinwatchError):
    """One field of a request that cannot be used."""


class ArchiveError(BinwatchError):
    """A model archive that is damaged, foreign or incomplete."""


class TrainingError(BinwatchError):
    """A training that cannot go on."""


class TrackingError(BinwatchError):
    """MLflow does not answer, or not as expected."""


class ServerError(BinwatchError):
    """TorchServe does not answer."""


class RefusedError(ServerError):
    """TorchServe answered that it will not do what was asked."""


class CanaryError(ServerError):
    """A model does not load, or does not give the answers that its archive promises."""
