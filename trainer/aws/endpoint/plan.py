"""What a dry run prints: the requests of a deployment, in order, as they are made when all goes well. Pure.

Looking at something that is being made or changed is one request here, where a real run repeats it.
"""

from trainer.aws.endpoint import destroy, hosting, scaling
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import Package
from trainer.aws.requests import AwsRequest

BEFORE = "the-configuration-before"
"""Stands for what an update finds."""


def deployment(wanted: EndpointSpec, package: Package, exists: bool) -> list[AwsRequest]:
    """A deployment to an endpoint that is not there or, with ``exists``, to one that has the least of instances."""
    named = hosting.names(wanted, package)
    stored = [each for put in hosting.uploads(wanted, package) for each in (hosting.look_up(put), put)]
    if exists:
        move = [
            hosting.describe_config(BEFORE),
            hosting.describe_config(named.config),
            hosting.update_endpoint(wanted, named.config, wanted.least),
        ]
    else:
        move = [hosting.create_endpoint(wanted, named.config)]
    return [
        hosting.describe(wanted),
        *stored,
        hosting.describe_model(named.model),
        hosting.create_model(wanted, package),
        hosting.describe_config(named.config),
        hosting.create_config(wanted, package),
        *hosting.alarms(wanted),
        hosting.read_accuracy(wanted),
        *move,
        hosting.describe(wanted),
        *(hosting.ask(wanted, photo) for photo in package.golden),
        *scaling.scale(wanted),
        hosting.accuracy(wanted, package),
    ]


def removal(wanted: EndpointSpec, package: Package) -> list[AwsRequest]:
    """A removal that finds what deploying ``package`` makes."""
    named = hosting.names(wanted, package)
    keys = (named.archive_key, named.key, hosting.accuracy_key(wanted))
    made = destroy.Made((named.config,), (named.model,), keys)
    return [*destroy.listing(wanted), hosting.describe(wanted), *destroy.removal(wanted, made)]
