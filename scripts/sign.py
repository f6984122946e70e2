"""Sign the archive of a version by hand, for the promoter to take it: one that was made before archives were signed, or
elsewhere, or with a key that is not trusted any more. You vouch for it: what it holds will run.

    python scripts/sign.py VERSION            in containers: docker compose exec trainer python scripts/sign.py VERSION
    python scripts/sign.py VERSION --again    and let the gate decide anew of one that was rejected unsigned
"""

import os
from argparse import Namespace
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.registry import signed_archive, signing
from trainer.registry.mlflow_registry import Registry


def main(args: Namespace) -> int:
    signing.ensure_local_keys(args.state)
    key = signing.signer_from(os.environ)
    assert key  # at_home has named one
    registry = Registry(args.tracking_uri)
    version = registry.version(args.version)
    name = signed_archive.sign_version(registry, version, key, args.again)
    result = {"version": version.number, "run_id": version.run_id, "key": name}
    _cli.emit(args, result, f"version {version.number}, run {version.run_id}, is signed with key {name}")
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(" ".join(__doc__.split("\n\n")[0].splitlines()))
    parser.add_argument("version", help="number of the version in MLflow")
    parser.add_argument("--again", action="store_true", help="a version that was rejected is judged anew")
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("BINWATCH_STATE", "var")), help="has keys/")
    entrypoint.run(main, parser.parse_args())
