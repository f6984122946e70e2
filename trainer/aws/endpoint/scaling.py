"""Autoscaling of the endpoint's instances: a target on their CPUs, tracked by Application Auto Scaling. Pure.

https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-add-code-define.html
"""

from collections.abc import Mapping
from typing import Any

from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import VARIANT, dimensions
from trainer.aws.requests import AwsRequest

SERVICE = "application-autoscaling"
POLICY = "cpu"


def scale(wanted: EndpointSpec) -> list[AwsRequest]:
    """Keep the CPUs busy for ``cpu_percent`` with ``least`` to ``most`` instances; a serverless endpoint has none.

    CloudWatch counts 100 % a virtual CPU: 70 % is all of 0.7 CPUs, 35 % of an instance with two.
    """
    if wanted.serverless_mb:
        return []
    metric = {
        "MetricName": "CPUUtilization",
        "Namespace": "/aws/sagemaker/Endpoints",
        "Dimensions": dimensions(wanted),
        "Statistic": "Average",
        "Unit": "Percent",
    }
    tracking = {
        "TargetValue": float(wanted.cpu_percent),
        "CustomizedMetricSpecification": metric,
        "ScaleOutCooldown": wanted.cooldown_s,
        "ScaleInCooldown": wanted.cooldown_s,
    }
    register = {**_target(wanted), "MinCapacity": wanted.least, "MaxCapacity": wanted.most}
    policy = {
        "PolicyName": POLICY,
        **_target(wanted),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }
    return [AwsRequest(SERVICE, "RegisterScalableTarget", register), AwsRequest(SERVICE, "PutScalingPolicy", policy)]


def stop(wanted: EndpointSpec) -> list[AwsRequest]:
    """Scale no more."""
    policy = {"PolicyName": POLICY, **_target(wanted)}
    return [
        AwsRequest(SERVICE, "DeleteScalingPolicy", policy),
        AwsRequest(SERVICE, "DeregisterScalableTarget", _target(wanted)),
    ]


def must_pause(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether an update is refused while the endpoint is scaled: where the type of instance changes.

    ``old``, ``new``: configurations as DescribeEndpointConfig gives them, None for one that is gone.
    """
    before, after = ((each or {}).get("ProductionVariants", [{}])[0].get("InstanceType") for each in (old, new))
    return before is None or before != after


def _target(wanted: EndpointSpec) -> dict[str, Any]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{wanted.endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
