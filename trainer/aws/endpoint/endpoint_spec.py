"""What a SageMaker endpoint shall be: its name, machines, scaling and updates. Pure."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve.errors import SettingsError
from trainer.artifacts import MODEL_NAME
from trainer.aws.account import BUCKET, PREFIX, ROLE
from trainer.aws.endpoint.images import Image, image_for

NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
MAX_NAME_LENGTH = 38
"""Of an endpoint: models and configurations append ``-v``, a version and a digest, and may have 63 characters."""
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
CANARY, ALL_AT_ONCE = "canary", "all-at-once"
PLACEHOLDER_REGION, PLACEHOLDER_ROLE = "us-east-1", "arn:aws:iam::000000000000:role/placeholder"
PLACEHOLDER_BUCKET = "placeholder-bucket"
"""What a dry run uses in place of options that are not given."""


@dataclass(frozen=True, kw_only=True)
class EndpointSpec:
    """One endpoint.

    ``serverless_mb``: memory of a serverless endpoint, 0 for one on instances; ``min_instances``, ``max_instances``
    and ``cpu_percent``: bounds and target of autoscaling; ``capture_percent``: share of the answers that are captured;
    ``update``: CANARY or ALL_AT_ONCE; ``bake_s``: how long alarms are watched after each shift of traffic;
    ``link_buckets``: comma-separated buckets that requests may link to.
    """

    region: str
    role: str
    bucket: str
    prefix: str = "binwatch"
    endpoint: str = MODEL_NAME
    instance_type: str = "ml.m5.large"
    accelerator: str = ""
    serverless_mb: int = 0
    image_uri: str = ""
    min_instances: int = 1
    max_instances: int = 3
    cpu_percent: int = 70
    cooldown_s: int = 30
    capture_percent: int = 100
    update: str = CANARY
    bake_s: int = 300
    link_buckets: str = ""

    @property
    def image(self) -> Image:
        """The container."""
        image = image_for(self.region, self.instance_type, self.accelerator)
        return replace(image, uri=self.image_uri, warnings=()) if self.image_uri else image

    @property
    def prefix_of_files(self) -> str:
        """The prefix of the endpoint's files in the bucket."""
        return f"{self.prefix}/{self.endpoint}"


