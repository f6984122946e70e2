"""Deploy the champion to a SageMaker endpoint, or update the one there is; what fails is rolled back.

    python scripts/deploy_sagemaker.py --role ARN --bucket NAME      the champion, or --version 3
    python scripts/deploy_sagemaker.py --dry-run --json              print the requests and make none
    python scripts/deploy_sagemaker.py --bucket NAME --destroy       remove all that it made

Costs, permissions, and what AWS no longer offers are in docs/aws.md.
"""

import logging
import os
from argparse import Namespace
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.aws.endpoint import choose, endpoint_spec, plan
from trainer.aws.endpoint.deploy import Pace, deploy
from trainer.aws.endpoint.destroy import destroy
from trainer.aws.endpoint.package import build
from trainer.aws.requests import Aws, Recorder, default_region

log = logging.getLogger("trainer.aws")


def main(args: Namespace) -> int:
    options = {**vars(args), "region": args.region or default_region()}
    want, notes = endpoint_spec.read_endpoint_spec(options, args.dry_run, args.destroy)
    for note in notes:
        log.warning("%s", note)
    pace = Pace(args.poll, args.timeout)
    if args.destroy and not args.dry_run:
        gone = destroy(Aws(want.region, args.endpoint_url), want, pace)
        _cli.emit(args, vars(gone), "\n".join([*gone.removed, *(f"left: {each}" for each in gone.left)]))
        return entrypoint.OK
    with choose.chosen(options, args.work) as chosen:
        package = build(chosen, want.image.form, args.work)
    if args.dry_run:
        found = plan.removal(want, package) if args.destroy else plan.deployment(want, package, args.must_exist)
        requests = Recorder().all(found)
        _cli.emit(
            args, {"requests": requests}, "\n".join(f"{each['service']} {each['operation']}" for each in requests)
        )
        return entrypoint.OK
    done = deploy(Aws(want.region, args.endpoint_url), want, package, pace, args.must_exist)
    _cli.emit(args, vars(done), f"{done.did} endpoint {done.endpoint}: version {done.version}, {done.accuracy:.1%}")
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    endpoint_spec.add_options(parser, os.environ)
    choose.add_options(parser, Path(os.environ.get("BINWATCH_STATE", "var")) / "sagemaker")
    parser.add_argument("--dry-run", action="store_true", help="print the requests, call nothing")
    parser.add_argument("--must-exist", action="store_true", help="only update an endpoint that is there")
    parser.add_argument("--destroy", action="store_true", help="remove all that was made for the endpoint")
    parser.add_argument("--poll", type=float, default=Pace.poll_s, help="seconds between two looks")
    parser.add_argument("--timeout", type=float, default=Pace.timeout_s, help="seconds until waiting is given up")
    parser.add_argument("--endpoint-url", default="", help="of a stand-in for AWS")
    entrypoint.run(main, parser.parse_args())
