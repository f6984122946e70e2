"""Creates, starts and describes the pipeline and the jobs on SageMaker. What they consist of is in ``definition.py``,
``training_jobs.py`` and ``tuning.py``; here are the requests and how their answers are read.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve.errors import AwsError, SettingsError
from trainer.artifacts import ACCURACY
from trainer.aws.account import Account, folder
from trainer.aws.definition import NOT_LISTED, PARAMETERS, definition, to_text
from trainer.aws.requests import Answer, Api, AwsRequest, Change, Parameters, call_if_exists
from trainer.evaluation.policy import UNDEPLOYED_ACCURACY

SAGEMAKER, S3 = "sagemaker", "s3"
NOTHING_DEPLOYED = {"accuracy": UNDEPLOYED_ACCURACY, "version": None}
"""accuracy.json before the first deployment."""


@dataclass(frozen=True)
class StepSummary:
    """A step of an execution. ``seconds``: None while it runs; ``cached``: its result is that of an earlier one."""

    name: str
    status: str
    seconds: float | None
    cached: bool
    reason: str


@dataclass(frozen=True)
class ExecutionSummary:
    """An execution of the pipeline, as SageMaker describes it."""

    arn: str
    status: str
    reason: str
    steps: tuple[StepSummary, ...]

    def __str__(self) -> str:
        lines = [f"{self.status}{f': {self.reason}' if self.reason else ''}  {self.arn}"]
        for step in self.steps:
            took = "cached" if step.cached else "" if step.seconds is None else f"{step.seconds:.0f} s"
            lines.append(f"  {step.name:28} {step.status:10} {took:>8}  {step.reason}".rstrip())
        return "\n".join(lines)


def upsert(api: Api, account: Account, name: str, deploy: Sequence[str] = ()) -> Change:
    """Create the pipeline, or update it where it exists.

    The evaluation step needs an accuracy.json; where there is none, one is written that says that nothing is deployed.
    """
    _put_initial_accuracy(api, account)
    parameters = {
        "PipelineName": name,
        "PipelineDefinition": to_text(definition(account, deploy)),
        "RoleArn": account.role,
    }
    token = hashlib.sha256(json.dumps(parameters).encode()).hexdigest()
    try:
        answer = api.call(AwsRequest(SAGEMAKER, "CreatePipeline", {**parameters, "ClientRequestToken": token}))
        if "PipelineArn" in answer:
            return Change.CREATED
    except AwsError as error:
        if "already exists" not in error.message and "must be unique" not in error.message:
            raise
    # a dry run, which gets no answers, prints both requests
    api.call(AwsRequest(SAGEMAKER, "UpdatePipeline", parameters))
    return Change.UPDATED


def _put_initial_accuracy(api: Api, account: Account) -> None:
    place = {"Bucket": account.bucket, "Key": f"{account.prefix}/{ACCURACY}"}
    body = json.dumps(NOTHING_DEPLOYED)
    try:
        api.call(AwsRequest(S3, "PutObject", {**place, "Body": body, "IfNoneMatch": "*"}))
    except AwsError as error:
        if error.code != "PreconditionFailed":  # something is deployed
            raise


def start(api: Api, account: Account, name: str, parameters: Mapping[str, str], token: str) -> str:
    """Start an execution; returns its ARN. ``token``: 32 characters or more; AWS ignores a second start with the same.

    Raises SettingsError for an unknown parameter, AwsError where there is no such pipeline.
    """
    known = ("InputData", *PARAMETERS)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise SettingsError(f"the pipeline has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    values = dict(parameters)
    if "InputData" in values:
        values["InputData"] = folder(values["InputData"])
    if "DataVersion" not in values:
        values["DataVersion"] = data_version(api, values.get("InputData") or account.uri("data"))
    pairs = [{"Name": key, "Value": value} for key, value in values.items()]
    request = AwsRequest(
        SAGEMAKER,
        "StartPipelineExecution",
        {
            "PipelineName": name,
            "PipelineParameters": pairs,
            "ClientRequestToken": token,
        },
    )
    answer = call_if_exists(api, request)
    if answer is None:
        raise AwsError(f"there is no pipeline {name!r} in {account.region}; create it with --upsert")
    return str(answer.get("PipelineExecutionArn", ""))


def data_version(api: Api, uri: str) -> str:
    """A digest of all objects below ``uri``: a training is cached until a photo is added, changed or removed.

    It takes one request per thousand objects. Raises AwsError where there are none.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    digest, number = hashlib.sha256(), 0
    below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    request = AwsRequest(S3, "ListObjectsV2", {"Bucket": bucket, "Prefix": below})
    for page in _pages(api, request, "ContinuationToken", "NextContinuationToken"):
        if "KeyCount" not in page:  # a dry run, which gets no answers
            return NOT_LISTED
        for item in page.get("Contents", ()):
            digest.update(json.dumps([item["Key"], item["ETag"], item["Size"]]).encode())
            number += 1
    if not number:
        raise AwsError(f"there are no objects below {uri}; upload photos with scripts/fetch_data.py, or give InputData")
    return digest.hexdigest()[:16]


