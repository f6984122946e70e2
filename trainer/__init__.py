"""From bin photos to an evaluated model archive, and the decision whether to deploy it."""

import os

import serve  # noqa: F401 - switches off the telemetry of ONNX Runtime

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # mlflow reads it when it is imported
