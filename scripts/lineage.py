"""Where an answer comes from: version, run, data, code, decision, and when it served.

python scripts/lineage.py VERSION     an answer's model_version
python scripts/lineage.py EVENT_ID    an answer's event_id: the version is looked up in the data capture
"""

import os
from argparse import Namespace
from pathlib import Path

import _cli
from serve.monitoring import find_event
from serve.monitoring.reader import place_of
from trainer import entrypoint
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.reporting.lineage import lineage, text


def main(args: Namespace) -> int:
    version = args.what
    if "-" in version:
        place = place_of(args.capture, os.environ.get("BINWATCH_S3_ENDPOINT") or None)
        version = find_event.version_of(place, version)
    trusted = signing.trusted(args.state)
    found = lineage(Registry(args.tracking_uri), version, trusted if trusted.exists() else None)
    _cli.emit(args, found.to_json(), text(found))
    return entrypoint.OK


if __name__ == "__main__":
    get = os.environ.get
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("what", metavar="VERSION|EVENT_ID")
    parser.add_argument("--capture", default=get("BINWATCH_CAPTURE") or "var/capture", help="folder or s3://...")
    parser.add_argument("--state", type=Path, default=Path(get("BINWATCH_STATE", "var")), help="has keys/")
    entrypoint.run(main, parser.parse_args())
