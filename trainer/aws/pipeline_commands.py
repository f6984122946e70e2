"""What scripts/sagemaker_pipeline.py does: from the command line's words to requests, and to what is printed."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from typing import Any

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
LEAST_TOKEN = 32


@dataclass(frozen=True)
class Did:
    """What came of it: ``result`` for ``--json``, ``text`` for people."""

    result: Any
    text: str


def add_options(to: ArgumentParser) -> None:
    """What to do, and how."""
    to.add_argument("--upsert", action="store_true", help="create the pipeline, or update it")
    to.add_argument("--start", action="store_true", help="start an execution")
    to.add_argument("--status", nargs="?", const="", metavar="WHICH", help="an execution's ARN, a job, or the latest")
    to.add_argument("--train", action="store_true", help="start a training job alone")
    to.add_argument("--tune", action="store_true", help="start a tuning job")
    to.add_argument("--name", default=NAME, help="of the pipeline")
    to.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of --start, a hyperparameter of --train and --tune",
    )
    to.add_argument("--deploy", default="", metavar="WORDS", help="options for deploy_sagemaker.py in the update step")
    to.add_argument("--data", help="the photos' address; PREFIX/data in the bucket without")
    to.add_argument("--instance-type", default=INSTANCE, help="of --train and --tune")
    to.add_argument("--on-demand", action="store_true", help="no spot instances for --train and --tune")
    to.add_argument("--best-of", metavar="JOB", help="train with the best hyperparameters that a tuning job found")
    to.add_argument("--trials", type=int, default=Tuning.trials, help="of --tune")
    to.add_argument("--parallel", type=int, default=Tuning.parallel, help="trials at a time")
    to.add_argument("--dry-run", action="store_true", help="print the requests and send none")


def run(api: Api, where: Account, args: Namespace, now: datetime | None = None) -> Did:
    """Do what the options say; without one of them the definition is shown, and nothing is asked."""
    now = now or datetime.now(UTC)
    deploy = shlex.split(args.deploy)
    done = [
        each
        for each in (
            _upsert(api, where, args, deploy) if args.upsert else None,
            _start(api, where, args, now) if args.start else None,
            _train(api, where, args, now) if args.train else None,
            _tune(api, where, args, now) if args.tune else None,
            _status(api, where, args) if args.status is not None else None,
        )
        if each
    ]
    if isinstance(api, Recorder) and done:
        shown = {"requests": [each.to_json() for each in api.requests]}
        return Did(shown, json.dumps(shown, indent=1))
    if not done:
        found = definition(where, deploy)
        return Did(found, json.dumps(found, indent=1))
    return Did({key: value for each in done for key, value in each.result.items()}, "\n".join(x.text for x in done))


def _upsert(api: Api, where: Account, args: Namespace, deploy: Sequence[str]) -> Did:
    did = pipelines.upsert(api, where, args.name, deploy)
    return Did({"pipeline": args.name, "did": did}, f"{did} the pipeline {args.name!r} in {where.region}")


def _start(api: Api, where: Account, args: Namespace, now: datetime) -> Did:
    values = given(args.set)
    if args.data:
        values["InputData"] = args.data
    token = f"{args.name}-{now:%Y%m%dT%H%M%S.%f}".ljust(LEAST_TOKEN, "-")
    arn = pipelines.start(api, where, args.name, values, token)
    return Did({"execution": arn}, f"started {arn}")


def _status(api: Api, where: Account, args: Namespace) -> Did:
    which = args.status
    told = (
        pipelines.execution(api, where, args.name, which)
        if not which or which.startswith("arn:")
        else pipelines.job(api, which)
    )
    assert is_dataclass(told)
    return Did(asdict(told), str(told))


def _train(api: Api, where: Account, args: Namespace, now: datetime) -> Did:
    best = pipelines.job(api, args.best_of).best if args.best_of else {}
    name = f"{pipelines.TRAIN}{now:%Y%m%d-%H%M%S}"
    wanted = _training(where, args, name, {"recipe": "resnet34-scratch", **best})
    pipelines.start_job(api, pipelines.TRAIN, training_job(where, name, wanted))
    return Did({"training_job": name}, f"started {name}; its archive goes to {where.uri('models', name)}")


def _tune(api: Api, where: Account, args: Namespace, now: datetime) -> Did:
    name = f"{pipelines.TUNE}{now:%Y%m%d-%H%M%S}"
    training = _training(where, args, name, {"recipe": "hpo-frozen"})
    wanted = tuning_job(where, name, Tuning(training, args.trials, args.parallel))
    pipelines.start_job(api, pipelines.TUNE, wanted)
    return Did({"tuning_job": name}, f"started {name}; then: --train --best-of {name}")


def _training(where: Account, args: Namespace, name: str, defaults: Mapping[str, str]) -> Training:
    """A training of the command line's words. Raises SettingsError for a hyperparameter that there is not."""
    values = {key.replace("_", "-"): value for key, value in {**defaults, **given(args.set)}.items()}
    unknown = sorted(key for key in values if key.replace("-", "_") not in HYPERPARAMETERS)
    if unknown:
        known = ", ".join(sorted(HYPERPARAMETERS))
        raise SettingsError(f"the trainer has no hyperparameter {', '.join(unknown)}; it has {known}")
    return Training(
        hyperparameters=values,
        data=args.data or where.uri("data"),
        output=where.uri("models", name),
        checkpoints=where.uri("checkpoints", name),
        instance_type=args.instance_type,
        spot=not args.on_demand,
    )


def given(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``. Raises SettingsError."""
    wrong = [each for each in pairs if not each.partition("=")[0] or "=" not in each]
    if wrong:
        raise SettingsError(f"--set {wrong[0]!r} is not NAME=VALUE")
    return {name: value for name, _, value in (each.partition("=") for each in pairs)}
