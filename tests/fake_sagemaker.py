"""The endpoints of SageMaker, small and stateful, in front of moto's server, which answers everything else.

moto has no UpdateEndpoint and its endpoints answer nothing. Requests and answers are checked by the same shapes as the
product's requests; what SageMaker refuses by its state is refused here in its words.
"""

import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import requests

from serve.local.servers import free_port
from trainer.aws.requests import AwsRequest, problems, service_model, shape_problems

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/"
ENDPOINTS = ("CreateEndpoint", "DescribeEndpoint", "UpdateEndpoint", "DeleteEndpoint")
Answer = Callable[[dict[str, Any], bytes], tuple[int, bytes]]
"""What a model (its environment and files) says of a photo."""


class Refused(Exception):
    """SageMaker's ValidationException."""


@dataclass
class Endpoint:
    """One endpoint. ``looks``: how often it is seen unsettled before ``then``, its next status and configuration."""

    config: str
    status: str
    looks: int
    then: tuple[str, str]
    instances: int
    capture: int
    reason: str = ""


@dataclass
class Fake:
    """What there is, and what goes wrong next."""

    url: str
    moto: str
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    fate: str = ""
    """Of the next update or creation: "alarm" rolls it back, "failed" fails it."""
    answer: Answer = field(default=lambda model, photo: promised(model, photo))
    looks: int = 1

    def client(self, service: str) -> Any:
        """A client of what moto keeps."""
        return client(service, self.moto)

    def config(self, name: str) -> dict[str, Any]:
        """A configuration that was made."""
        found: dict[str, Any] = self.client("sagemaker").describe_endpoint_config(EndpointConfigName=name)
        return found

    def call(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer one of ENDPOINTS."""
        wrong = problems(AwsRequest("sagemaker", operation, asked))
        if wrong:
            raise Refused(f"{len(wrong)} validation error detected: {wrong}")
        found: dict[str, Any] = getattr(self, f"_{operation[:-8].lower()}")(asked["EndpointName"], asked)
        shape = service_model("sagemaker").operation_model(operation).output_shape
        assert not shape_problems(found, shape), shape_problems(found, shape)
        return found

    def _create(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if name in self.endpoints:
            raise Refused(f"Cannot create already existing endpoint {ARN}{name}")
        config = self.config(asked["EndpointConfigName"])
        then = ("Failed" if self._takes("failed") else "InService", asked["EndpointConfigName"])
        self.endpoints[name] = Endpoint(
            asked["EndpointConfigName"], "Creating", self.looks, then, count(config), capture(config)
        )
        return {"EndpointArn": ARN + name}

    def _describe(self, name: str, _asked: dict[str, Any]) -> dict[str, Any]:
        found = self._find(name)
        if found.looks:
            found.looks -= 1
        elif found.then[0] == "gone":
            del self.endpoints[name]
            raise Refused(f"Could not find endpoint {ARN}{name}")
        else:
            (found.status, found.config) = found.then
        variant: dict[str, Any] = {"VariantName": "AllTraffic", "CurrentWeight": 1.0}
        if found.instances:
            variant |= {"CurrentInstanceCount": found.instances, "DesiredInstanceCount": found.instances}
        reason = {"FailureReason": found.reason} if found.reason and found.looks == 0 else {}
        return {
            "EndpointName": name,
            "EndpointArn": ARN + name,
            "EndpointConfigName": found.config,
            "EndpointStatus": found.status,
            "ProductionVariants": [variant],
            "CreationTime": 0,
            "LastModifiedTime": 0,
            **reason,
        }

    def _update(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        found, config = self._find(name), self.config(asked["EndpointConfigName"])
        self._may_update(name, found, config, asked)
        self.updates.append(asked)
        wanted = (asked["EndpointConfigName"], "InService")
        if self._takes("alarm"):
            found.then, found.reason = ("InService", found.config), "An alarm was breached, the update was rolled back"
        elif self._takes("failed"):
            found.then, found.reason = ("Failed", wanted[0]), "The container did not start"
        else:
            found.then, found.reason = ("InService", wanted[0]), ""
            if not asked.get("RetainAllVariantProperties"):
                found.instances = count(config)
            excluded = [each["VariantPropertyType"] for each in asked.get("ExcludeRetainedVariantProperties", ())]
            if not asked.get("RetainAllVariantProperties") or "DataCaptureConfig" in excluded:
                found.capture = capture(config)
        found.status, found.looks = "Updating", self.looks
        return {"EndpointArn": ARN + name}

    def _may_update(self, name: str, found: Endpoint, config: dict[str, Any], asked: dict[str, Any]) -> None:
        if found.status != "InService":
            raise Refused(f"Cannot update in-progress or failed endpoint {ARN}{name}.")
        new, old = config["ProductionVariants"][0], self.config(found.config)["ProductionVariants"][0]
        if new["VariantName"] != old["VariantName"]:
            raise Refused("The variant names do not match")
        if new.get("InstanceType") != old.get("InstanceType") and self._scaled(name):
            raise Refused("The variant is a target of auto scaling; deregister it before its instance type changes")
        deployment = asked.get("DeploymentConfig")
        if deployment and "AcceleratorType" in new:
            raise Refused("DeploymentConfig is not supported for endpoints with Elastic Inference")
        routing = (deployment or {}).get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
        if routing.get("Type") == "CANARY" and routing["CanarySize"]["Value"] * 2 > found.instances:
            raise Refused("The canary is larger than half of the fleet")
        for alarm in (deployment or {}).get("AutoRollbackConfiguration", {}).get("Alarms", ()):
            if not self.client("cloudwatch").describe_alarms(AlarmNames=[alarm["AlarmName"]])["MetricAlarms"]:
                raise Refused(f"There is no alarm {alarm['AlarmName']}")

    def _delete(self, name: str, _asked: dict[str, Any]) -> dict[str, Any]:
        found = self._find(name)
        if found.status in ("Creating", "Updating"):
            raise Refused(f"Cannot delete in-progress endpoint {ARN}{name}.")
        found.status, found.looks, found.then = "Deleting", self.looks, ("gone", "")
        return {}

    def invoke(self, name: str, photo: bytes) -> tuple[int, bytes]:
        """Answer InvokeEndpoint."""
        found = self._find(name)
        if found.status != "InService":
            raise Refused(f"Endpoint {name} of account 123456789012 is {found.status}.")
        model = self.config(found.config)["ProductionVariants"][0]["ModelName"]
        container = self.client("sagemaker").describe_model(ModelName=model)["PrimaryContainer"]
        bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
        packed = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return self.answer({"packed": packed, **container["Environment"]}, photo)

    def _find(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            raise Refused(f"Could not find endpoint {ARN}{name}")
        return self.endpoints[name]

    def _scaled(self, name: str) -> bool:
        resource = f"endpoint/{name}/variant/AllTraffic"
        targets = self.client("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[resource]
        )
        return bool(targets["ScalableTargets"])

    def _takes(self, fate: str) -> bool:
        taken, self.fate = self.fate == fate, "" if self.fate == fate else self.fate
        return taken


def promised(model: dict[str, Any], photo: bytes) -> tuple[int, bytes]:
    """The answer that the archive in a ``model.tar.gz`` promises for one of its golden photos."""
    with tarfile.open(fileobj=io.BytesIO(model["packed"])) as tar:

        def read(name: str) -> bytes:
            found = tar.extractfile(name)
            assert found
            return found.read()

        manifest = json.loads(read("binwatch.json"))
        golden = next(each for each in manifest["golden"] if read(each["file"]) == photo)
    names = map(str, manifest["classes"])
    answer = {
        "probabilities": dict(zip(names, golden["probabilities"], strict=True)),
        "model_version": model["BINWATCH_MODEL_VERSION"],
    }
    return 200, json.dumps(answer).encode()


def count(config: dict[str, Any]) -> int:
    return int(config["ProductionVariants"][0].get("InitialInstanceCount", 0))


def capture(config: dict[str, Any]) -> int:
    return int(config.get("DataCaptureConfig", {}).get("InitialSamplingPercentage", 0))


@cache
def client(service: str, url: str) -> Any:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=url, **keys)


@contextmanager
def fake_aws(state: Path) -> Iterator[Fake]:
    """moto's server with the fake in front of it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (state / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        moto = f"http://127.0.0.1:{port}"
        _wait(moto, process)
        yield from _served(Fake("", moto))
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: "subprocess.Popen[bytes]", timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            requests.get(f"{url}/moto-api/", timeout=5).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError(f"moto's server does not answer at {url}")


def _served(fake: Fake) -> Iterator[Fake]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # in 1.0 a PutObject waits a second for the "100 Continue"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, sent, headers = _answer(fake, self.command, self.path, dict(self.headers), body)
            except Refused as error:
                content = {"__type": "ValidationException", "Message": str(error), "message": str(error)}
                status, sent = 400, json.dumps(content).encode()
                headers = {"x-amzn-ErrorType": "ValidationException"}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", headers.get("x-length", str(len(sent))))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_PUT = do_DELETE = do_HEAD = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield fake
        server.shutdown()


def _answer(
    fake: Fake, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, bytes, dict[str, str]]:
    operation = headers.get("X-Amz-Target", "").removeprefix("SageMaker.")
    if operation in ENDPOINTS:
        found = fake.call(operation, json.loads(body))
        return 200, json.dumps(found).encode(), {"Content-Type": "application/x-amz-json-1.1"}
    if path.endswith("/invocations"):
        status, said = fake.invoke(path.split("/")[2], body)
        return status, said, {"Content-Type": "application/json"}
    sent = {key: value for key, value in headers.items() if key.lower() not in ("host", "connection", "expect")}
    done = requests.request(method, fake.moto + path, headers=sent, data=body, timeout=60)
    kept = {
        key: value
        for key, value in done.headers.items()
        if key.lower() in ("content-type", "etag", "last-modified", "x-amzn-errortype")
    }
    if method == "HEAD":
        kept["x-length"] = done.headers.get("Content-Length", "0")
    return done.status_code, done.content, kept
