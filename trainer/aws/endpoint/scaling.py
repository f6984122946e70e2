"""Autoscaling of the endpoint's instances: Application Auto Scaling tracks a target of CPU utilisation. Pure.

https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-add-code-define.html
"""

from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import VARIANT, dimensions
from trainer.aws.requests import Answer, AwsRequest

SERVICE = "application-autoscaling"
POLICY = "cpu"


def scale(spec: EndpointSpec) -> list[AwsRequest]:
    """Start autoscaling towards ``cpu_percent``; nothing for a serverless endpoint.

    CloudWatch counts 100 % per virtual CPU: 70 % means 0.7 CPUs, which is 35 % of an instance with two.
    """
    if spec.serverless_mb:
        return []
    metric = {
        "MetricName": "CPUUtilization",
        "Namespace": "/aws/sagemaker/Endpoints",
        "Dimensions": dimensions(spec),
        "Statistic": "Average",
        "Unit": "Percent",
    }
    tracking = {
        "TargetValue": float(spec.cpu_percent),
        "CustomizedMetricSpecification": metric,
        "ScaleOutCooldown": spec.cooldown_s,
        "ScaleInCooldown": spec.cooldown_s,
    }
    register = {**_target(spec), "MinCapacity": spec.min_instances, "MaxCapacity": spec.max_instances}
    policy = {
        "PolicyName": POLICY,
        **_target(spec),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }
    return [AwsRequest(SERVICE, "RegisterScalableTarget", register), AwsRequest(SERVICE, "PutScalingPolicy", policy)]


def stop(spec: EndpointSpec) -> list[AwsRequest]:
    """Stop autoscaling."""
    policy = {"PolicyName": POLICY, **_target(spec)}
    return [
        AwsRequest(SERVICE, "DeleteScalingPolicy", policy),
        AwsRequest(SERVICE, "DeregisterScalableTarget", _target(spec)),
    ]


def must_pause(old: Answer | None, new: Answer | None) -> bool:
    """Whether SageMaker refuses the update while autoscaling is on: where the type of instance changes.

    ``old``, ``new``: configurations as DescribeEndpointConfig describes them, None for one that does not exist.
    """
    old_type, new_type = (
        (config or {}).get("ProductionVariants", [{}])[0].get("InstanceType") for config in (old, new)
    )
    return old_type is None or old_type != new_type


def _target(spec: EndpointSpec) -> dict[str, object]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{spec.endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
