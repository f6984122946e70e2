"""Sign the archive of a version by hand, so that the promoter accepts it: one from before archives were signed, from
elsewhere, or signed with a key that is no longer trusted. You vouch for it: the code in it will run.

    python scripts/sign.py VERSION            in containers: docker compose exec trainer python scripts/sign.py VERSION
    python scripts/sign.py VERSION --again    and let the gate decide again about one that was rejected unsigned
"""

import os
from argparse import Namespace

import _cli
import _options
from trainer import entrypoint
from trainer.registry import signed_archive, signing
from trainer.registry.mlflow_registry import Registry


def main(args: Namespace) -> int:
    signing.ensure_local_keys(args.state)
    key = signing.signing_key(os.environ)
    assert key  # ensure_local_keys has named one
    registry = Registry(args.tracking_uri)
    version = registry.version(args.version)
    name = signed_archive.sign_version(registry, version, key, args.again)
    result = {"version": version.number, "run_id": version.run_id, "key": name}
    _cli.emit(args, result, f"version {version.number}, run {version.run_id}, is signed with key {name}")
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(" ".join(__doc__.split("\n\n")[0].splitlines()))
    parser.add_argument("version", help="number of the version in MLflow")
    parser.add_argument("--again", action="store_true", help="let the gate decide again about a rejected version")
    _options.add_state(parser, "folder whose keys/ has the signing key")
    entrypoint.run(main, parser.parse_args())
