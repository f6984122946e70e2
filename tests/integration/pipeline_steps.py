"""ListPipelineExecutionSteps, which moto lacks: a server before moto's that answers it and hands on all else.

The steps are those of the definition that moto holds, as of an execution that ended well, two a page; each answer is
checked against the service's description before it is sent.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import boto3
import requests

from trainer.aws.requests import service_model, shape_problems

OPERATION = "ListPipelineExecutionSteps"
PAGE = 2


def _steps(definition: dict[str, Any]) -> list[str]:
    names = []
    for step in definition["Steps"]:
        names += [step["Name"], *(each["Name"] for each in step["Arguments"].get("IfSteps", ()))]
    return names


def _answer(moto: str, asked: dict[str, Any]) -> dict[str, Any]:
    model = service_model("sagemaker").operation_model(OPERATION)
    assert not shape_problems(asked, model.input_shape)
    none = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}
    client = boto3.client("sagemaker", endpoint_url=moto, **none)
    name = asked["PipelineExecutionArn"].split("/")[1]
    names = _steps(json.loads(client.describe_pipeline(PipelineName=name)["PipelineDefinition"]))
    first = int(asked.get("NextToken", 0))
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    found: dict[str, Any] = {
        "PipelineExecutionSteps": [
            {"StepName": each, "StepStatus": "Succeeded", "StartTime": begun, "EndTime": begun + timedelta(minutes=1)}
            for each in names[first : first + PAGE]
        ]
    }
    if first + PAGE < len(names):
        found["NextToken"] = str(first + PAGE)
    assert not shape_problems(found, model.output_shape)
    return found


@contextmanager
def steps_told(moto: str) -> Iterator[str]:
    """The address of a server before ``moto``."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("X-Amz-Target", "").endswith(f".{OPERATION}"):
                found = json.dumps(_answer(moto, json.loads(body)), default=lambda each: each.timestamp()).encode()
                self._say(200, {"Content-Type": "application/x-amz-json-1.1"}, found)
                return
            with requests.request(self.command, moto + self.path, data=body, headers=dict(self.headers)) as there:
                kept = {
                    key: value
                    for key, value in there.headers.items()
                    if key.lower() in ("content-type", "etag", "x-amzn-errortype")
                }
                self._say(there.status_code, kept, there.content)

        def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = _do

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
