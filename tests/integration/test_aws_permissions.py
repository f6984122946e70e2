import ast
import json
import re
from pathlib import Path

import pytest

from tests.integration.test_aws_pipeline import HERE, ROOT, all_steps
from trainer.aws.definition import definition
from trainer.aws.requests import Answer, service_model

INDIRECT = {
    "deploy": {
        "iam:PassRole": "the model and the endpoint take the role",
        "iam:CreateServiceLinkedRole": "RegisterScalableTarget creates autoscaling's own role, once per account",
        "sagemaker:AddTags": "resources are created with tags",
        "sagemaker:UpdateEndpointWeightsAndCapacities": "autoscaling checks whether its caller may",
        "cloudwatch:DescribeAlarms": "UpdateEndpoint reads the alarms; PutScalingPolicy creates some",
    },
    "pipeline": {"iam:PassRole": "pipeline and jobs take the role"},
}
"""Permissions that the operations need beyond their own, and why."""
ACTIONS = {"s3:ListObjectsV2": "s3:ListBucket", "s3:HeadObject": "s3:GetObject"}
PIPELINE_MODULES = (
    "account",
    "definition",
    "pipeline_commands",
    "pipelines",
    "processing_steps",
    "training_jobs",
    "tuning",
)
MODULES = {
    "deploy": sorted((ROOT / "trainer" / "aws" / "endpoint").glob("*.py")),
    "pipeline": [ROOT / "trainer" / "aws" / f"{stem}.py" for stem in PIPELINE_MODULES],
}


def policy(name: str) -> Answer:
    content: Answer = json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text())
    return content


def actions(name: str) -> set[str]:
    return {action for statement in policy(name)["Statement"] for action in statement["Action"]}


def operations(paths: list[Path]) -> set[str]:
    """The actions of all operations that the modules name; botocore's descriptions list the operations."""
    names = {
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
    actions = {
        f"{prefix}:{operation}"
        for service, prefix in services.items()
        for operation in names & set(service_model(service).operation_names)
    }
    return {ACTIONS.get(action, action) for action in actions}


@pytest.mark.parametrize("name", ["deploy", "pipeline"])
def test_a_policy_allows_what_the_script_can_call_and_no_more(name: str) -> None:
    needed = operations(MODULES[name])
    assert len(needed) >= 9
    assert actions(name) == needed | set(INDIRECT[name])


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "iam").glob("*.json")), ids=lambda path: path.stem)
def test_a_policy_is_a_valid_one_and_wide_only_where_aws_knows_no_resource(path: Path) -> None:
    content = json.loads(path.read_text())
    assert content["Version"] == "2012-10-17"
    names = [statement["Sid"] for statement in content["Statement"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", name) for name in names)
    without_resource = {
        "cloudwatch:DescribeAlarms",
        "cloudwatch:PutMetricData",
        "ecr:GetAuthorizationToken",
        "sagemaker:ListEndpointConfigs",
        "sagemaker:ListModels",
    }
    for statement in content["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}
        assert statement["Effect"] == "Allow"
        if path.stem == "trust":
            continue
        assert all(re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action) for action in statement["Action"]), "no wildcard"
        if statement["Resource"] == ["*"]:
            assert set(statement["Action"]) <= without_resource
        else:
            assert all(
                re.fullmatch(r"arn:aws:[a-z0-9-]+:[A-Z]*:[A-Z]*:[\w./:*-]+", arn) for arn in statement["Resource"]
            )
    size = len(re.sub(r"\s", "", path.read_text()))
    assert size <= 6144, "AWS's limit for a managed policy"


def test_the_role_may_run_every_kind_of_step_and_reach_what_the_definition_names() -> None:
    kinds = {step["Type"] for step in all_steps().values()} - {"Condition"}
    assert {f"sagemaker:{verb}{kind}Job" for kind in kinds for verb in ("Create", "Describe", "Stop")} <= actions(
        "role"
    )
    addresses = set(re.findall(r"s3://([^\"]+)", json.dumps(definition(HERE))))
    assert addresses
    assert all(address.startswith("our-bins/binwatch/") for address in addresses), "role.json reaches BUCKET/binwatch/"
