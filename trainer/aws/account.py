"""The AWS account in which the pipeline runs: a role, the trainer's image, a bucket. Pure."""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass

from serve.errors import SettingsError

ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
IMAGE = re.compile(
    r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/[a-z0-9][a-z0-9._/-]*"
    r"(?::(?P<tag>[\w][\w.-]{0,127})|@sha256:(?P<digest>[0-9a-f]{64}))"
)
BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PREFIX = re.compile(r"[\w.-]+(?:/[\w.-]+)*")


@dataclass(frozen=True)
class Account:
    """``role``: of the jobs; ``image``: the trainer's in ECR; all files are below ``bucket``/``prefix``."""

    role: str
    image: str
    bucket: str
    prefix: str = "binwatch"

    @property
    def region(self) -> str:
        """The region of the image; everything else must be in the same one."""
        match = IMAGE.fullmatch(self.image)
        return match["region"] if match else ""

    @property
    def image_version(self) -> str:
        """The image's tag, or the start of its digest."""
        match = IMAGE.fullmatch(self.image)
        return (match["tag"] or match["digest"][:12]) if match else ""

    def uri(self, *parts: str) -> str:
        """The address ``s3://bucket/prefix/parts``."""
        return "/".join((f"s3://{self.bucket}/{self.prefix}", *parts))


def folder(uri: str) -> str:
    """An address of a folder, which ends in a slash: SageMaker reads a prefix, and ``data`` is one of ``data-old``."""
    return f"{uri.rstrip('/')}/"


def add_options(parser: ArgumentParser, environ: Mapping[str, str]) -> None:
    """--role, --image, --bucket, --prefix and --endpoint-url, which default to environment variables."""
    add, get = parser.add_argument, environ.get
    add("--role", default=get("BINWATCH_AWS_ROLE"), help="ARN of the role of the jobs")
    add("--image", default=get("BINWATCH_AWS_IMAGE"), help="the trainer's image in ECR, with its version")
    add("--bucket", default=get("BINWATCH_AWS_BUCKET"), help="the bucket of photos and models")
    add("--prefix", default=get("BINWATCH_AWS_PREFIX") or Account.prefix, help="prefix of everything in the bucket")
    add("--endpoint-url", default=get("AWS_ENDPOINT_URL"), help="address of a stand-in for AWS")


def read_account(options: Mapping[str, object]) -> Account:
    """Read ``role``, ``image``, ``bucket`` and ``prefix``. Raises SettingsError with all problems."""
    role, image, bucket = (str(options.get(key) or "") for key in ("role", "image", "bucket"))
    prefix = str(options.get("prefix") or Account.prefix).strip("/")
    problems = [*_role(role), *_image(image), *_bucket(bucket)]
    if not PREFIX.fullmatch(prefix):
        problems.append(f"the prefix {prefix!r} has other characters than letters, digits and . _ - /")
    if problems:
        raise SettingsError("; ".join(problems))
    return Account(role, image, bucket, prefix)


def _role(role: str) -> list[str]:
    if not role:
        return ["no role: give --role or BINWATCH_AWS_ROLE, the ARN of the role that docs/aws.md describes"]
    shape = "arn:aws:iam::ACCOUNT:role/NAME"
    return [] if ROLE.fullmatch(role) else [f"the role {role!r} is no ARN of a role; it looks like {shape}"]


def _image(image: str) -> list[str]:
    shape = "ACCOUNT.dkr.ecr.REGION.amazonaws.com/binwatch-trainer:VERSION"
    if not image:
        return [f"no image: give --image or BINWATCH_AWS_IMAGE, the trainer's image in ECR, {shape}"]
    match = IMAGE.fullmatch(image)
    if not match:
        return [f"the image {image!r} is not in ECR with a tag or digest; it looks like {shape}"]
    if match["tag"] == "latest":
        return [f"the image {image!r} has the tag latest, which identifies no version for the cache; push a version"]
    return []


def _bucket(bucket: str) -> list[str]:
    if not bucket:
        return ["no bucket: give --bucket or BINWATCH_AWS_BUCKET, for photos and models"]
    if not BUCKET.fullmatch(bucket):
        return [f"{bucket!r} is no name of a bucket: 3-63 lowercase letters, digits, dots and hyphens, without s3://"]
    return []
