"""The options of a deployment, and the errors about invalid ones."""

import argparse

import pytest

from serve.errors import SettingsError
from trainer.aws.endpoint import endpoint_spec
from trainer.aws.endpoint.deploy import Fallback, choose_fallback
from trainer.aws.endpoint.images import image_for

REQUIRED = ["--region", "eu-central-1", "--role", "arn:aws:iam::123456789012:role/binwatch", "--bucket", "a-bucket"]


def parse(*words: str, environ: dict[str, str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    endpoint_spec.add_options(parser, environ or {})
    return vars(parser.parse_args(words))


def test_the_defaults_are_the_report_s() -> None:
    spec, warnings = endpoint_spec.read_endpoint_spec(parse(*REQUIRED))
    assert (spec.min_instances, spec.max_instances) == (1, 3)
    assert (spec.cpu_percent, spec.cooldown_s, spec.capture_percent) == (70, 30, 100)
    assert warnings == []


def test_role_bucket_and_region_come_from_the_environment_too() -> None:
    environ = {"AWS_REGION": "us-west-2", "BINWATCH_AWS_ROLE": REQUIRED[3], "BINWATCH_AWS_BUCKET": "another"}
    spec, _ = endpoint_spec.read_endpoint_spec(parse(environ=environ))
    assert (spec.region, spec.role, spec.bucket) == ("us-west-2", REQUIRED[3], "another")


def test_a_dry_run_names_its_placeholders() -> None:
    spec, warnings = endpoint_spec.read_endpoint_spec(parse(), dry_run=True)
    assert spec.bucket == "placeholder-bucket"
    assert len(warnings) == 3
    assert [key in warning for key, warning in zip(("region", "role", "bucket"), warnings, strict=True)] == [True] * 3


def test_all_that_is_missing_or_wrong_is_one_error() -> None:
    with pytest.raises(SettingsError) as caught:
        endpoint_spec.read_endpoint_spec(parse("--endpoint", "under_score", "--min-instances", "4"))
    for word in ("region", "role", "bucket", "'under_score'", "4 instances"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("words", "value"),
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
def test_says_what_to_give_instead(words: list[str], value: str) -> None:
    with pytest.raises(SettingsError, match=value):
        endpoint_spec.read_endpoint_spec(parse(*REQUIRED, *words))


def test_elastic_inference_comes_with_a_warning_and_the_flags_of_what_replaces_it() -> None:
    spec, warnings = endpoint_spec.read_endpoint_spec(parse(*REQUIRED, "--accelerator-type", "ml.eia2.medium"))
    assert "/pytorch-inference-eia:1.5.1" in spec.image.uri
    for word in (
        "2023-04-15",
        "not verified against AWS",
        "--instance-type ml.c7g.large",
        "ml.inf2.xlarge",
        "--serverless-memory-mb",
        "ml.g4dn.xlarge",
    ):
        assert word in warnings[0]


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
    container = image_for("eu-central-1", instance_type)
    assert container.uri.startswith(f"763104351884.dkr.ecr.eu-central-1.amazonaws.com/{image}")


def test_china_and_newer_regions_have_owners_and_domains_of_their_own() -> None:
    assert image_for("cn-north-1", "ml.m5.large").uri.startswith("727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/")
    assert image_for("il-central-1", "ml.m5.large").uri.startswith("780543022126.")


@pytest.mark.parametrize(
    ("current", "proven", "expected"),
    [
        ("old", None, Fallback("old", False, "the endpoint was returned to old")),
        ("old", "older", Fallback("old", False, "the endpoint was returned to old")),
        ("new", "old", Fallback("old", False, "the endpoint was returned to old")),
        (None, "old", Fallback("old", False, "the endpoint was returned to old")),
        ("new", None, Fallback(None, True, "there was nothing to return to, so the endpoint was deleted")),
        (None, "new", Fallback(None, True, "there was nothing to return to, so the endpoint was deleted")),
        (None, None, Fallback(None, True, "there was nothing to return to, so the endpoint was deleted")),
        ("new", "new", Fallback(None, False, "it passed with the same configuration before, so new was left as it is")),
    ],
)
def test_a_failed_deployment_falls_back_to_what_worked(current: str, proven: str, expected: Fallback) -> None:
    assert choose_fallback(current, "new", proven) == expected
