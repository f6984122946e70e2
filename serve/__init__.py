"""From a model archive to an answer: reading photos, serving, rolling out."""

import os

# else ONNX Runtime, from its import on, tells Microsoft of every model that it runs
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
