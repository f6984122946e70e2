"""A real Caddy with serve/proxy/Caddyfile in front of a gateway and of what stands for MLflow."""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from serve.local.servers import free_port

CADDYFILE = Path(__file__).parents[2] / "serve" / "proxy" / "Caddyfile"
HOST = "localhost"
START_S = 30


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A running proxy. ``authority``: the certificate that clients have to trust."""

    port: int
    http_port: int
    mlflow_port: int
    authority: Path

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client that connects from this address of the machine."""
        transport = httpx.HTTPTransport(local_address=address, verify=self.context())
        return httpx.Client(transport=transport, timeout=20, base_url=self.url)

    def connect(self, address: str, head: bytes) -> ssl.SSLSocket:
        """A connection from this address on which no more than ``head`` is sent."""
        plain = socket.create_connection(("127.0.0.1", self.port), 10, (address, 0))
        connection = self.context().wrap_socket(plain, server_hostname=HOST)
        connection.sendall(head)
        return connection


@contextmanager
def tls_proxy(folder: Path, gateway: Path, mlflow: str = "127.0.0.1:9", **environ: str) -> Iterator[Proxy]:
    """The proxy in front of the gateway's socket and the address of MLflow, with files in ``folder``."""
    port, http_port, mlflow_port, health_port = (free_port() for _ in range(4))
    settings = {
        "HTTP_PORT": http_port,
        "HTTPS_PORT": port,
        "MLFLOW_PORT": mlflow_port,
        "HEALTH_PORT": health_port,
        "BINWATCH_TLS_PORT": port,
        "BINWATCH_TLS_HOST": HOST,
        "STORAGE": folder / "tls",
        "GATEWAY": f"unix/{gateway}",
        "MLFLOW": mlflow,
        **environ,
    }
    env = {**os.environ, "HOME": str(folder), **{name: str(value) for name, value in settings.items()}}
    caddy = str(Path(sys.executable).with_name("caddy"))
    command = [caddy, "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    with (
        (folder / "caddy.log").open("ab") as log,
        subprocess.Popen(command, env=env, stdout=log, stderr=log) as process,
    ):
        try:
            authority = folder / "tls" / "pki" / "authorities" / "local" / "root.crt"
            _wait(f"http://127.0.0.1:{health_port}/livez", process, folder / "caddy.log")
            proxy = Proxy(port=port, http_port=http_port, mlflow_port=mlflow_port, authority=authority)
            if "CERTIFICATE" not in environ:
                _wait(f"{proxy.url}/", process, folder / "caddy.log", authority)
            yield proxy
        finally:
            process.terminate()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path, authority: Path | None = None) -> None:
    """Until any answer comes; by https, with a certificate of ``authority``."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, verify=ssl.create_default_context(cafile=authority) if authority else True)
            return
        except (httpx.TransportError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"Caddy did not answer: {log.read_text()[-2000:]}")
