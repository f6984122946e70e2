"""The requests that a dry run prints: those of a deployment that succeeds, in order. Pure.

Where a real run polls, the plan has one request.
"""

from trainer.aws.endpoint import destroy, hosting, scaling
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import Package
from trainer.aws.requests import AwsRequest

PREVIOUS_CONFIG = "the-configuration-before"
"""Placeholder for the configuration that an update replaces."""


def deployment(spec: EndpointSpec, package: Package, exists: bool) -> list[AwsRequest]:
    """A deployment to a new endpoint or, with ``exists``, to one that runs its minimum number of instances."""
    resource_names = hosting.names(spec, package)
    uploads = [request for put in hosting.uploads(spec, package) for request in (hosting.head_of(put), put)]
    if exists:
        switch = [
            hosting.describe_config(PREVIOUS_CONFIG),
            hosting.describe_config(resource_names.config),
            hosting.update_endpoint(spec, resource_names.config, spec.min_instances),
        ]
    else:
        switch = [hosting.create_endpoint(spec, resource_names.config)]
    return [
        hosting.describe(spec),
        *uploads,
        hosting.describe_model(resource_names.model),
        hosting.create_model(spec, package),
        hosting.describe_config(resource_names.config),
        hosting.create_config(spec, package),
        *hosting.alarms(spec),
        hosting.read_accuracy(spec),
        *switch,
        hosting.describe(spec),
        *(hosting.invoke(spec, photo) for photo in package.golden),
        *scaling.scale(spec),
        hosting.put_accuracy(spec, package),
    ]


def removal(spec: EndpointSpec, package: Package) -> list[AwsRequest]:
    """The removal of what deploying ``package`` creates."""
    resource_names = hosting.names(spec, package)
    keys = (resource_names.archive_key, resource_names.key, hosting.accuracy_key(spec))
    resources = destroy.Resources((resource_names.config,), (resource_names.model,), keys)
    return [*destroy.listing(spec), hosting.describe(spec), *destroy.removal(spec, resources)]
