"""AWS's PyTorch inference server as its container starts it, in its own namespaces.

``serve`` of sagemaker-pytorch-inference writes to /etc and searches all processes for its TorchServe: so it gets
an overlay of the machine's /etc, and sees only its own processes.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serve.local.servers import free_port, java_home

NAMESPACES = [
    "unshare",
    *(["--map-root-user"] if os.getuid() else []),
    "--mount",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
]
_START = """
mount -t overlay overlay -o lowerdir=/etc,upperdir=$STATE/etc,workdir=$STATE/overlay /etc
exec serve
"""


def namespaces_work() -> bool:
    """Whether this user may create namespaces, as containers have them."""
    return subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0


@contextmanager
def inference_server(toolkits: Path, base: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """The server for ``base/model``, an unpacked model.tar.gz; yields its address. ``base`` is its /opt/ml.

    It logs to ``base/server.log``, its worker to ``base/logs/model_log.log``.
    """
    for name in ("etc", "overlay", "bin"):
        (base / name).mkdir()
    torchserve = base / "bin" / "torchserve"  # the project's own would run its workers in the project's environment
    torchserve.write_text(f'#!/bin/sh\nexec {toolkits}/python -m ts.model_server "$@"\n')
    torchserve.chmod(0o755)
    port = free_port()
    own_environ = {
        "STATE": str(base),
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
        "TS_METRICS_ADDRESS": f"http://127.0.0.1:{free_port()}",
        "TS_GRPC_INFERENCE_PORT": str(free_port()),
        "TS_GRPC_MANAGEMENT_PORT": str(free_port()),
        "JAVA_HOME": java_home(),
        "TMPDIR": str(base),
        "TEMP": str(base),
        "PYTHONPATH": "",
        "PIP_NO_INDEX": "1",  # fails unless code/requirements.txt is installed already
        "PATH": f"{base / 'bin'}:{toolkits}:{os.environ['PATH']}",
    }
    with (base / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*NAMESPACES, "sh", "-ec", _START],
            cwd=base,
            env={**os.environ, **own_environ, **environ},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the kernel kills all processes of the namespace with its first
        process.wait()
