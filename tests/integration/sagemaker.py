"""AWS's PyTorch inference server as its container starts it, in namespaces of its own.

``serve`` of sagemaker-pytorch-inference writes to /etc and looks for its TorchServe among all processes: it gets an
/etc that lies over the machine's, and sees no process but its own.
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
    """Whether this user may have namespaces here, as containers have."""
    return subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0


@contextmanager
def inference_server(toolkits: Path, base: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """The server for ``base/model``, an unpacked model.tar.gz; yields its address. ``base`` stands for /opt/ml.

    What it says is in ``base/server.log``, what its worker says in ``base/logs/model_log.log``.
    """
    for name in ("etc", "overlay", "bin"):
        (base / name).mkdir()
    torchserve = base / "bin" / "torchserve"  # the first environment's would run its workers in the first environment
    torchserve.write_text(f'#!/bin/sh\nexec {toolkits}/python -m ts.model_server "$@"\n')
    torchserve.chmod(0o755)
    port = free_port()
    ours = {
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
        "PIP_NO_INDEX": "1",  # code/requirements.txt is there already, or the server does not start
        "PATH": f"{base / 'bin'}:{toolkits}:{os.environ['PATH']}",
    }
    with (base / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*NAMESPACES, "sh", "-ec", _START],
            cwd=base,
            env={**os.environ, **ours, **environ},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # all that is in the namespaces ends with their first process
        process.wait()
