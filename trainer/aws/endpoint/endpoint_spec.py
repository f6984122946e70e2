"""What is wanted of SageMaker: an endpoint, its machine, how it scales and is updated. Pure."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.errors import SettingsError
from trainer.aws.account import BUCKET, PREFIX, ROLE
from trainer.aws.endpoint.images import Image, image_for

NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
LONGEST_NAME = 38
"""Of an endpoint: models and configurations add ``-v``, a version and 10 signs to it, and may have 63."""
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
CANARY, ALL_AT_ONCE = "canary", "all-at-once"
NOWHERE_REGION, NOWHERE_ROLE = "us-east-1", "arn:aws:iam::000000000000:role/placeholder"
NOWHERE_BUCKET = "placeholder-bucket"
"""What a dry run takes for what it was not told."""


@dataclass(frozen=True)
class EndpointSpec:
    """One endpoint.

    ``serverless_mb``: memory of a serverless one, 0 for one on instances; ``least`` to ``most`` instances, so that the
    CPUs are busy for ``cpu_percent``; ``capture_percent``: share of the answers that are recorded; ``update``: CANARY
    or ALL_AT_ONCE; ``bake_s``: how long alarms are watched after each shift of traffic; ``link_buckets``: the buckets
    that requests may link to, with commas.
    """

    region: str
    role: str
    bucket: str
    prefix: str = "binwatch"
    endpoint: str = "bin-counter"
    instance_type: str = "ml.m5.large"
    accelerator: str = ""
    serverless_mb: int = 0
    image_uri: str = ""
    least: int = 1
    most: int = 3
    cpu_percent: int = 70
    cooldown_s: int = 30
    capture_percent: int = 100
    update: str = CANARY
    bake_s: int = 300
    link_buckets: str = ""

    @property
    def image(self) -> Image:
        """The container that answers."""
        found = image_for(self.region, self.instance_type, self.accelerator)
        return Image(self.image_uri, found.form, found.guardrails, found.start_timeout_s) if self.image_uri else found

    @property
    def place(self) -> str:
        """Where its files lie in the bucket."""
        return f"{self.prefix}/{self.endpoint}"


def add_options(to: ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of a deployment; role and bucket come from BINWATCH_AWS_... too."""
    get = environ.get
    to.add_argument("--region", default=get("AWS_REGION") or get("AWS_DEFAULT_REGION"), help="without, that of ~/.aws")
    to.add_argument("--role", default=get("BINWATCH_AWS_ROLE"), help="ARN of what the endpoint may do: docs/aws.md")
    to.add_argument("--bucket", default=get("BINWATCH_AWS_BUCKET"), help="for the model and the records; it must exist")
    to.add_argument("--prefix", default=EndpointSpec.prefix, help="of everything in the bucket")
    to.add_argument("--endpoint", default=EndpointSpec.endpoint, help="its name")
    kind = to.add_mutually_exclusive_group()
    kind.add_argument("--instance-type", default=EndpointSpec.instance_type, help="of each instance")
    kind.add_argument("--serverless-memory-mb", type=whole(1024, 6144), default=0, help="no instances: 1024 to 6144")
    to.add_argument(
        "--accelerator-type", default="", help="Elastic Inference, closed to new customers since 2023-04-15"
    )
    to.add_argument("--image", default="", help="another container than AWS's PyTorch one")
    to.add_argument("--min-instances", type=whole(1, 100), default=EndpointSpec.least, help="autoscaling: at least")
    to.add_argument("--max-instances", type=whole(1, 100), default=EndpointSpec.most, help="autoscaling: at most")
    to.add_argument(
        "--cpu-percent", type=whole(1, 1000), default=EndpointSpec.cpu_percent, help="what autoscaling aims at"
    )
    to.add_argument(
        "--cooldown", type=whole(0, 3600), default=EndpointSpec.cooldown_s, help="seconds between two scalings"
    )
    to.add_argument(
        "--capture-percent", type=whole(0, 100), default=EndpointSpec.capture_percent, help="of the answers"
    )
    to.add_argument(
        "--update", choices=(CANARY, ALL_AT_ONCE), default=EndpointSpec.update, help="how traffic is shifted"
    )
    to.add_argument(
        "--bake", type=whole(0, 3600), default=EndpointSpec.bake_s, help="seconds of alarm watch after each shift"
    )
    to.add_argument("--link-buckets", default=get("BINWATCH_S3_BUCKETS", ""), help="that requests may link to")


def read_endpoint_spec(
    options: Mapping[str, Any], dry_run: bool = False, destroy: bool = False
) -> tuple[EndpointSpec, list[str]]:
    """What the options want, and what must be said of it, such as what a dry run put in for what they lack.

    To ``destroy`` no role is needed. Raises SettingsError with all problems.
    """
    assumed = {"role": NOWHERE_ROLE} if destroy else {}
    if dry_run:
        assumed = {"region": NOWHERE_REGION, "role": NOWHERE_ROLE, "bucket": NOWHERE_BUCKET}
    given = {key: value for key, value in options.items() if value not in (None, "")}
    notes = [
        f"no {key} was given: {value} stands for it" for key, value in assumed.items() if dry_run and key not in given
    ]
    given = {**assumed, **given}
    found = EndpointSpec(
        region=given.get("region", ""),
        role=given.get("role", ""),
        bucket=given.get("bucket", ""),
        prefix=str(given.get("prefix", "")).strip("/"),
        endpoint=given.get("endpoint", ""),
        instance_type=given["instance_type"],
        accelerator=given.get("accelerator_type", ""),
        serverless_mb=given["serverless_memory_mb"],
        image_uri=given.get("image", ""),
        least=given["min_instances"],
        most=given["max_instances"],
        cpu_percent=given["cpu_percent"],
        cooldown_s=given["cooldown"],
        capture_percent=given["capture_percent"],
        update=given["update"],
        bake_s=given["bake"],
        link_buckets=given.get("link_buckets", ""),
    )
    problems = _problems(found)
    if problems:
        raise SettingsError("; ".join(problems))
    return found, [*notes, *([] if destroy else found.image.warnings)]


def _problems(found: EndpointSpec) -> list[str]:
    """Everything that cannot be, in one list."""
    checks = {
        f"the region is {found.region!r}; give --region, such as eu-central-1": REGION.fullmatch(found.region),
        f"the role is {found.role!r}; give --role or BINWATCH_AWS_ROLE, as arn:aws:iam::ACCOUNT:role/NAME": (
            ROLE.fullmatch(found.role)
        ),
        f"the bucket is {found.bucket!r}; give --bucket or BINWATCH_AWS_BUCKET, a bucket's name without s3://": (
            BUCKET.fullmatch(found.bucket)
        ),
        f"the prefix is {found.prefix!r}; it may have letters, digits and . _ - /": PREFIX.fullmatch(found.prefix),
        f"the endpoint's name is {found.endpoint!r}; it may have letters, digits and hyphens between them, at most "
        f"{LONGEST_NAME}": NAME.fullmatch(found.endpoint) and len(found.endpoint) <= LONGEST_NAME,
        f"{found.least} instances at least are more than {found.most} at most": found.least <= found.most,
        "Elastic Inference needs instances: leave out --serverless-memory-mb or --accelerator-type": not (
            found.accelerator and found.serverless_mb
        ),
        f"--serverless-memory-mb is {found.serverless_mb}; SageMaker has multiples of 1024": found.serverless_mb % 1024
        == 0,
    }
    return [problem for problem, good in checks.items() if not good]


def whole(least: int, most: int) -> Any:
    """A type for argparse: a whole number in a range."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return number
