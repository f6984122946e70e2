"""What the options of a deployment become, and what is said of what cannot be."""

import argparse
from typing import Any

import pytest

from serve.errors import SettingsError
from trainer.aws.endpoint import endpoint_spec
from trainer.aws.endpoint.deploy import Return, way_back
from trainer.aws.endpoint.images import image_for

GIVEN = ["--region", "eu-central-1", "--role", "arn:aws:iam::123456789012:role/binwatch", "--bucket", "a-bucket"]


def parsed(*words: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    endpoint_spec.add_options(parser, environ or {})
    return vars(parser.parse_args(words))


def test_the_defaults_are_the_report_s() -> None:
    found, notes = endpoint_spec.read_endpoint_spec(parsed(*GIVEN))
    assert (found.least, found.most, found.cpu_percent, found.cooldown_s, found.capture_percent) == (1, 3, 70, 30, 100)
    assert notes == []


def test_role_bucket_and_region_come_from_the_environment_too() -> None:
    environ = {"AWS_REGION": "us-west-2", "BINWATCH_AWS_ROLE": GIVEN[3], "BINWATCH_AWS_BUCKET": "another"}
    found, _ = endpoint_spec.read_endpoint_spec(parsed(environ=environ))
    assert (found.region, found.role, found.bucket) == ("us-west-2", GIVEN[3], "another")


def test_a_dry_run_names_what_it_put_in() -> None:
    found, notes = endpoint_spec.read_endpoint_spec(parsed(), dry_run=True)
    assert found.bucket == "placeholder-bucket"
    assert len(notes) == 3
    assert "no role was given" in notes[1]


def test_all_that_is_missing_or_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        endpoint_spec.read_endpoint_spec(parsed("--endpoint", "under_score", "--min-instances", "4"))
    said = str(caught.value)
    for word in ("region", "role", "bucket", "'under_score'", "4 instances at least"):
        assert word in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--role", "binwatch"], "arn:aws:iam::ACCOUNT:role/NAME"),
        (["--bucket", "s3://a-bucket"], "without s3://"),
        (["--endpoint", "e" * 39], "at most 38"),
        (["--prefix", "a//b"], "the prefix is 'a//b'"),
        (["--region", "Frankfurt"], "such as eu-central-1"),
        (["--serverless-memory-mb", "1500"], "multiples of 1024"),
        (["--serverless-memory-mb", "2048", "--accelerator-type", "ml.eia2.medium"], "needs instances"),
        (["--instance-type", "ml.inf1.xlarge"], "first generation"),
    ],
)
def test_says_what_to_give_instead(words: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        endpoint_spec.read_endpoint_spec(parsed(*GIVEN, *words))


def test_elastic_inference_comes_with_a_warning_and_the_flags_of_what_replaces_it() -> None:
    found, notes = endpoint_spec.read_endpoint_spec(parsed(*GIVEN, "--accelerator-type", "ml.eia2.medium"))
    assert "/pytorch-inference-eia:1.5.1" in found.image.uri
    for word in (
        "2023-04-15",
        "not verified against AWS",
        "--instance-type ml.c7g.large",
        "ml.inf2.xlarge",
        "--serverless-memory-mb",
        "ml.g4dn.xlarge",
    ):
        assert word in notes[0]


@pytest.mark.parametrize(
    ("instance_type", "image"),
    [
        ("ml.m5.large", "pytorch-inference:2.6.0-cpu-py312"),
        ("ml.c7g.large", "pytorch-inference-graviton:2.4.0-cpu-py311-ubuntu22.04-sagemaker"),
        ("ml.g4dn.xlarge", "pytorch-inference:2.6.0-gpu-py312"),
        ("ml.inf2.xlarge", "pytorch-inference-neuronx:"),
    ],
)
def test_each_kind_of_instance_gets_its_container(instance_type: str, image: str) -> None:
    found = image_for("eu-central-1", instance_type)
    assert found.uri.startswith(f"763104351884.dkr.ecr.eu-central-1.amazonaws.com/{image}")


def test_china_and_newer_regions_have_owners_and_domains_of_their_own() -> None:
    assert image_for("cn-north-1", "ml.m5.large").uri.startswith("727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/")
    assert image_for("il-central-1", "ml.m5.large").uri.startswith("780543022126.")


@pytest.mark.parametrize(
    ("now", "proven", "expected"),
    [
        ("old", None, Return("old", False, "the endpoint was returned to old")),
        ("old", "older", Return("old", False, "the endpoint was returned to old")),
        ("new", "old", Return("old", False, "the endpoint was returned to old")),
        (None, "old", Return("old", False, "the endpoint was returned to old")),
        ("new", None, Return(None, True, "there was nothing to return to, so the endpoint was deleted")),
        (None, "new", Return(None, True, "there was nothing to return to, so the endpoint was deleted")),
        (None, None, Return(None, True, "there was nothing to return to, so the endpoint was deleted")),
        ("new", "new", Return(None, False, "it passed with the same configuration before, so new was left as it is")),
    ],
)
def test_a_failed_deployment_goes_back_to_what_was_good(now: str, proven: str, expected: Return) -> None:
    assert way_back(now, "new", proven) == expected
