"""Starts the gateway: python -m serve.gateway [--debug]. The settings are listed in serve/gateway/settings.py."""

import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn

from serve.errors import BinwatchError, SettingsError
from serve.gateway.app import create_app
from serve.gateway.protocol import DeadlineProtocol
from serve.gateway.settings import GatewaySettings
from serve.settings import read

KEEP_ALIVE_S = 15
"""An idle connection is closed after this time."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; requests in progress are finished first."""
    try:
        settings = read(GatewaySettings, os.environ)
        app = create_app(settings)
        proxy_listener = listen_for_proxy(settings.proxy_socket) if settings.proxy_socket else None
    except BinwatchError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    # it logs a warning for each malformed form, which is the client's mistake
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        host=settings.listen,
        port=settings.port,
        http=DeadlineProtocol,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
        h11_max_incomplete_event_size=32 * 1024,
    )
    server = uvicorn.Server(config)
    server.run([config.bind_socket(), proxy_listener] if proxy_listener else None)
    return 0 if server.started else 1


def listen_for_proxy(path: Path) -> socket.socket:
    """The socket through which the TLS proxy sends requests, in place of one that an earlier process has left there.

    Raises SettingsError.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"BINWATCH_PROXY_SOCKET: {path} cannot be listened on: {error}; name another path"
        ) from error
    return listener


if __name__ == "__main__":
    sys.exit(main())
