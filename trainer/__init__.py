"""From bin photos to an evaluated model archive, and the decision whether it replaces the old one."""

import os

import serve  # noqa: F401 - it keeps ONNX Runtime from telling its maker what it runs

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by mlflow while it is imported
