"""Starts the gateway: python -m serve.gateway [--debug]. What can be set is in serve/gateway/settings.py."""

import logging
import os
import sys

import uvicorn

from serve.errors import BinwatchError
from serve.gateway.app import create
from serve.gateway.protocol import Connection
from serve.gateway.settings import from_env

IDLE_S = 15
"""A connection without a request is kept so long."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; answers that have begun are finished."""
    try:
        settings = from_env(os.environ)
        app = create(settings)
    except BinwatchError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each broken form, which is a client's
    uvicorn.run(
        app,
        host=settings.listen,
        port=settings.port,
        http=Connection,
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
        h11_max_incomplete_event_size=32 * 1024,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
