"""The gateway's API keys.

    python scripts/api_key.py add dock-3       prints the key, this once; its hash is kept
    python scripts/api_key.py list
    python scripts/api_key.py remove dock-3    it is not valid from now on

A running gateway reads the file again. To rotate a key, add the new one, hand it out, and remove the old one.
"""

import argparse
import os
import sys
from pathlib import Path

from serve.errors import BinwatchError
from serve.gateway import keys


def main(args: argparse.Namespace) -> int:
    if args.do == "add":
        print(keys.add(args.file, args.name))
        print(f"{args.name} is in {args.file}; the key is not kept anywhere, note it now", file=sys.stderr)
    elif args.do == "remove":
        keys.remove(args.file, args.name)
        print(f"{args.name} is not valid any more", file=sys.stderr)
    else:
        for key in keys.read(args.file):
            print(f"{key.created}  {key.sha256[:12]}  {key.name}")
    return 0


def parsed() -> argparse.Namespace:
    """The command line; without a subcommand, usage and exit code 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument(
        "--file",
        type=Path,
        default=Path(os.environ.get("BINWATCH_API_KEYS") or "var/api-keys.json"),
        help="where they are kept; BINWATCH_API_KEYS, or var/api-keys.json, without",
    )
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("list", help="names, dates and the first figures of the hashes")
    for name, about in (("add", "make a key and print it"), ("remove", "make a key invalid")):
        commands.add_parser(name, help=about).add_argument("name", help="who has it")
    return parser.parse_args()


if __name__ == "__main__":
    options = parsed()
    try:
        sys.exit(main(options))
    except BinwatchError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
