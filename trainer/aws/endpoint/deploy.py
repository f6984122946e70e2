"""Deploying: make or update the endpoint, watch it, try it with golden photos, roll back what fails.

``deploy`` can be run again after a crash at any point: names carry digests, so what is there already is left as it is,
an endpoint that is being changed is waited for, and one that failed is made anew. accuracy.json is written last: it
names the configuration that passed, which a later failure returns to.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.errors import AwsError, CanaryError, ServerError, SettingsError
from trainer.aws.endpoint import hosting, scaling
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import SAGEMAKER, GoldenPhoto, Package
from trainer.aws.requests import Api, AwsRequest, found

log = logging.getLogger(__name__)

UNSETTLED = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}
IN_SERVICE, FAILED = "InService", "Failed"


@dataclass(frozen=True)
class Pace:
    """How often an endpoint is looked at, and how long it is waited for."""

    poll_s: float = 15.0
    timeout_s: float = 3 * 3600.0


@dataclass(frozen=True)
class DeployOutcome:
    """What was done: ``created``, ``updated``, or ``unchanged`` where it was deployed already."""

    did: str
    endpoint: str
    version: str
    config: str
    accuracy: float


@dataclass(frozen=True)
class Return:
    """Where a deployment that failed goes: to ``config``, to nothing with ``delete``, else it stays. ``reason`` why."""

    config: str | None
    delete: bool
    reason: str


def deploy(api: Api, wanted: EndpointSpec, package: Package, pace: Pace, must_exist: bool = False) -> DeployOutcome:
    """Make the endpoint answer with ``package``. Raises CanaryError where it was rolled back, AwsError, ServerError."""
    named = hosting.names(wanted, package)
    before = _clear(api, wanted, pace)
    if before is None and must_exist:
        raise ServerError(f"there is no endpoint {wanted.endpoint} to update; leave out --must-exist to make it")
    _store(api, wanted, package)
    now = before["EndpointConfigName"] if before else None
    back = way_back(now, named.config, _proven(api, wanted))
    try:
        _move(api, wanted, named.config, before)
        _settle(api, wanted, named.config, pace)
        for photo in package.golden:
            check(api, wanted, package, photo)
    except CanaryError as error:
        _go_back(api, wanted, back, pace)
        raise CanaryError(f"{error}; {back.reason}") from error
    _scale(api, wanted)
    api.call(hosting.accuracy(wanted, package))
    did = "created" if before is None else "unchanged" if now == named.config else "updated"
    return DeployOutcome(did, wanted.endpoint, package.version, named.config, package.accuracy)


def _scale(api: Api, wanted: EndpointSpec) -> None:
    for request in scaling.scale(wanted):
        api.call(request)


def way_back(now: str | None, new: str, proven: str | None) -> Return:
    """Where to go when ``new`` fails: ``now`` is what answered before, ``proven`` what passed its check last."""
    if now is not None and now != new:
        return Return(now, False, f"the endpoint was returned to {now}")
    if proven and proven != new:
        return Return(proven, False, f"the endpoint was returned to {proven}")
    if now == proven == new:
        return Return(None, False, f"it passed with the same configuration before, so {new} was left as it is")
    return Return(None, True, "there was nothing to return to, so the endpoint was deleted")


def check(api: Api, wanted: EndpointSpec, package: Package, photo: GoldenPhoto) -> None:
    """Ask about a golden photo. Raises CanaryError where the endpoint does not answer as the archive promises."""
    about = f"endpoint {wanted.endpoint} with version {package.version} answers golden photo {photo.path.name}"
    try:
        body = api.call(hosting.ask(wanted, photo))["Body"]
    except AwsError as error:
        raise CanaryError(f"{about} with an error: {error}") from error
    try:
        answer = json.loads(body)
        found_here, version = list(answer["probabilities"].values()), answer.get("model_version")
        off = min(max(abs(a - b) for a, b in zip(found_here, row, strict=True)) for row in photo.promised)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CanaryError(f"{about} with {body[:200]!r}") from error
    if not off <= package.tolerance or version != package.version:
        allowed = f"at most {package.tolerance} allowed"
        raise CanaryError(f"{about} with probabilities {off:.3f} off ({allowed}), as version {version}")


def settled(api: Api, wanted: EndpointSpec, pace: Pace) -> dict[str, Any] | None:
    """The endpoint once nothing is under way, None where there is none. Raises ServerError after ``timeout_s``."""
    begun, said = time.monotonic(), ""
    while True:
        endpoint = found(api, hosting.describe(wanted))
        status = str(endpoint["EndpointStatus"]) if endpoint else "absent"
        if status != said:
            log.info("endpoint %s: %s after %.0f s", wanted.endpoint, status, time.monotonic() - begun)
        if endpoint is None or status not in UNSETTLED:
            return endpoint
        if time.monotonic() - begun > pace.timeout_s:
            raise ServerError(
                f"endpoint {wanted.endpoint} has been {status} for {pace.timeout_s:.0f} s; "
                "run this again later: it goes on from there"
            )
        said = status
        time.sleep(pace.poll_s)


def _clear(api: Api, wanted: EndpointSpec, pace: Pace) -> dict[str, Any] | None:
    """The endpoint, in service; one that failed is deleted, which is all that SageMaker allows with it."""
    endpoint = settled(api, wanted, pace)
    if endpoint is None or endpoint["EndpointStatus"] == IN_SERVICE:
        return endpoint
    status, reason = endpoint["EndpointStatus"], endpoint.get("FailureReason", "no reason given")
    if status != FAILED:
        raise ServerError(
            f"endpoint {wanted.endpoint} is {status} ({reason}) and cannot be updated; "
            "see its log in CloudWatch, or remove it with --destroy"
        )
    log.warning("endpoint %s failed earlier (%s) and is made anew", wanted.endpoint, reason)
    delete(api, wanted, pace)
    return None


def delete(api: Api, wanted: EndpointSpec, pace: Pace) -> None:
    """Stop the endpoint, and wait until it has gone."""
    found(api, AwsRequest(SAGEMAKER, "DeleteEndpoint", {"EndpointName": wanted.endpoint}))
    settled(api, wanted, pace)


def _store(api: Api, wanted: EndpointSpec, package: Package) -> None:
    """Upload the package, name it a model, and make its configuration, as far as that is not done."""
    named = hosting.names(wanted, package)
    for put in hosting.uploads(wanted, package):
        size, there = put.parameters["Body"].path.stat().st_size, found(api, hosting.look_up(put))
        if there is None or there["ContentLength"] != size:
            log.info("uploading %.1f MB to s3://%s/%s", size / 1e6, wanted.bucket, put.parameters["Key"])
            _put(api, wanted, put)
    if not found(api, hosting.describe_model(named.model)):
        api.call(hosting.create_model(wanted, package))
    if not found(api, hosting.describe_config(named.config)):
        api.call(hosting.create_config(wanted, package))
    for request in hosting.alarms(wanted):
        api.call(request)


def _put(api: Api, wanted: EndpointSpec, put: AwsRequest) -> None:
    try:
        api.call(put)
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
        made = f"aws s3 mb s3://{wanted.bucket} --region {wanted.region}"
        raise SettingsError(f"there is no bucket {wanted.bucket}; make it with `{made}`, or name another") from error


def _proven(api: Api, wanted: EndpointSpec) -> str | None:
    """The configuration that accuracy.json names, where it is still there."""
    config = recorded(api, wanted).get("endpoint_config")
    return str(config) if config and found(api, hosting.describe_config(str(config))) else None


def recorded(api: Api, wanted: EndpointSpec) -> dict[str, Any]:
    """What accuracy.json says of this endpoint; nothing where it is missing, or another's, or written by hand."""
    answer = found(api, hosting.read_accuracy(wanted))
    try:
        content = json.loads(answer["Body"]) if answer else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) and content.get("endpoint") == wanted.endpoint else {}


