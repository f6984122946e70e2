"""Where on AWS the work happens: a role, an image of the trainer, a bucket. Pure: settings in, an Account out."""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """``role``: what jobs may do; ``image``: the trainer's in ECR; all files lie below ``bucket``/``prefix``."""

    role: str
    image: str
    bucket: str
    prefix: str = "binwatch"

    @property
    def region(self) -> str:
        """The region of the image, in which everything else must be too."""
        found = IMAGE.fullmatch(self.image)
        return found["region"] if found else ""

    @property
    def image_version(self) -> str:
        """The image's tag, or the start of its digest."""
        found = IMAGE.fullmatch(self.image)
        return (found["tag"] or found["digest"][:12]) if found else ""

    def uri(self, *parts: str) -> str:
        """An address below the prefix."""
        return "/".join((f"s3://{self.bucket}/{self.prefix}", *parts))


def add_options(to: ArgumentParser, environ: Mapping[str, str]) -> None:
    """--role, --image, --bucket, --prefix, --endpoint-url, from BINWATCH_AWS_... without."""
    get = environ.get
    to.add_argument("--role", default=get("BINWATCH_AWS_ROLE"), help="ARN of what jobs may do")
    to.add_argument("--image", default=get("BINWATCH_AWS_IMAGE"), help="the trainer's image in ECR, with its version")
    to.add_argument("--bucket", default=get("BINWATCH_AWS_BUCKET"), help="where photos and models lie")
    to.add_argument("--prefix", default=get("BINWATCH_AWS_PREFIX") or Account.prefix, help="below which they lie")
    to.add_argument("--endpoint-url", default=get("AWS_ENDPOINT_URL"), help="another service than AWS itself")


def account(options: Mapping[str, Any]) -> Account:
    """The account that ``role``, ``image``, ``bucket`` and ``prefix`` name. Raises SettingsError, with all problems."""
    role, image, bucket = (str(options.get(key) or "") for key in ("role", "image", "bucket"))
    prefix = str(options.get("prefix") or Account.prefix).strip("/")
    problems = [*_role(role), *_image(image), *_bucket(bucket)]
    if not PREFIX.fullmatch(prefix):
        problems.append(f"the prefix {prefix!r} has other signs than letters, digits and . _ - /")
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
    found = IMAGE.fullmatch(image)
    if not found:
        return [f"the image {image!r} is not in ECR with a tag or digest; it looks like {shape}"]
    if found["tag"] == "latest":
        return [f"the image {image!r} has the tag latest, which says nothing to a cache; push it with a version"]
    return []


def _bucket(bucket: str) -> list[str]:
    if not bucket:
        return ["no bucket: give --bucket or BINWATCH_AWS_BUCKET, where photos and models lie"]
    if not BUCKET.fullmatch(bucket):
        return [f"{bucket!r} is no name of a bucket: 3-63 small letters, digits, dots and hyphens, without s3://"]
    return []
