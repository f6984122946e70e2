"""Remove old archives, runs' artifacts, capture and caches; never the champion's, the previous one's or a challenger's.

    python scripts/prune.py --dry-run [--json]     what would go, why, and the bytes that it would free
    python scripts/prune.py                        the same, done; the trainer does it once a day

BINWATCH_KEEP_VERSIONS, _DAYS, _CAPTURE_DAYS and _CACHE_DAYS say how much is kept; see .env.example.
"""

import os
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.pipeline import execution_lock, retention
from trainer.registry.mlflow_registry import Registry


def main(args: Namespace) -> int:
    policy = retention.policy_from(os.environ)
    places = retention.places_of(Registry(args.tracking_uri), vars(args), os.environ)
    with nullcontext() if args.dry_run else execution_lock.exclusive_lock(args.state, "the pruning"):
        found = retention.prune(places, policy, args.dry_run)
    freed, word = sum(each.size_bytes for each in found), "would free" if args.dry_run else "freed"
    lines = [f"{each.thing.kind} {each.thing.name}: {each.reason} ({each.size_bytes} bytes)" for each in found]
    result = {"dry_run": args.dry_run, "bytes": freed, "pruned": [each.to_json() for each in found]}
    _cli.emit(args, result, "\n".join([*lines, f"{len(found)} things, {word} {freed / 1e6:.1f} MB"]))
    return entrypoint.OK


if __name__ == "__main__":
    get = os.environ.get
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    parser.add_argument("--state", type=Path, default=Path(get("BINWATCH_STATE", "var")), help="the pipeline's folder")
    parser.add_argument("--capture", default=get("BINWATCH_CAPTURE") or "var/capture", help="folder or s3://...")
    entrypoint.run(main, parser.parse_args())
