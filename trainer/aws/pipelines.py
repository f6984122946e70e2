"""The pipeline and the jobs on SageMaker: put, started, asked about. What they are is said in ``definition.py``,
``jobs.py`` and ``tuning.py``; here are the requests and what their answers mean.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.errors import AwsError, SettingsError
from trainer.aws.account import Account
from trainer.aws.definition import ACCURACY, NOT_LISTED, PARAMETERS, definition, text
from trainer.aws.requests import Api, AwsRequest, found
from trainer.evaluation.policy import UNDEPLOYED_ACCURACY

SAGEMAKER, S3 = "sagemaker", "s3"
NOTHING_DEPLOYED = {"accuracy": UNDEPLOYED_ACCURACY, "version": None}
"""accuracy.json before the first deployment."""


@dataclass(frozen=True)
class Step:
    """One step of an execution; ``seconds``: None where it has not ended; ``cached``: taken from an earlier one."""

    name: str
    status: str
    seconds: float | None
    cached: bool
    reason: str


@dataclass(frozen=True)
class Execution:
    """One execution of the pipeline, as SageMaker tells it."""

    arn: str
    status: str
    reason: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"{self.status}{f': {self.reason}' if self.reason else ''}  {self.arn}"]
        for each in self.steps:
            took = "cached" if each.cached else "" if each.seconds is None else f"{each.seconds:.0f} s"
            lines.append(f"  {each.name:28} {each.status:10} {took:>8}  {each.reason}".rstrip())
        return "\n".join(lines)


def upsert(api: Api, account: Account, name: str, deploy: Sequence[str] = ()) -> str:
    """Create the pipeline, or update it where there is one; says ``created`` or ``updated``.

    Where nothing is said to be deployed, accuracy.json says so first: the evaluation needs one.
    """
    _say_nothing_is_deployed(api, account)
    wanted = {"PipelineName": name, "PipelineDefinition": text(definition(account, deploy)), "RoleArn": account.role}
    token = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()
    try:
        answer = api.call(AwsRequest(SAGEMAKER, "CreatePipeline", {**wanted, "ClientRequestToken": token}))
        if "PipelineArn" in answer:
            return "created"
    except AwsError as error:
        if "already exists" not in error.message and "must be unique" not in error.message:
            raise
    # a dry run, which gets no answers, shows both
    api.call(AwsRequest(SAGEMAKER, "UpdatePipeline", wanted))
    return "updated"


def _say_nothing_is_deployed(api: Api, account: Account) -> None:
    place = {"Bucket": account.bucket, "Key": f"{account.prefix}/{ACCURACY}"}
    body = json.dumps(NOTHING_DEPLOYED)
    try:
        api.call(AwsRequest(S3, "PutObject", {**place, "Body": body, "IfNoneMatch": "*"}))
    except AwsError as error:
        if error.code != "PreconditionFailed":  # something is deployed
            raise


def start(api: Api, account: Account, name: str, parameters: Mapping[str, str], token: str) -> str:
    """Start an execution; its ARN. ``token``: of 32 or more signs; the same one starts nothing twice.

    Raises SettingsError for a parameter that there is not, AwsError where there is no such pipeline.
    """
    known = ("InputData", *PARAMETERS)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise SettingsError(f"the pipeline has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    chosen = dict(parameters)
    if "DataVersion" not in chosen:
        chosen["DataVersion"] = data_version(api, chosen.get("InputData") or account.uri("data"))
    values = [{"Name": key, "Value": value} for key, value in chosen.items()]
    request = AwsRequest(
        SAGEMAKER,
        "StartPipelineExecution",
        {
            "PipelineName": name,
            "PipelineParameters": values,
            "ClientRequestToken": token,
        },
    )
    answer = found(api, request)
    if answer is None:
        raise AwsError(f"there is no pipeline {name!r} in {account.region}; put it there with --upsert")
    return str(answer.get("PipelineExecutionArn", ""))


def data_version(api: Api, uri: str) -> str:
    """A digest of all that lies below ``uri``, so that new photos are trained on and old ones are not again.

    It takes a request a thousand objects. Raises AwsError where nothing is there.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    digest, number = hashlib.sha256(), 0
    for page in _pages(
        api,
        AwsRequest(S3, "ListObjectsV2", {"Bucket": bucket, "Prefix": f"{prefix.strip('/')}/"}),
        "ContinuationToken",
        "NextContinuationToken",
    ):
        if "KeyCount" not in page:  # a dry run, which gets no answers
            return NOT_LISTED
        for each in page.get("Contents", ()):
            digest.update(json.dumps([each["Key"], each["ETag"], each["Size"]]).encode())
            number += 1
    if not number:
        raise AwsError(f"nothing lies below {uri}; upload photos with scripts/fetch_data.py, or give InputData")
    return digest.hexdigest()[:16]


