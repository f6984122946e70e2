"""Serving: from a model archive and the bytes of a photo to an answer.

The modules directly in this folder are copied into every model archive, so that a model always runs the code it was
exported with. They import only each other, the standard library, numpy, Pillow, OpenVINO and boto3 (torch only on a
GPU). The folders below stay on the machine that deploys, serves or monitors archives.
"""

import os
import sys

# ONNX Runtime, which quantises, sends telemetry to Microsoft from its import on, unless this is set
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO imports its converter if it can, which sends telemetry; without it, the import takes half as long
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
