"""The pipeline on SageMaker: train, evaluate, compare, update the endpoint; and its training and tuning jobs alone.

    python scripts/sagemaker_pipeline.py --role R --image I --bucket B      print the definition
    ... --upsert [--deploy="--instance-type ml.c7g.large"]                  put it there
    ... --start [--set Recipe=best --set Epochs=8]                          run it
    ... --status [EXECUTION|JOB]                                            how it goes
    ... --tune [--trials 5], and then --train --best-of JOB                 jobs alone

``--dry-run --json`` prints the requests and sends none. What whoever runs it must be allowed: docs/iam/pipeline.json.
"""

import os
from argparse import Namespace

import _cli
from trainer import entrypoint
from trainer.aws import account, pipeline_commands
from trainer.aws.requests import Aws, Recorder


def main(args: Namespace) -> int:
    where = account.account(vars(args))
    asks = args.upsert or args.start or args.train or args.tune or args.status is not None
    api = Aws(where.region, args.endpoint_url) if asks and not args.dry_run else Recorder()
    did = pipeline_commands.run(api, where, args)
    _cli.emit(args, did.result, did.text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    account.add_options(parser, os.environ)
    pipeline_commands.add_options(parser)
    entrypoint.run(main, parser.parse_args())
