import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_aws_pipeline import HERE, ROOT, all_steps
from trainer.aws.definition import definition
from trainer.aws.requests import service_model

BEHIND = {
    "deploy": {
        "iam:PassRole": "the model and the endpoint take the role",
        "iam:CreateServiceLinkedRole": "RegisterScalableTarget makes autoscaling's own role, once an account",
        "sagemaker:AddTags": "what is made is made with tags",
        "sagemaker:UpdateEndpointWeightsAndCapacities": "autoscaling asks whether its caller may",
        "cloudwatch:DescribeAlarms": "UpdateEndpoint looks at the alarms; PutScalingPolicy makes some",
    },
    "pipeline": {"iam:PassRole": "pipeline and jobs take the role"},
}
"""What AWS asks for behind the operations, and why."""
OTHERWISE = {"s3:ListObjectsV2": "s3:ListBucket", "s3:HeadObject": "s3:GetObject"}
OF_PIPELINE = {"account", "definition", "jobs", "launch", "pipelines", "steps", "tuning"}


def policy(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text())
    return found


def actions(name: str) -> set[str]:
    return {action for each in policy(name)["Statement"] for action in each["Action"]}


def operations(paths: list[Path]) -> set[str]:
    """The actions behind every operation that a module names, as botocore's descriptions know them."""
    words = {
        node.value
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    services = {
        "sagemaker": "sagemaker",
        "sagemaker-runtime": "sagemaker",
        "s3": "s3",
        "cloudwatch": "cloudwatch",
        "application-autoscaling": "application-autoscaling",
    }
    found = {
        f"{prefix}:{word}"
        for service, prefix in services.items()
        for word in words & set(service_model(service).operation_names)
    }
    return {OTHERWISE.get(each, each) for each in found}


@pytest.mark.parametrize("name", ["deploy", "pipeline"])
def test_a_policy_allows_what_the_script_can_call_and_no_more(name: str) -> None:
    modules = sorted((ROOT / "trainer" / "aws").glob("*.py"))
    paths = [each for each in modules if (each.stem in OF_PIPELINE) == (name == "pipeline") and each.stem != "requests"]
    needed = operations(paths)
    assert len(needed) >= 9
    assert actions(name) == needed | set(BEHIND[name])


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "iam").glob("*.json")), ids=lambda path: path.stem)
def test_a_policy_is_a_valid_one_and_wide_only_where_aws_knows_no_resource(path: Path) -> None:
    content = json.loads(path.read_text())
    assert content["Version"] == "2012-10-17"
    names = [each["Sid"] for each in content["Statement"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", each) for each in names)
    anywhere = {
        "cloudwatch:DescribeAlarms",
        "cloudwatch:PutMetricData",
        "ecr:GetAuthorizationToken",
        "sagemaker:ListEndpointConfigs",
        "sagemaker:ListModels",
    }
    for each in content["Statement"]:
        assert set(each) <= {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}
        assert each["Effect"] == "Allow"
        if path.stem == "trust":
            continue
        assert all(re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action) for action in each["Action"]), "no wildcard"
        if each["Resource"] == ["*"]:
            assert set(each["Action"]) <= anywhere
        else:
            assert all(re.fullmatch(r"arn:aws:[a-z0-9-]+:[A-Z]*:[A-Z]*:[\w./:*-]+", arn) for arn in each["Resource"])
    size = len(re.sub(r"\s", "", path.read_text()))
    assert size <= 6144, "AWS takes so many signs in a managed policy"


def test_the_role_may_run_every_kind_of_step_and_reach_what_the_definition_names() -> None:
    kinds = {each["Type"] for each in all_steps().values()} - {"Condition"}
    assert {f"sagemaker:{verb}{kind}Job" for kind in kinds for verb in ("Create", "Describe", "Stop")} <= actions(
        "role"
    )
    addresses = set(re.findall(r"s3://([^\"]+)", json.dumps(definition(HERE))))
    assert addresses
    assert all(each.startswith("our-bins/binwatch/") for each in addresses), "role.json reaches BUCKET/binwatch/"