def _move(api: Api, wanted: EndpointSpec, config: str, before: Mapping[str, Any] | None) -> None:
    if before is None:
        api.call(hosting.create_endpoint(wanted, config))
        return
    if before["EndpointConfigName"] == config:
        return
    _pause_scaling(api, wanted, before["EndpointConfigName"], config)
    variant = (before.get("ProductionVariants") or [{}])[0]
    api.call(hosting.update_endpoint(wanted, config, int(variant.get("CurrentInstanceCount") or wanted.least)))


def _pause_scaling(api: Api, wanted: EndpointSpec, old: str, new: str) -> None:
    if scaling.must_pause(*(found(api, hosting.describe_config(each)) for each in (old, new))):
        for request in scaling.stop(wanted):
            found(api, request)


def _settle(api: Api, wanted: EndpointSpec, config: str, pace: Pace) -> None:
    """Wait for the change. Raises CanaryError where it failed, or an alarm rolled it back."""
    endpoint = settled(api, wanted, pace)
    if endpoint is None:
        raise CanaryError(f"endpoint {wanted.endpoint} was deleted meanwhile")
    reason = endpoint.get("FailureReason", "no reason given; see the endpoint's log and the alarms in CloudWatch")
    if endpoint["EndpointStatus"] != IN_SERVICE:
        raise CanaryError(f"endpoint {wanted.endpoint} is {endpoint['EndpointStatus']} with {config}: {reason}")
    if endpoint["EndpointConfigName"] != config:
        raise CanaryError(f"SageMaker rolled {config} back: {reason}")


def _go_back(api: Api, wanted: EndpointSpec, back: Return, pace: Pace) -> None:
    """Return to what answered before: an update where the endpoint lives, a new one where it failed."""
    endpoint = settled(api, wanted, pace)
    if back.delete or (endpoint and endpoint["EndpointStatus"] == FAILED):
        delete(api, wanted, pace)
        endpoint = None
    if back.config is None:
        return
    if endpoint is None:
        api.call(hosting.create_endpoint(wanted, back.config))
    elif endpoint["EndpointConfigName"] != back.config:
        _pause_scaling(api, wanted, endpoint["EndpointConfigName"], back.config)
        api.call(hosting.update_endpoint(wanted, back.config, 1, guarded=False))
    _settle(api, wanted, back.config, pace)
    _scale(api, wanted)  # which the change may have paused