def describe_execution(api: Api, account: Account, name: str, arn: str = "") -> ExecutionSummary:
    """An execution, by default the latest one. Raises AwsError where there is none."""
    arn = arn or _latest(api, account, name)
    answer = call_if_exists(api, AwsRequest(SAGEMAKER, "DescribePipelineExecution", {"PipelineExecutionArn": arn}))
    if answer is None:
        raise AwsError(f"there is no execution {arn}; --status without it shows the latest one")
    request = AwsRequest(
        SAGEMAKER, "ListPipelineExecutionSteps", {"PipelineExecutionArn": arn, "SortOrder": "Ascending"}
    )
    steps = [_step_summary(step) for page in _pages(api, request) for step in page.get("PipelineExecutionSteps", ())]
    status = str(answer.get("PipelineExecutionStatus", ""))
    return ExecutionSummary(arn, status, str(answer.get("FailureReason") or ""), tuple(steps))


def _latest(api: Api, account: Account, name: str) -> str:
    parameters = {"PipelineName": name, "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 1}
    answer = call_if_exists(api, AwsRequest(SAGEMAKER, "ListPipelineExecutions", parameters))
    if answer is None:
        raise AwsError(f"there is no pipeline {name!r} in {account.region}; create it with --upsert")
    executions = answer.get("PipelineExecutionSummaries", ())
    if not answer:  # a dry run, which gets no answers
        return f"arn:aws:sagemaker:{account.region}:000000000000:pipeline/{name}/execution/000000000000"
    if not executions:
        raise AwsError(f"the pipeline {name!r} has not been started yet; start it with --start")
    return str(executions[0]["PipelineExecutionArn"])


def _step_summary(step: Answer) -> StepSummary:
    seconds = (step["EndTime"] - step["StartTime"]).total_seconds() if step.get("EndTime") else None
    cached, reason = "CacheHitResult" in step, step.get("FailureReason", "")
    return StepSummary(step["StepName"], step["StepStatus"], seconds, cached, reason)


def _pages(api: Api, request: AwsRequest, parameter: str = "NextToken", member: str = "NextToken") -> Iterator[Answer]:
    """The pages of an answer. The ``member`` of a page is the ``parameter`` of the request for the next one."""
    token: dict[str, str] = {}
    while True:
        page = api.call(AwsRequest(request.service, request.operation, {**request.parameters, **token}))
        yield page
        if not page.get(member):
            return
        token = {parameter: str(page[member])}


@dataclass(frozen=True)
class JobSummary:
    """A training or tuning job. ``best``: the hyperparameters of the best trial, which has the validation ``loss``."""

    name: str
    status: str
    reason: str
    best: Mapping[str, str]
    loss: float | None = None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f"; best validation loss {self.loss:.4f} with {dict(self.best)}"
        return f"{self.name}: {self.status}{f': {self.reason}' if self.reason else ''}{loss}"


TRAIN, TUNE = "binwatch-train-", "binwatch-tune-"
"""Prefixes of the names of jobs."""


def start_job(api: Api, kind: str, parameters: Parameters) -> str:
    """Create a job of ``kind``, TRAIN or TUNE; returns its name."""
    operation, key = _CREATE[kind]
    api.call(AwsRequest(SAGEMAKER, operation, parameters))
    return str(parameters[key])


def describe_job(api: Api, name: str) -> JobSummary:
    """A job. Raises AwsError where there is none, SettingsError for a name with another prefix than TRAIN and TUNE."""
    kind = next((prefix for prefix in (TRAIN, TUNE) if name.startswith(prefix)), None)
    if kind is None:
        raise SettingsError(f"{name!r} is neither the ARN of an execution nor a job: {TRAIN}... or {TUNE}...")
    operation = "DescribeTrainingJob" if kind == TRAIN else "DescribeHyperParameterTuningJob"
    answer = call_if_exists(api, AwsRequest(SAGEMAKER, operation, {_CREATE[kind][1]: name}))
    if answer is None:
        raise AwsError(f"there is no job {name}")
    if kind == TRAIN:
        return JobSummary(name, str(answer.get("TrainingJobStatus", "")), str(answer.get("FailureReason") or ""), {})
    best = answer.get("BestTrainingJob") or {}
    loss = (best.get("FinalHyperParameterTuningJobObjectiveMetric") or {}).get("Value")
    status, reason = answer.get("HyperParameterTuningJobStatus", ""), answer.get("FailureReason") or ""
    return JobSummary(name, str(status), str(reason), best.get("TunedHyperParameters") or {}, loss)


_CREATE = {
    TRAIN: ("CreateTrainingJob", "TrainingJobName"),
    TUNE: ("CreateHyperParameterTuningJob", "HyperParameterTuningJobName"),
}
