"""Serving: from a model archive and the bytes of a photo to an answer.

The modules directly in this folder are copied into every model archive, so that a model always runs the code it was
exported with. They import only each other, the standard library, numpy, Pillow, onnxruntime and boto3 (torch only on a
GPU). The folders below stay on the machine that deploys, serves or monitors archives.
"""

import os

# ONNX Runtime sends telemetry to Microsoft from its import on, unless this is set
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
