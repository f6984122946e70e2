"""Deploys: creates or updates the endpoint, waits, checks it with golden photos, and rolls back what fails.

``deploy`` is idempotent and can be repeated after a crash at any point: names contain digests, so what exists already
is left as it is; an endpoint that is being changed is waited for, and one that failed is created again. accuracy.json
is written last: it names the configuration that passed its check, to which a later failure returns.
"""

import json
import logging
import time
from argparse import ArgumentParser
from dataclasses import dataclass

from serve.errors import AwsError, CanaryError, ServerError, SettingsError
from trainer.aws.endpoint import hosting, scaling
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import SAGEMAKER, GoldenPhoto, Package
from trainer.aws.requests import Answer, Api, AwsRequest, Change, FileBody, call_if_exists

log = logging.getLogger(__name__)

UNSETTLED = {"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"}
IN_SERVICE, FAILED = "InService", "Failed"


@dataclass(frozen=True)
class Pace:
    """How often an endpoint is polled, and for how long."""

    poll_s: float = 15.0
    timeout_s: float = 3 * 3600.0


def add_options(parser: ArgumentParser) -> None:
    """The options of scripts/deploy_sagemaker.py that say what to do, not with which endpoint."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="print the requests, send none")
    add("--must-exist", action="store_true", help="only update an existing endpoint")
    add("--destroy", action="store_true", help="remove everything that was created for the endpoint")
    add("--poll", type=float, default=Pace.poll_s, help="seconds between polls")
    add("--timeout", type=float, default=Pace.timeout_s, help="timeout in seconds")
    add("--endpoint-url", default="", help="address of a stand-in for AWS")


@dataclass(frozen=True, kw_only=True)
class DeployOutcome:
    """What a deployment did. ``accuracy``: of the version on its test photos, 0-1."""

    did: Change
    endpoint: str
    version: str
    config: str
    accuracy: float


@dataclass(frozen=True)
class Fallback:
    """What a failed deployment returns to: ``config``; no endpoint with ``delete``; else the endpoint stays."""

    config: str | None
    delete: bool
    reason: str


def deploy(api: Api, spec: EndpointSpec, package: Package, pace: Pace, must_exist: bool = False) -> DeployOutcome:
    """Deploy ``package``; ``must_exist``: only update. Raises CanaryError after a rollback, AwsError, ServerError."""
    named = hosting.names(spec, package)
    endpoint = _find_endpoint(api, spec, pace)
    if endpoint is None and must_exist:
        raise ServerError(f"there is no endpoint {spec.endpoint} to update; leave out --must-exist to create it")
    _store(api, spec, package)
    current = endpoint["EndpointConfigName"] if endpoint else None
    fallback = choose_fallback(current, named.config, _proven_config(api, spec))
    try:
        _create_or_update(api, spec, named.config, endpoint)
        _wait_for(api, spec, named.config, pace)
        for photo in package.golden:
            check_golden_photo(api, spec, package, photo)
    except CanaryError as error:
        _roll_back(api, spec, fallback, pace)
        raise CanaryError(f"{error}; {fallback.reason}") from error
    _scale(api, spec)
    api.call(hosting.put_accuracy(spec, package))
    updated = Change.UNCHANGED if current == named.config else Change.UPDATED
    return DeployOutcome(
        did=Change.CREATED if endpoint is None else updated,
        endpoint=spec.endpoint,
        version=package.version,
        config=named.config,
        accuracy=package.accuracy,
    )


def _scale(api: Api, spec: EndpointSpec) -> None:
    for request in scaling.scale(spec):
        api.call(request)


def choose_fallback(current: str | None, new: str, proven: str | None) -> Fallback:
    """What to return to if ``new`` fails: ``current`` answered before it, ``proven`` passed its check last."""
    if current is not None and current != new:
        return Fallback(current, False, f"the endpoint was returned to {current}")
    if proven and proven != new:
        return Fallback(proven, False, f"the endpoint was returned to {proven}")
    if current == proven == new:
        return Fallback(None, False, f"it passed with the same configuration before, so {new} was left as it is")
    return Fallback(None, True, "there was nothing to return to, so the endpoint was deleted")


def check_golden_photo(api: Api, spec: EndpointSpec, package: Package, photo: GoldenPhoto) -> None:
    """Send a golden photo. Raises CanaryError where the answer differs from those that the archive accepts."""
    subject = f"endpoint {spec.endpoint} with version {package.version} answers golden photo {photo.path.name}"
    try:
        body = api.call(hosting.invoke(spec, photo))["Body"]
    except AwsError as error:
        raise CanaryError(f"{subject} with an error: {error}") from error
    try:
        answer = json.loads(body)
        probabilities, version = list(answer["probabilities"].values()), answer.get("model_version")
        difference = min(max(abs(a - b) for a, b in zip(probabilities, row, strict=True)) for row in photo.promised)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CanaryError(f"{subject} with {body[:200]!r}") from error
    if not difference <= package.tolerance or version != package.version:
        allowed = f"at most {package.tolerance} allowed"
        raise CanaryError(f"{subject} with probabilities {difference:.3f} off ({allowed}), as version {version}")


def wait_until_settled(api: Api, spec: EndpointSpec, pace: Pace) -> Answer | None:
    """The endpoint once no change is in progress, None where there is none. Raises ServerError after ``timeout_s``."""
    start, logged = time.monotonic(), ""
    while True:
        endpoint = call_if_exists(api, hosting.describe(spec))
        status = str(endpoint["EndpointStatus"]) if endpoint else "absent"
        if status != logged:
            log.info("endpoint %s: %s after %.0f s", spec.endpoint, status, time.monotonic() - start)
        if endpoint is None or status not in UNSETTLED:
            return endpoint
        if time.monotonic() - start > pace.timeout_s:
            raise ServerError(
                f"endpoint {spec.endpoint} has been {status} for {pace.timeout_s:.0f} s; "
                "run this again later to continue"
            )
        logged = status
        time.sleep(pace.poll_s)


def _find_endpoint(api: Api, spec: EndpointSpec, pace: Pace) -> Answer | None:
    """The endpoint, in service. One that failed is deleted: SageMaker allows nothing else with it."""
    endpoint = wait_until_settled(api, spec, pace)
    if endpoint is None or endpoint["EndpointStatus"] == IN_SERVICE:
        return endpoint
    status, reason = endpoint["EndpointStatus"], endpoint.get("FailureReason", "no reason given")
    if status != FAILED:
        raise ServerError(
            f"endpoint {spec.endpoint} is {status} ({reason}) and cannot be updated; "
            "see its log in CloudWatch, or remove it with --destroy"
        )
    log.warning("endpoint %s failed earlier (%s); creating it again", spec.endpoint, reason)
    delete(api, spec, pace)
    return None


def delete(api: Api, spec: EndpointSpec, pace: Pace) -> None:
    """Delete the endpoint, and wait until it does not exist any more."""
    call_if_exists(api, AwsRequest(SAGEMAKER, "DeleteEndpoint", {"EndpointName": spec.endpoint}))
    wait_until_settled(api, spec, pace)


def _store(api: Api, spec: EndpointSpec, package: Package) -> None:
    """Upload the package, and create model, configuration and alarms, unless they exist."""
    named = hosting.names(spec, package)
    for put in hosting.uploads(spec, package):
        body = put.parameters["Body"]
        assert isinstance(body, FileBody)
        size, stored = body.path.stat().st_size, call_if_exists(api, hosting.head_of(put))
        if stored is None or stored["ContentLength"] != size:
            log.info("uploading %.1f MB to s3://%s/%s", size / 1e6, spec.bucket, put.parameters["Key"])
            _put(api, spec, put)
    if not call_if_exists(api, hosting.describe_model(named.model)):
        api.call(hosting.create_model(spec, package))
    if not call_if_exists(api, hosting.describe_config(named.config)):
        api.call(hosting.create_config(spec, package))
    for request in hosting.alarms(spec):
        api.call(request)


def _put(api: Api, spec: EndpointSpec, put: AwsRequest) -> None:
    try:
        api.call(put)
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
        command = f"aws s3 mb s3://{spec.bucket} --region {spec.region}"
        raise SettingsError(f"there is no bucket {spec.bucket}; create it with `{command}`, or use another") from error


def _proven_config(api: Api, spec: EndpointSpec) -> str | None:
    """The configuration that accuracy.json names, if it still exists."""
    config = read_deployed(api, spec).get("endpoint_config")
    return str(config) if config and call_if_exists(api, hosting.describe_config(str(config))) else None


def read_deployed(api: Api, spec: EndpointSpec) -> dict[str, object]:
    """The content of accuracy.json; empty where it is missing, damaged, or of another endpoint."""
    answer = call_if_exists(api, hosting.read_accuracy(spec))
    try:
        content = json.loads(answer["Body"]) if answer else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) and content.get("endpoint") == spec.endpoint else {}


def _create_or_update(api: Api, spec: EndpointSpec, config: str, endpoint: Answer | None) -> None:
    if endpoint is None:
        api.call(hosting.create_endpoint(spec, config))
        return
    if endpoint["EndpointConfigName"] == config:
        return
    _pause_scaling(api, spec, endpoint["EndpointConfigName"], config)
    variant = (endpoint.get("ProductionVariants") or [{}])[0]
    api.call(hosting.update_endpoint(spec, config, int(variant.get("CurrentInstanceCount") or spec.min_instances)))


def _pause_scaling(api: Api, spec: EndpointSpec, old: str, new: str) -> None:
    if scaling.must_pause(*(call_if_exists(api, hosting.describe_config(config)) for config in (old, new))):
        for request in scaling.stop(spec):
            call_if_exists(api, request)


def _wait_for(api: Api, spec: EndpointSpec, config: str, pace: Pace) -> None:
    """Wait until the endpoint has ``config``. Raises CanaryError where that failed, or an alarm rolled it back."""
    endpoint = wait_until_settled(api, spec, pace)
    if endpoint is None:
        raise CanaryError(f"endpoint {spec.endpoint} was deleted in the meantime")
    reason = endpoint.get("FailureReason", "no reason given; see the endpoint's log and the alarms in CloudWatch")
    if endpoint["EndpointStatus"] != IN_SERVICE:
        raise CanaryError(f"endpoint {spec.endpoint} is {endpoint['EndpointStatus']} with {config}: {reason}")
    if endpoint["EndpointConfigName"] != config:
        raise CanaryError(f"SageMaker rolled {config} back: {reason}")


def _roll_back(api: Api, spec: EndpointSpec, fallback: Fallback, pace: Pace) -> None:
    """Update the endpoint to the fallback; an endpoint that failed is deleted and created again."""
    endpoint = wait_until_settled(api, spec, pace)
    if fallback.delete or (endpoint and endpoint["EndpointStatus"] == FAILED):
        delete(api, spec, pace)
        endpoint = None
    if fallback.config is None:
        return
    if endpoint is None:
        api.call(hosting.create_endpoint(spec, fallback.config))
    elif endpoint["EndpointConfigName"] != fallback.config:
        _pause_scaling(api, spec, endpoint["EndpointConfigName"], fallback.config)
        api.call(hosting.update_endpoint(spec, fallback.config, 1, guarded=False))
    _wait_for(api, spec, fallback.config, pace)
    _scale(api, spec)  # _pause_scaling may have stopped it
