"""The gateway's API keys.

    python scripts/api_key.py add dock-3                  prints the key, only now; its hash is stored
    python scripts/api_key.py add anna --may recount      its holder may recount bins, which makes labels
    python scripts/api_key.py list
    python scripts/api_key.py remove dock-3               revokes it

A running gateway reads the file again. To rotate a key, add the new one, hand it out, then remove the old one.
"""

import argparse
import os
import sys
from pathlib import Path

from serve.errors import OUTSIDE, BinwatchError, sentence
from serve.gateway import keys


def main(args: argparse.Namespace) -> int:
    if args.do == "add":
        print(keys.add(args.file, args.name, args.may))
        print(f"{args.name} is in {args.file}; the key itself is not stored anywhere, note it now", file=sys.stderr)
    elif args.do == "remove":
        keys.remove(args.file, args.name)
        print(f"{args.name} is revoked", file=sys.stderr)
    else:
        for key in keys.read(args.file):
            print(f"{key.created}  {key.sha256[:12]}  {key.name}", *(f"may {right}" for right in key.may), sep="  ")
    return 0


def parse_args() -> argparse.Namespace:
    """The command line; without a subcommand, usage and exit code 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument(
        "--file",
        type=Path,
        default=Path(os.environ.get("BINWATCH_API_KEYS") or "var/api-keys.json"),
        help="file of the hashes; default BINWATCH_API_KEYS, or var/api-keys.json",
    )
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("list", help="print names, dates, the first digits of the hashes, and rights")
    add = commands.add_parser("add", help="create a key and print it")
    add.add_argument("--may", action="append", default=[], choices=keys.RIGHTS, help="a right of the key")
    for command in (add, commands.add_parser("remove", help="revoke a key")):
        command.add_argument("name", help="holder of the key")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_args()
    try:
        sys.exit(main(options))
    except (BinwatchError, *OUTSIDE) as error:
        if options.debug:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
