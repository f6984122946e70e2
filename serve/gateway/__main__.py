"""Starts the gateway: python -m serve.gateway [--debug]. The settings are listed in serve/gateway/settings.py."""

import logging
import os
import sys

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
    except BinwatchError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    # it logs a warning for each malformed form, which is the client's mistake
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    uvicorn.run(
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
