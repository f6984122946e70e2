"""From bin photos to an evaluated model archive, and the decision whether it replaces the old one."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by mlflow while it is imported
