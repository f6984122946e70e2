"""The commands of scripts/sagemaker_pipeline.py: from options to requests, and to the text that is printed."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from serve.errors import SettingsError
from trainer.aws import pipelines
from trainer.aws.account import Account
from trainer.aws.definition import definition
from trainer.aws.requests import Api, Recorder
from trainer.aws.training_jobs import Training, training_job
from trainer.aws.training_log import HYPERPARAMETERS
from trainer.aws.tuning import Tuning, tuning_job

NAME = "binwatch"
INSTANCE = "ml.g4dn.xlarge"
MIN_TOKEN_LENGTH = 32


@dataclass(frozen=True)
class CommandResult:
    """The result of a command: ``result`` for ``--json``, ``text`` for people."""

    result: dict[str, object]
    text: str


def add_options(parser: ArgumentParser) -> None:
    """The options of the commands."""
    add = parser.add_argument
    add("--upsert", action="store_true", help="create or update the pipeline")
    add("--start", action="store_true", help="start an execution")
    add(
        "--status",
        nargs="?",
        const="",
        metavar="WHICH",
        help="an execution's ARN or a job; default: the latest",
    )
    add("--train", action="store_true", help="start a training job alone")
    add("--tune", action="store_true", help="start a tuning job")
    add("--name", default=NAME, help="name of the pipeline")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of --start, a hyperparameter of --train and --tune",
    )
    add("--deploy", default="", metavar="OPTIONS", help="options for deploy_sagemaker.py in the update step")
    add("--data", help="address of the photos; default: PREFIX/data in the bucket")
    add("--instance-type", default=INSTANCE, help="of --train and --tune")
    add("--on-demand", action="store_true", help="no spot instances for --train and --tune")
    add("--best-of", metavar="JOB", help="train with the best hyperparameters that a tuning job found")
    add("--trials", type=int, default=Tuning.trials, help="of --tune")
    add("--parallel", type=int, default=Tuning.parallel, help="trials at a time")
    add("--dry-run", action="store_true", help="print the requests and send none")


def run(api: Api, account: Account, args: Namespace, now: datetime | None = None) -> CommandResult:
    """Run the commands that the options name; without any, return the definition and send nothing."""
    now = now or datetime.now(UTC)
    deploy = shlex.split(args.deploy)
    commands = (
        _upsert(api, account, args, deploy) if args.upsert else None,
        _start(api, account, args, now) if args.start else None,
        _train(api, account, args, now) if args.train else None,
        _tune(api, account, args, now) if args.tune else None,
        _status(api, account, args) if args.status is not None else None,
    )
    results = [result for result in commands if result]
    if isinstance(api, Recorder) and results:
        requests: dict[str, object] = {"requests": [request.to_json() for request in api.requests]}
        return CommandResult(requests, json.dumps(requests, indent=1))
    if not results:
        pipeline = definition(account, deploy)
        return CommandResult(pipeline, json.dumps(pipeline, indent=1))
    merged = {key: value for result in results for key, value in result.result.items()}
    return CommandResult(merged, "\n".join(result.text for result in results))


def _upsert(api: Api, account: Account, args: Namespace, deploy: Sequence[str]) -> CommandResult:
    change = pipelines.upsert(api, account, args.name, deploy)
    text = f"{change} the pipeline {args.name!r} in {account.region}"
    return CommandResult({"pipeline": args.name, "did": change}, text)


def _start(api: Api, account: Account, args: Namespace, now: datetime) -> CommandResult:
    values = parse_pairs(args.set)
    if args.data:
        values["InputData"] = args.data
    token = f"{args.name}-{now:%Y%m%dT%H%M%S.%f}".ljust(MIN_TOKEN_LENGTH, "-")
    arn = pipelines.start(api, account, args.name, values, token)
    return CommandResult({"execution": arn}, f"started {arn}")


def _status(api: Api, account: Account, args: Namespace) -> CommandResult:
    summary: pipelines.ExecutionSummary | pipelines.JobSummary
    if not args.status or args.status.startswith("arn:"):
        summary = pipelines.describe_execution(api, account, args.name, args.status)
    else:
        summary = pipelines.describe_job(api, args.status)
    return CommandResult(asdict(summary), str(summary))


def _train(api: Api, account: Account, args: Namespace, now: datetime) -> CommandResult:
    best = pipelines.describe_job(api, args.best_of).best if args.best_of else {}
    name = f"{pipelines.TRAIN}{now:%Y%m%d-%H%M%S}"
    training = _training(account, args, name, {"recipe": "resnet34-scratch", **best})
    pipelines.start_job(api, pipelines.TRAIN, training_job(account, name, training))
    return CommandResult({"training_job": name}, f"started {name}; its archive goes to {account.uri('models', name)}")


def _tune(api: Api, account: Account, args: Namespace, now: datetime) -> CommandResult:
    name = f"{pipelines.TUNE}{now:%Y%m%d-%H%M%S}"
    training = _training(account, args, name, {"recipe": "hpo-frozen"})
    parameters = tuning_job(account, name, Tuning(training, args.trials, args.parallel))
    pipelines.start_job(api, pipelines.TUNE, parameters)
    return CommandResult({"tuning_job": name}, f"started {name}; then: --train --best-of {name}")


def _training(account: Account, args: Namespace, name: str, defaults: Mapping[str, str]) -> Training:
    """The training that the options describe. Raises SettingsError for an unknown hyperparameter."""
    values = {key.replace("_", "-"): value for key, value in {**defaults, **parse_pairs(args.set)}.items()}
    unknown = sorted(key for key in values if key.replace("-", "_") not in HYPERPARAMETERS)
    if unknown:
        known = ", ".join(sorted(HYPERPARAMETERS))
        raise SettingsError(f"the trainer has no hyperparameter {', '.join(unknown)}; it has {known}")
    return Training(
        hyperparameters=values,
        data=args.data or account.uri("data"),
        output=account.uri("models", name),
        checkpoints=account.uri("checkpoints", name),
        instance_type=args.instance_type,
        spot=not args.on_demand,
    )


def parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``. Raises SettingsError."""
    invalid = [pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair]
    if invalid:
        raise SettingsError(f"--set {invalid[0]!r} is not NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
