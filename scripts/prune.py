"""Remove old archives, runs' artifacts, capture and caches; never the champion's, the previous one's or a challenger's.

    python scripts/prune.py --dry-run [--json]     what would be removed, why, and how many bytes that would free
    python scripts/prune.py                        remove it; the trainer does so once a day

BINWATCH_KEEP_VERSIONS, _DAYS, _CAPTURE_DAYS and _CACHE_DAYS say how much is kept; see .env.example.
"""

from argparse import Namespace
from contextlib import nullcontext

import _cli
from trainer import entrypoint
from trainer.pipeline import execution_lock, retention
from trainer.pipeline.trainer_settings import PruneSettings
from trainer.registry.mlflow_registry import Registry


def main(args: Namespace) -> int:
    settings = _cli.read_settings(PruneSettings, args)
    registry = Registry(settings.tracking_uri)
    places = retention.Places(registry, settings.capture, settings.state, settings.s3_endpoint)
    with nullcontext() if args.dry_run else execution_lock.lock_state(settings.state, execution_lock.PRUNING):
        removals = retention.prune(places, settings.retention, args.dry_run)
    freed, verb = sum(removal.size_bytes for removal in removals), "would free" if args.dry_run else "freed"
    rows = [removal.to_json() for removal in removals]
    lines = [f"{row['kind']} {row['name']}: {row['reason']} ({row['bytes']} bytes)" for row in rows]
    result = {"dry_run": args.dry_run, "bytes": freed, "pruned": rows}
    _cli.emit(args, result, "\n".join([*lines, f"{len(removals)} things, {verb} {freed / 1e6:.1f} MB"]))
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    _cli.add_settings(parser, PruneSettings, "state", "capture")
    entrypoint.run(main, parser.parse_args())
