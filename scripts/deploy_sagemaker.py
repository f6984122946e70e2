"""Deploy the champion to a SageMaker endpoint, or update the endpoint; a failed update is rolled back.

    python scripts/deploy_sagemaker.py --role ARN --bucket NAME      the champion, or --version 3
    python scripts/deploy_sagemaker.py --dry-run --json              print the requests and send none
    python scripts/deploy_sagemaker.py --bucket NAME --destroy       remove everything it has created

Costs, permissions, and what AWS no longer offers are in docs/aws.md.
"""

import logging
import os
from argparse import Namespace

import _cli
from serve.settings import read
from serve.settings.common import StateSettings
from trainer import entrypoint
from trainer.aws.endpoint import choose, endpoint_spec, plan
from trainer.aws.endpoint.deploy import Pace, add_options, deploy
from trainer.aws.endpoint.destroy import destroy
from trainer.aws.endpoint.package import build
from trainer.aws.requests import Aws, Recorder, default_region

log = logging.getLogger("trainer.aws")


def main(args: Namespace) -> int:
    options = {**vars(args), "region": args.region or default_region()}
    spec, notes = endpoint_spec.read_endpoint_spec(options, args.dry_run, args.destroy)
    for note in notes:
        log.warning("%s", note)
    pace = Pace(args.poll, args.timeout)
    if args.destroy and not args.dry_run:
        outcome = destroy(Aws(spec.region, args.endpoint_url), spec, pace)
        lines = [*outcome.removed, *(f"left: {name}" for name in outcome.left)]
        _cli.emit(args, vars(outcome), "\n".join(lines))
        return entrypoint.OK
    with choose.choose_version(options, args.work) as choice:
        package = build(choice, spec.image.form, args.work)
    if args.dry_run:
        steps = plan.removal(spec, package) if args.destroy else plan.deployment(spec, package, args.must_exist)
        requests = Recorder().record_all(steps)
        lines = [f"{request['service']} {request['operation']}" for request in requests]
        _cli.emit(args, {"requests": requests}, "\n".join(lines))
        return entrypoint.OK
    deployed = deploy(Aws(spec.region, args.endpoint_url), spec, package, pace, args.must_exist)
    text = f"{deployed.did} endpoint {deployed.endpoint}: version {deployed.version}, {deployed.accuracy:.1%}"
    _cli.emit(args, vars(deployed), text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    endpoint_spec.add_options(parser, os.environ)
    choose.add_options(parser, read(StateSettings, os.environ).state / "sagemaker")
    add_options(parser)
    entrypoint.run(main, parser.parse_args())