def add_options(parser: ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of a deployment; some default to environment variables."""
    add, get = parser.add_argument, environ.get
    add("--region", default=get("AWS_REGION") or get("AWS_DEFAULT_REGION"), help="default: that of ~/.aws")
    add("--role", default=get("BINWATCH_AWS_ROLE"), help="ARN of the endpoint's role: docs/aws.md")
    add("--bucket", default=get("BINWATCH_AWS_BUCKET"), help="existing bucket for the model and the captured answers")
    add("--prefix", default=EndpointSpec.prefix, help="prefix of everything in the bucket")
    add("--endpoint", default=EndpointSpec.endpoint, help="name of the endpoint")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--instance-type", default=EndpointSpec.instance_type, help="type of each instance")
    kind.add_argument(
        "--serverless-memory-mb", type=integer_between(1024, 6144), default=0, help="serverless, 1024 to 6144"
    )
    add("--accelerator-type", default="", help="Elastic Inference, closed to new customers since 2023-04-15")
    add("--image", default="", help="another container than AWS's PyTorch one")
    add(
        "--min-instances",
        type=integer_between(1, 100),
        default=EndpointSpec.min_instances,
        help="minimum of autoscaling",
    )
    add(
        "--max-instances",
        type=integer_between(1, 100),
        default=EndpointSpec.max_instances,
        help="maximum of autoscaling",
    )
    add("--cpu-percent", type=integer_between(1, 1000), default=EndpointSpec.cpu_percent, help="target of autoscaling")
    add(
        "--cooldown",
        type=integer_between(0, 3600),
        default=EndpointSpec.cooldown_s,
        help="seconds between two changes of autoscaling",
    )
    add(
        "--capture-percent",
        type=integer_between(0, 100),
        default=EndpointSpec.capture_percent,
        help="share of the answers to capture",
    )
    add("--update", choices=(CANARY, ALL_AT_ONCE), default=EndpointSpec.update, help="how traffic is shifted")
    add(
        "--bake",
        type=integer_between(0, 3600),
        default=EndpointSpec.bake_s,
        help="seconds of alarm watch after each shift",
    )
    add(
        "--link-buckets",
        default=get("BINWATCH_S3_BUCKETS", ""),
        help="comma-separated buckets that requests may link to",
    )


def read_endpoint_spec(
    options: Mapping[str, Any], dry_run: bool = False, destroy: bool = False
) -> tuple[EndpointSpec, list[str]]:
    """The endpoint that the options describe, and warnings, such as which placeholders a dry run uses.

    ``destroy``: no role is needed. Raises SettingsError with all problems.
    """
    placeholders = {"role": PLACEHOLDER_ROLE} if destroy else {}
    if dry_run:
        placeholders = {"region": PLACEHOLDER_REGION, "role": PLACEHOLDER_ROLE, "bucket": PLACEHOLDER_BUCKET}
    values = {key: value for key, value in options.items() if value not in (None, "")}
    used = {key: value for key, value in placeholders.items() if dry_run and key not in values}
    warnings = [f"no {key} was given: using the placeholder {value}" for key, value in used.items()]
    values = {**placeholders, **values}
    spec = EndpointSpec(
        region=values.get("region", ""),
        role=values.get("role", ""),
        bucket=values.get("bucket", ""),
        prefix=str(values.get("prefix", "")).strip("/"),
        endpoint=values.get("endpoint", ""),
        instance_type=values["instance_type"],
        accelerator=values.get("accelerator_type", ""),
        serverless_mb=values["serverless_memory_mb"],
        image_uri=values.get("image", ""),
        min_instances=values["min_instances"],
        max_instances=values["max_instances"],
        cpu_percent=values["cpu_percent"],
        cooldown_s=values["cooldown"],
        capture_percent=values["capture_percent"],
        update=values["update"],
        bake_s=values["bake"],
        link_buckets=values.get("link_buckets", ""),
    )
    problems = _problems(spec)
    if problems:
        raise SettingsError("; ".join(problems))
    return spec, [*warnings, *([] if destroy else spec.image.warnings)]


def _problems(spec: EndpointSpec) -> list[str]:
    checks = {
        f"the region is {spec.region!r}; give --region, such as eu-central-1": REGION.fullmatch(spec.region),
        f"the role is {spec.role!r}; give --role or BINWATCH_AWS_ROLE, as arn:aws:iam::ACCOUNT:role/NAME": (
            ROLE.fullmatch(spec.role)
        ),
        f"the bucket is {spec.bucket!r}; give --bucket or BINWATCH_AWS_BUCKET, a bucket's name without s3://": (
            BUCKET.fullmatch(spec.bucket)
        ),
        f"the prefix is {spec.prefix!r}; it may have letters, digits and . _ - /": PREFIX.fullmatch(spec.prefix),
        f"the endpoint's name is {spec.endpoint!r}; it may have letters, digits and hyphens between them, at most "
        f"{MAX_NAME_LENGTH}": NAME.fullmatch(spec.endpoint) and len(spec.endpoint) <= MAX_NAME_LENGTH,
        f"{spec.min_instances} instances at least is more than {spec.max_instances} at most": spec.min_instances
        <= spec.max_instances,
        "Elastic Inference needs instances: leave out --serverless-memory-mb or --accelerator-type": not (
            spec.accelerator and spec.serverless_mb
        ),
        f"--serverless-memory-mb is {spec.serverless_mb}; SageMaker takes multiples of 1024": spec.serverless_mb % 1024
        == 0,
    }
    return [problem for problem, good in checks.items() if not good]


def integer_between(minimum: int, maximum: int) -> Callable[[str], int]:
    """A type for argparse: an integer in a range, its ends included."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and minimum <= int(text) <= maximum):
            raise ArgumentTypeError(f"{text!r} is no integer from {minimum} to {maximum}")
        return int(text)

    return parse
