"""The Lambda function's zip in AWS's runtime client, awslambdaric, with a small Runtime API; deployment in moto."""

import base64
import json
import os
import queue
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from serve.payload import ATTRIBUTES
from tests.conftest import Served
from tests.http_server import serving
from trainer.aws import lambda_deploy, lambda_zip
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.requests import Aws
from trainer.training.run import Trained

NEXT = "/2018-06-01/runtime/invocation/next"
DEADLINE_MS = str(2**42)
RUNTIME = {
    "Lambda-Runtime-Aws-Request-Id": "1",
    "Lambda-Runtime-Deadline-Ms": DEADLINE_MS,
    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:binwatch",
}


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class Function:
    """A function that AWS's runtime client runs: events in, responses out."""

    def __init__(self) -> None:
        self.events: queue.Queue[bytes] = queue.Queue()
        self.responses: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def invoke(self, event: Any) -> dict[str, Any]:
        self.events.put(json.dumps(event).encode())
        path, body = self.responses.get(timeout=120)
        assert path.endswith("/response"), body
        return dict(json.loads(body))

    def api(self) -> type[BaseHTTPRequestHandler]:
        """https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html"""
        function = self

        class RuntimeApi(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == NEXT
                reply(self, 200, function.events.get(), {**RUNTIME, "Content-Type": "application/json"})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                function.responses.put((self.path, body))
                reply(self, 202, b"", {})

        return RuntimeApi


@contextmanager
def run_function(toolkits: Path, folder: Path, **environ: str) -> Iterator[Function]:
    """Run the zip as Lambda unpacks it, without any other code of the project."""
    with zipfile.ZipFile(lambda_zip.write(folder / "lambda.zip")) as archive:
        archive.extractall(folder / "task")
    function = Function()
    with serving(function.api()) as url:
        env = {
            **environ,
            "AWS_LAMBDA_RUNTIME_API": url.removeprefix("http://"),
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
        }
        process = subprocess.Popen(
            [toolkits / "python", "-m", "awslambdaric", lambda_zip.HANDLER], cwd=folder / "task", env=env
        )
        try:
            yield function
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def torchserve_url(served: Served, trained: Trained) -> str:
    served.rollout.load("1", lambda: trained.archive)
    served.rollout.switch("1")
    return served.inference.url


@pytest.fixture
def photo(trained: Trained) -> bytes:
    return trained.data.test.photos[0].path.read_bytes()


def sagemaker(torchserve: str) -> type[BaseHTTPRequestHandler]:
    """SageMaker's runtime before the endpoint ``bins``, whose container answers as ``torchserve`` does."""

    class Runtime(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name: self.headers[name] for name in ("Content-Type", ATTRIBUTES) if name in self.headers}
            answer = requests.post(f"{torchserve}/predictions/bin-counter", data=body, headers=headers, timeout=60)
            assert self.path == "/endpoints/bins/invocations"
            if answer.ok:
                reply(self, 200, answer.content, {"Content-Type": "application/json"})
                return
            error = {
                "Message": "Received client error",
                "OriginalStatusCode": answer.status_code,
                "OriginalMessage": answer.text,
            }
            reply(self, 424, json.dumps(error).encode(), {"x-amzn-errortype": "ModelError"})

    return Runtime


@pytest.mark.parametrize("upstream", ["endpoint", "torchserve"])
def test_the_runtime_client_runs_the_zip_as_it_is_deployed(
    toolkits: Path, torchserve_url: str, photo: bytes, tmp_path: Path, upstream: str
) -> None:
    encoded = base64.b64encode(photo).decode()
    event = {
        "version": "2.0",
        "requestContext": {"http": {"method": "POST"}},
        "body": encoded,
        "isBase64Encoded": True,
        "headers": {"content-type": "image/jpeg"},
        "queryStringParameters": {"expected_quantity": "3"},
    }
    rest = {
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json"},
        "isBase64Encoded": False,
        "body": json.dumps({"image": encoded, "expected_quantity": 3}),
    }
    with serving(sagemaker(torchserve_url)) as runtime:
        endpoint = {"BINWATCH_ENDPOINT_NAME": "bins", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": runtime}
        environ = endpoint if upstream == "endpoint" else {"BINWATCH_INFERENCE_URL": torchserve_url}
        with run_function(toolkits, tmp_path, **environ) as function:
            responses = [function.invoke(content) for content in (event, rest)]
            invalid = [{"url": "s3://private/a.jpg"}, {"url": "ftp://a"}, {**event, "body": encoded[:800]}]
            refused = [function.invoke(content) for content in (*invalid, {"httpMethod": "GET"})]
    first, second = (json.loads(response["body"]) for response in responses)
    assert [response["statusCode"] for response in responses] == [200, 200]
    assert first["expected_quantity"] == 3
    assert {**first, "event_id": ""} == {**second, "event_id": ""}
    assert [response["statusCode"] for response in refused] == [403, 422, 400, 405]
    assert [json.loads(response["body"])["code"] for response in refused] == [403, 422, 400, 405]


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_the_function_is_created_updated_and_removed_in_moto(moto: str, tmp_path: Path) -> None:
    region, pace = "eu-west-1", Pace(0.05, 30)
    iam = boto3.client("iam", endpoint_url=moto, region_name=region)
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    role = iam.create_role(RoleName="front", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    code, api = lambda_zip.write(tmp_path / "lambda.zip"), Aws(region, moto)
    spec = lambda_deploy.read_lambda_spec({"name": "binwatch", "role": role, "endpoint": "bins", "url": "NONE"})
    outcome = lambda_deploy.deploy(api, spec, code, pace)
    assert outcome.did == "created"
    assert outcome.url.startswith("https://")
    changed_spec = lambda_deploy.read_lambda_spec(
        {"name": "binwatch", "role": role, "inference_url": "http://10.0.0.5:8080"}
    )
    assert lambda_deploy.deploy(api, changed_spec, code, pace).did == "updated"
    client = boto3.client("lambda", endpoint_url=moto, region_name=region)
    configuration = client.get_function_configuration(FunctionName="binwatch")
    assert configuration["Environment"]["Variables"]["BINWATCH_INFERENCE_URL"] == "http://10.0.0.5:8080"
    assert configuration["Handler"] == lambda_zip.HANDLER
    assert "DeleteFunction" in lambda_deploy.destroy(api, "binwatch")
    assert lambda_deploy.destroy(api, "binwatch") == []
