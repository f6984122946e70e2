"""A small stateful fake of SageMaker's endpoints, in front of moto's server, which answers everything else.

moto has no UpdateEndpoint, and its endpoints answer nothing. Requests and answers are validated by the same shapes as
the product's requests; what SageMaker refuses because of its state is refused with SageMaker's message.
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
from trainer.aws.requests import Answer, AwsRequest, problems, service_model, shape_problems

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/"
ENDPOINTS = ("CreateEndpoint", "DescribeEndpoint", "UpdateEndpoint", "DeleteEndpoint")
Model = Callable[[Answer, bytes], tuple[int, bytes]]
"""The status and body for a photo, given the model's environment and, as ``packed``, its model.tar.gz."""


class RefusedRequest(Exception):
    """SageMaker's ValidationException."""


@dataclass(kw_only=True)
class Endpoint:
    """One endpoint. ``polls``: how often it is unsettled until it has ``then``, its next status and configuration."""

    config: str
    status: str
    polls: int
    then: tuple[str, str]
    instances: int
    capture: int
    reason: str = ""


@dataclass
class FakeAws:
    """The state of the fake, and what goes wrong next."""

    url: str
    moto: str
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    fate: str = ""
    """What happens to the next update or creation: "alarm" rolls it back, "failed" fails it."""
    model: Model = field(default=lambda model, photo: promised(model, photo))
    polls: int = 1

    def client(self, service: str) -> Any:
        """A client of moto."""
        return client(service, self.moto)

    def config(self, name: str) -> Answer:
        """An existing configuration."""
        config: Answer = self.client("sagemaker").describe_endpoint_config(EndpointConfigName=name)
        return config

    def call(self, operation: str, parameters: Answer) -> Answer:
        """Answer one of ENDPOINTS."""
        invalid = problems(AwsRequest("sagemaker", operation, parameters))
        if invalid:
            raise RefusedRequest(f"{len(invalid)} validation error detected: {invalid}")
        answer: Answer = getattr(self, f"_{operation[:-8].lower()}")(parameters["EndpointName"], parameters)
        shape = service_model("sagemaker").operation_model(operation).output_shape
        assert not shape_problems(answer, shape), shape_problems(answer, shape)
        return answer

    def _create(self, name: str, parameters: Answer) -> Answer:
        if name in self.endpoints:
            raise RefusedRequest(f"Cannot create already existing endpoint {ARN}{name}")
        config = self.config(parameters["EndpointConfigName"])
        then = ("Failed" if self._meets("failed") else "InService", parameters["EndpointConfigName"])
        self.endpoints[name] = Endpoint(
            config=parameters["EndpointConfigName"],
            status="Creating",
            polls=self.polls,
            then=then,
            instances=count(config),
            capture=capture(config),
        )
        return {"EndpointArn": ARN + name}

    def _describe(self, name: str, _parameters: Answer) -> Answer:
        endpoint = self._find(name)
        if endpoint.polls:
            endpoint.polls -= 1
        elif endpoint.then[0] == "gone":
            del self.endpoints[name]
            raise RefusedRequest(f"Could not find endpoint {ARN}{name}")
        else:
            (endpoint.status, endpoint.config) = endpoint.then
        variant: Answer = {"VariantName": "AllTraffic", "CurrentWeight": 1.0}
        if endpoint.instances:
            variant |= {"CurrentInstanceCount": endpoint.instances, "DesiredInstanceCount": endpoint.instances}
        reason = {"FailureReason": endpoint.reason} if endpoint.reason and endpoint.polls == 0 else {}
        return {
            "EndpointName": name,
            "EndpointArn": ARN + name,
            "EndpointConfigName": endpoint.config,
            "EndpointStatus": endpoint.status,
            "ProductionVariants": [variant],
            "CreationTime": 0,
            "LastModifiedTime": 0,
            **reason,
        }

    def _update(self, name: str, parameters: Answer) -> Answer:
        endpoint, config = self._find(name), self.config(parameters["EndpointConfigName"])
        self._check_update(name, endpoint, config, parameters)
        self.updates.append(parameters)
        new_config = parameters["EndpointConfigName"]
        if self._meets("alarm"):
            endpoint.then, endpoint.reason = (
                ("InService", endpoint.config),
                "An alarm was breached, the update was rolled back",
            )
        elif self._meets("failed"):
            endpoint.then, endpoint.reason = ("Failed", new_config), "The container did not start"
        else:
            endpoint.then, endpoint.reason = ("InService", new_config), ""
            if not parameters.get("RetainAllVariantProperties"):
                endpoint.instances = count(config)
            excluded = [item["VariantPropertyType"] for item in parameters.get("ExcludeRetainedVariantProperties", ())]
            if not parameters.get("RetainAllVariantProperties") or "DataCaptureConfig" in excluded:
                endpoint.capture = capture(config)
        endpoint.status, endpoint.polls = "Updating", self.polls
        return {"EndpointArn": ARN + name}

    def _check_update(self, name: str, endpoint: Endpoint, config: Answer, parameters: Answer) -> None:
        if endpoint.status != "InService":
            raise RefusedRequest(f"Cannot update in-progress or failed endpoint {ARN}{name}.")
        new, old = config["ProductionVariants"][0], self.config(endpoint.config)["ProductionVariants"][0]
        if new["VariantName"] != old["VariantName"]:
            raise RefusedRequest("The variant names do not match")
        if new.get("InstanceType") != old.get("InstanceType") and self._scaled(name):
            raise RefusedRequest("The variant is a target of auto scaling; deregister it first")
        deployment = parameters.get("DeploymentConfig")
        if deployment and "AcceleratorType" in new:
            raise RefusedRequest("DeploymentConfig is not supported for endpoints with Elastic Inference")
        routing = (deployment or {}).get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
        if routing.get("Type") == "CANARY" and routing["CanarySize"]["Value"] * 2 > endpoint.instances:
            raise RefusedRequest("The canary is larger than half of the fleet")
        for alarm in (deployment or {}).get("AutoRollbackConfiguration", {}).get("Alarms", ()):
            if not self.client("cloudwatch").describe_alarms(AlarmNames=[alarm["AlarmName"]])["MetricAlarms"]:
                raise RefusedRequest(f"There is no alarm {alarm['AlarmName']}")

    def _delete(self, name: str, _parameters: Answer) -> Answer:
        endpoint = self._find(name)
        if endpoint.status in ("Creating", "Updating"):
            raise RefusedRequest(f"Cannot delete in-progress endpoint {ARN}{name}.")
        endpoint.status, endpoint.polls, endpoint.then = "Deleting", self.polls, ("gone", "")
        return {}

    def invoke(self, name: str, photo: bytes) -> tuple[int, bytes]:
        """Answer InvokeEndpoint."""
        endpoint = self._find(name)
        if endpoint.status != "InService":
            raise RefusedRequest(f"Endpoint {name} of account 123456789012 is {endpoint.status}.")
        model = self.config(endpoint.config)["ProductionVariants"][0]["ModelName"]
        container = self.client("sagemaker").describe_model(ModelName=model)["PrimaryContainer"]
        bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
        packed = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return self.model({"packed": packed, **container["Environment"]}, photo)

    def _find(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            raise RefusedRequest(f"Could not find endpoint {ARN}{name}")
        return self.endpoints[name]

    def _scaled(self, name: str) -> bool:
        resource = f"endpoint/{name}/variant/AllTraffic"
        targets = self.client("application-autoscaling").describe_scalable_targets(
            ServiceNamespace="sagemaker", ResourceIds=[resource]
        )
        return bool(targets["ScalableTargets"])

    def _meets(self, fate: str) -> bool:
        """Whether ``fate`` comes next; it comes once."""
        met = self.fate == fate
        self.fate = "" if met else self.fate
        return met


def promised(model: Answer, photo: bytes) -> tuple[int, bytes]:
    """The answer that the archive in a ``model.tar.gz`` promises for one of its golden photos."""
    with tarfile.open(fileobj=io.BytesIO(model["packed"])) as tar:

        def read(name: str) -> bytes:
            member = tar.extractfile(name)
            assert member
            return member.read()

        manifest = json.loads(read("binwatch.json"))
        golden = next(golden for golden in manifest["golden"] if read(golden["file"]) == photo)
    names = map(str, manifest["classes"])
    answer = {
        "probabilities": dict(zip(names, golden["probabilities"], strict=True)),
        "model_version": model["BINWATCH_MODEL_VERSION"],
    }
    return 200, json.dumps(answer).encode()


def count(config: Answer) -> int:
    return int(config["ProductionVariants"][0].get("InitialInstanceCount", 0))


def capture(config: Answer) -> int:
    return int(config.get("DataCaptureConfig", {}).get("InitialSamplingPercentage", 0))


@cache
def client(service: str, url: str) -> Any:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=url, **keys)


