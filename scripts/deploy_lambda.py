"""Deploy or update the Lambda in front of a SageMaker endpoint, or of a TorchServe of one's own.

python scripts/deploy_lambda.py --role ARN --endpoint bin-counter                  create or update it
python scripts/deploy_lambda.py --role ARN --inference-url http://10.0.0.5:8080 --subnets ... --groups ...
python scripts/deploy_lambda.py --role ARN --endpoint bin-counter --url AWS_IAM    with a function URL
python scripts/deploy_lambda.py --role ARN --endpoint bin-counter --dry-run --json print the requests, send none
python scripts/deploy_lambda.py --destroy                                          remove it
"""

import os
from argparse import Namespace
from pathlib import Path

import _cli
from serve.settings import read
from serve.settings.common import StateSettings
from trainer import entrypoint
from trainer.aws import lambda_deploy
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.lambda_zip import write
from trainer.aws.requests import Aws, Recorder, default_region


def main(args: Namespace) -> int:
    if args.destroy and not args.dry_run:
        removed = lambda_deploy.destroy(Aws(args.region or default_region(), args.endpoint_url), args.name)
        _cli.emit(args, {"removed": removed}, "\n".join(removed) or f"there is no function {args.name}")
        return entrypoint.OK
    function = None if args.destroy else lambda_deploy.read_lambda_spec(vars(args), args.dry_run)
    code = write(args.work / "lambda.zip")
    if args.dry_run:
        plan = lambda_deploy.plan(function, code, args.must_exist) if function else lambda_deploy.removal(args.name)
        requests = Recorder().record_all(plan)
        lines = [f"{request['service']} {request['operation']}" for request in requests]
        _cli.emit(args, {"requests": requests}, "\n".join(lines))
        return entrypoint.OK
    assert function is not None
    api = Aws(args.region or default_region(), args.endpoint_url)
    outcome = lambda_deploy.deploy(api, function, code, Pace(2.0, 300.0))
    _cli.emit(args, vars(outcome), f"{outcome.did} function {outcome.name} {outcome.url}")
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    lambda_deploy.add_options(parser, os.environ)
    work = read(StateSettings, os.environ).state / "lambda"
    parser.add_argument("--work", type=Path, default=work, help="build folder; BINWATCH_STATE sets its parent")
    parser.add_argument("--must-exist", action="store_true", help="in a dry run: print the requests of an update")
    parser.add_argument("--dry-run", action="store_true", help="print the requests, send none")
    parser.add_argument("--destroy", action="store_true", help="remove the function")
    entrypoint.run(main, parser.parse_args())
