"""The pipeline on SageMaker: train, evaluate, compare, update the endpoint; and its training and tuning jobs alone.

    python scripts/sagemaker_pipeline.py --role R --image I --bucket B      print the definition
    ... --upsert [--deploy="--instance-type ml.c7g.large"]                  create or update it
    ... --start [--set Recipe=best --set Epochs=8]                          run it
    ... --status [EXECUTION|JOB]                                            show its status
    ... --tune [--trials 5], and then --train --best-of JOB                 single jobs

``--dry-run --json`` prints the requests and sends none. The permissions that it needs: docs/iam/pipeline.json.
"""

import os
from argparse import Namespace

import _cli
from trainer import entrypoint
from trainer.aws import account, pipeline_commands
from trainer.aws.requests import Aws, Recorder


def main(args: Namespace) -> int:
    aws_account = account.read_account(vars(args))
    calls_aws = args.upsert or args.start or args.train or args.tune or args.status is not None
    api = Aws(aws_account.region, args.endpoint_url) if calls_aws and not args.dry_run else Recorder()
    outcome = pipeline_commands.run(api, aws_account, args)
    _cli.emit(args, outcome.result, outcome.text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    account.add_options(parser, os.environ)
    pipeline_commands.add_options(parser)
    entrypoint.run(main, parser.parse_args())
