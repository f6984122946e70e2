"""Start and exit of a script: logging to stderr, SIGTERM, errors as one line, exit codes.

Exit codes: 0 done, 1 error, 2 usage, 3 the gate refused.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from serve.errors import BinwatchError, SettingsError

OK, ERROR, USAGE, REFUSED = 0, 1, 2, 3


def log_to_stderr() -> None:
    """Log INFO of this project, and warnings of libraries."""
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    for package in ("trainer", "serve"):
        logging.getLogger(package).setLevel(logging.INFO)


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that context managers and ``finally`` blocks run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def run(main: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run ``main`` and exit with its code; errors are printed to stderr as one line, without a traceback."""
    log_to_stderr()
    exit_on_sigterm()
    try:
        sys.exit(main(args))
    except BinwatchError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE if isinstance(error, SettingsError) else ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
