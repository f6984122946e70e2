"""Start and exit of a script: logging to stderr, SIGTERM, errors as one line, exit codes.

Exit codes: 0 done, 1 error, 2 usage, 3 the gate refused.
"""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, MutableMapping
from threading import Event

from serve.errors import OUTSIDE, BinwatchError, SettingsError, sentence

OK, ERROR, USAGE, REFUSED = 0, 1, 2, 3
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def log_to_stderr() -> None:
    """Log INFO of this project, and warnings of libraries."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for package in ("trainer", "serve"):
        logging.getLogger(package).setLevel(logging.INFO)


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that context managers and ``finally`` blocks run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def stop_on_sigterm() -> Event:
    """An event that SIGTERM sets, for a loop that ends between two rounds."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def reach_loopback_directly(environ: MutableMapping[str, str] = os.environ) -> None:
    """Keep requests to this machine from a proxy that HTTP_PROXY names, in all libraries and child processes."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host.strip() for host in environ.get(name, "").split(",") if host.strip()]
        environ[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def run(main: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run ``main`` and exit with its code; errors are printed to stderr as one line.

    A traceback follows with ``--debug``, and where the error is one of the code itself.
    """
    log_to_stderr()
    exit_on_sigterm()
    reach_loopback_directly()
    try:
        sys.exit(main(args))
    except BrokenPipeError:  # whoever read the output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        if args.debug or not isinstance(error, (BinwatchError, *OUTSIDE)):
            traceback.print_exc()
        sys.exit(USAGE if isinstance(error, SettingsError) else ERROR)
