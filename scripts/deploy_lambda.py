"""Deploy the Lambda that asks a SageMaker endpoint, or a TorchServe of one's own; update it where it is there.

python scripts/deploy_lambda.py --role ARN --endpoint bin-counter                  make or update it
python scripts/deploy_lambda.py --role ARN --inference-url http://10.0.0.5:8080 --subnets ... --groups ...
python scripts/deploy_lambda.py --role ARN --endpoint bin-counter --url AWS_IAM    with an address of its own
python scripts/deploy_lambda.py --role ARN --endpoint bin-counter --dry-run --json print the requests, make none
python scripts/deploy_lambda.py --destroy                                          remove it
"""

import os
from argparse import Namespace
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.aws import lambda_deploy
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.lambda_zip import write
from trainer.aws.requests import Aws, Recorder, default_region


def main(args: Namespace) -> int:
    if args.destroy and not args.dry_run:
        gone = lambda_deploy.destroy(Aws(args.region or default_region(), args.endpoint_url), args.name)
        _cli.emit(args, {"removed": gone}, "\n".join(gone) or f"there is no function {args.name}")
        return entrypoint.OK
    wanted = None if args.destroy else lambda_deploy.front(vars(args), args.dry_run)
    code = write(args.work / "lambda.zip")
    if args.dry_run:
        plan = lambda_deploy.plan(wanted, code, args.must_exist) if wanted else lambda_deploy.removal(args.name)
        requests = Recorder().all(plan)
        _cli.emit(
            args, {"requests": requests}, "\n".join(f"{each['service']} {each['operation']}" for each in requests)
        )
        return entrypoint.OK
    assert wanted is not None
    done = lambda_deploy.deploy(Aws(args.region or default_region(), args.endpoint_url), wanted, code, Pace(2.0, 300.0))
    _cli.emit(args, vars(done), f"{done.did} function {done.name} {done.url}")
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    lambda_deploy.add_options(parser, os.environ)
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("BINWATCH_STATE", "var")) / "lambda")
    parser.add_argument("--must-exist", action="store_true", help="in a dry run: print the update of one that is there")
    parser.add_argument("--dry-run", action="store_true", help="print the requests, call nothing")
    parser.add_argument("--destroy", action="store_true", help="remove the function")
    entrypoint.run(main, parser.parse_args())