def execution(api: Api, account: Account, name: str, arn: str = "") -> Execution:
    """How an execution goes, without ``arn`` the latest one. Raises AwsError where there is none."""
    arn = arn or _latest(api, account, name)
    answer = found(api, AwsRequest(SAGEMAKER, "DescribePipelineExecution", {"PipelineExecutionArn": arn}))
    if answer is None:
        raise AwsError(f"there is no execution {arn}; --status without it shows the latest one")
    request = AwsRequest(
        SAGEMAKER, "ListPipelineExecutionSteps", {"PipelineExecutionArn": arn, "SortOrder": "Ascending"}
    )
    steps = [_step(each) for page in _pages(api, request) for each in page.get("PipelineExecutionSteps", ())]
    status = str(answer.get("PipelineExecutionStatus", ""))
    return Execution(arn, status, str(answer.get("FailureReason") or ""), tuple(steps))


def _latest(api: Api, account: Account, name: str) -> str:
    wanted = {"PipelineName": name, "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 1}
    answer = found(api, AwsRequest(SAGEMAKER, "ListPipelineExecutions", wanted))
    if answer is None:
        raise AwsError(f"there is no pipeline {name!r} in {account.region}; put it there with --upsert")
    executions = answer.get("PipelineExecutionSummaries", ())
    if not answer:  # a dry run, which gets no answers
        return f"arn:aws:sagemaker:{account.region}:000000000000:pipeline/{name}/execution/000000000000"
    if not executions:
        raise AwsError(f"the pipeline {name!r} has not been started yet; start it with --start")
    return str(executions[0]["PipelineExecutionArn"])


def _step(told: Mapping[str, Any]) -> Step:
    seconds = (told["EndTime"] - told["StartTime"]).total_seconds() if told.get("EndTime") else None
    return Step(told["StepName"], told["StepStatus"], seconds, "CacheHitResult" in told, told.get("FailureReason", ""))


def _pages(api: Api, request: AwsRequest, ask: str = "NextToken", told: str = "NextToken") -> Iterator[dict[str, Any]]:
    token: dict[str, str] = {}
    while True:
        page = api.call(AwsRequest(request.service, request.operation, {**request.parameters, **token}))
        yield page
        if not page.get(told):
            return
        token = {ask: str(page[told])}


@dataclass(frozen=True)
class Job:
    """A training or tuning job. ``best``: the hyperparameters of a search's best trial, by its validation loss."""

    name: str
    status: str
    reason: str
    best: Mapping[str, str]
    loss: float | None = None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f"; best validation loss {self.loss:.4f} with {dict(self.best)}"
        return f"{self.name}: {self.status}{f': {self.reason}' if self.reason else ''}{loss}"


TRAIN, TUNE = "binwatch-train-", "binwatch-tune-"
"""What the names of the jobs begin with."""


def start_job(api: Api, kind: str, parameters: Mapping[str, Any]) -> str:
    """Create a job of ``kind``, TRAIN or TUNE; its name."""
    operation, key = _CREATE[kind]
    api.call(AwsRequest(SAGEMAKER, operation, parameters))
    return str(parameters[key])


def job(api: Api, name: str) -> Job:
    """How a job goes. Raises AwsError where there is none, SettingsError for a name that is not one of ours."""
    kind = next((each for each in (TRAIN, TUNE) if name.startswith(each)), None)
    if kind is None:
        raise SettingsError(f"{name!r} is neither the ARN of an execution nor a job: {TRAIN}... or {TUNE}...")
    operation = "DescribeTrainingJob" if kind == TRAIN else "DescribeHyperParameterTuningJob"
    answer = found(api, AwsRequest(SAGEMAKER, operation, {_CREATE[kind][1]: name}))
    if answer is None:
        raise AwsError(f"there is no job {name}")
    if kind == TRAIN:
        return Job(name, str(answer.get("TrainingJobStatus", "")), str(answer.get("FailureReason") or ""), {})
    best = answer.get("BestTrainingJob") or {}
    loss = (best.get("FinalHyperParameterTuningJobObjectiveMetric") or {}).get("Value")
    status, reason = answer.get("HyperParameterTuningJobStatus", ""), answer.get("FailureReason") or ""
    return Job(name, str(status), str(reason), best.get("TunedHyperParameters") or {}, loss)


_CREATE = {
    TRAIN: ("CreateTrainingJob", "TrainingJobName"),
    TUNE: ("CreateHyperParameterTuningJob", "HyperParameterTuningJobName"),
}