@contextmanager
def fake_aws(state: Path) -> Iterator[FakeAws]:
    """moto's server, with the fake in front of it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (state / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        moto = f"http://127.0.0.1:{port}"
        _wait(moto, process)
        yield from _serve(FakeAws("", moto))
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


def _serve(fake: FakeAws) -> Iterator[FakeAws]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # in 1.0 a PutObject waits a second for the "100 Continue"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, sent, headers = _answer(fake, self.command, self.path, dict(self.headers), body)
            except RefusedRequest as error:
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

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield fake
        server.shutdown()


def _answer(
    fake: FakeAws, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, bytes, dict[str, str]]:
    operation = headers.get("X-Amz-Target", "").removeprefix("SageMaker.")
    if operation in ENDPOINTS:
        answer = fake.call(operation, json.loads(body))
        return 200, json.dumps(answer).encode(), {"Content-Type": "application/x-amz-json-1.1"}
    if path.endswith("/invocations"):
        status, answer_body = fake.invoke(path.split("/")[2], body)
        return status, answer_body, {"Content-Type": "application/json"}
    forwarded = {key: value for key, value in headers.items() if key.lower() not in ("host", "connection", "expect")}
    response = requests.request(method, fake.moto + path, headers=forwarded, data=body, timeout=60)
    answer_headers = {
        key: value
        for key, value in response.headers.items()
        if key.lower() in ("content-type", "etag", "last-modified", "x-amzn-errortype")
    }
    if method == "HEAD":
        answer_headers["x-length"] = response.headers.get("Content-Length", "0")
    return response.status_code, response.content, answer_headers
