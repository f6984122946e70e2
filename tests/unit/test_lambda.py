import base64
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pytest

from serve.aws.lambda_event import ModelRequest, to_model_request
from serve.aws.lambda_upstream import connect, handle
from serve.errors import AwsError, ServerError, SettingsError
from serve.gateway.refusal import Refusal
from serve.local.servers import free_port
from serve.payload import ATTRIBUTES
from tests.imports import closure
from trainer.aws import lambda_deploy, lambda_zip
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.requests import AwsRequest, Change, Recorder

ROLE = "arn:aws:iam::123456789012:role/binwatch-lambda"
API = "arn:aws:execute-api:eu-west-1:123456789012:abc/*/POST/count"
PHOTO = b"\xff\xd8\xff..."
COUNTED = {"count": 2, "model_version": "7"}


def rest(body: str, encoded: bool = False, **more: Any) -> dict[str, Any]:
    """An event of API Gateway's version 1.0."""
    return {"httpMethod": "POST", "headers": None, "body": body, "isBase64Encoded": encoded, **more}


def http(body: str, encoded: bool = False, **more: Any) -> dict[str, Any]:
    """An event of API Gateway's version 2.0, or of a function URL."""
    return {
        "version": "2.0",
        "requestContext": {"http": {"method": "POST"}},
        "body": body,
        "isBase64Encoded": encoded,
        **more,
    }


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


JPEG = {"headers": {"Content-Type": "image/jpeg"}}
LINK = b'{"uri": "s3://bins/a.jpg"}'


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"url": "s3://bins/a.jpg"}, ModelRequest(LINK, "application/json")),
        ({"uri": "s3://bins/a.jpg"}, ModelRequest(LINK, "application/json")),
        (rest('{"url": "s3://bins/a.jpg"}'), ModelRequest(LINK, "application/json")),
        (
            http(encoded(LINK), True, headers={"content-type": "application/json"}),
            ModelRequest(LINK, "application/json"),
        ),
        (rest(encoded(PHOTO), True, **JPEG), ModelRequest(PHOTO, "image/jpeg")),
        (http(encoded(PHOTO), True), ModelRequest(PHOTO, "application/octet-stream")),
        (
            http("s3://bins/a.jpg", headers={"content-type": "string/url"}),
            ModelRequest(b"s3://bins/a.jpg", "string/url"),
        ),
        (
            http("", queryStringParameters={"expected_quantity": "3", "x": "y"}),
            ModelRequest(b"", "application/json", "expected_quantity=3"),
        ),
        (
            rest(
                "",
                headers={ATTRIBUTES: "expected_quantity=3, weight=2.5,probe=1"},
                multiValueQueryStringParameters={"weight": ["4"]},
                queryStringParameters={"weight": "4"},
            ),
            ModelRequest(b"", "application/json", "expected_quantity=3,weight=4"),
        ),
        (
            http("", headers={ATTRIBUTES: "station=dock%203,weight=2.5"}),
            ModelRequest(b"", "application/json", "station=dock%203,weight=2.5"),
        ),
        (
            http("", headers={ATTRIBUTES: "station=dock%203"}, queryStringParameters={"station": "Tor 7, links"}),
            ModelRequest(b"", "application/json", "station=Tor%207%2C%20links"),
        ),
        (rest("[1"), ModelRequest(b"[1", "application/json")),
        (rest('{"url": "a", "url": "b"}'), ModelRequest(b'{"url": "a", "url": "b"}', "application/json")),
    ],
)
def test_an_event_is_a_request_to_the_model(event: Any, expected: ModelRequest) -> None:
    assert to_model_request(event) == expected


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ("a link", 422),
        (None, 422),
        ({"httpMethod": "GET"}, 405),
        (rest("no base64", True), 400),
        (rest("x", headers={"Content-Type": "multipart/form-data; boundary=a"}), 415),
        (http("", queryStringParameters={"expected_quantity": "3,probe=1"}), 422),
        (rest("", multiValueQueryStringParameters={"expected_quantity": ["3", "4"]}), 422),
        (http("", queryStringParameters={"station": "s" * 65}), 422),
    ],
)
def test_an_event_that_is_no_request_is_refused(event: Any, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        to_model_request(event)
    assert refused.value.status == status


@dataclass
class Stub:
    """A server with prepared answers that records requests: path, headers in lower case, body."""

    url: str
    answers: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def stub() -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server_stub.requests.append(
                (self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            if not server_stub.answers:
                server_stub.released.wait(10)
                return
            status, headers, content = server_stub.answers.pop(0)
            sent = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_stub = Stub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server_stub
    server_stub.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def endpoint(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The same server as SageMaker's runtime for the real boto3."""
    for name, value in {
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": stub.url,
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    return stub


def json_of(response: dict[str, object]) -> Any:
    """The content of a response's body."""
    return json.loads(str(response["body"]))


def error(code: str, message: str, **more: Any) -> tuple[int, dict[str, str], Any]:
    return 424 if code == "ModelError" else 400, {"x-amzn-errortype": code}, {"Message": message, **more}


def test_the_endpoint_is_invoked_and_its_answer_returned(endpoint: Stub) -> None:
    endpoint.answers = [(200, {}, COUNTED), (200, {}, [COUNTED])]
    upstream = connect({"BINWATCH_ENDPOINT_NAME": "bins"})
    event = http(
        encoded(PHOTO), True, headers={"content-type": "image/jpeg"}, queryStringParameters={"expected_quantity": "3"}
    )
    response = handle(event, upstream)
    assert (response["statusCode"], json_of(response), response["isBase64Encoded"]) == (200, COUNTED, False)
    path, headers, body = endpoint.requests[0]
    assert (path, body, headers["content-type"]) == ("/endpoints/bins/invocations", PHOTO, "image/jpeg")
    assert headers[ATTRIBUTES.lower()] == "expected_quantity=3"
    assert json_of(handle({"instances": [{"uri": "s3://b/x"}]}, upstream)) == [COUNTED]


BAD = {"code": 400, "type": "BadPhoto", "message": "no photo"}


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        (error("ModelError", "x", OriginalStatusCode=400, OriginalMessage=json.dumps(BAD)), 400, "BadPhoto"),
        (error("ModelError", "x", OriginalStatusCode=503, OriginalMessage="busy"), 503, "Overloaded"),
        (error("ModelError", "x", OriginalStatusCode=500, OriginalMessage="Traceback"), 502, "Failed"),
        (error("ModelError", "Your invocation timed out", OriginalStatusCode=0), 504, "TimedOut"),
        (error("ThrottlingException", "Rate exceeded"), 429, "Throttled"),
        (error("ServiceUnavailable", "later"), 503, "Overloaded"),
        (error("ModelNotReadyException", "later"), 503, "Overloaded"),
        (error("ValidationError", "Endpoint bins of account 1 not found."), 503, "NoModel"),
        (error("ValidationError", "the body is too large"), 400, "BadRequest"),
        (error("AccessDeniedException", "no"), 502, "Failed"),
        (error("InternalFailure", "oops"), 502, "Failed"),
    ],
)
def test_errors_of_the_endpoint_are_mapped(endpoint: Stub, answer: Any, status: int, kind: str) -> None:
    endpoint.answers = [answer]
    response = handle({"url": "s3://b/x"}, connect({"BINWATCH_ENDPOINT_NAME": "bins"}))
    body = json_of(response)
    assert (response["statusCode"], body["code"], body["type"]) == (status, status, kind)
    assert "Traceback" not in body["message"]
    assert ("Retry-After" in cast("dict[str, str]", response["headers"])) == (status in (429, 503, 504))
    assert len(endpoint.requests) == 1  # the caller may retry, the Lambda function does not


@pytest.mark.parametrize("variable", ["BINWATCH_ENDPOINT_NAME", "BINWATCH_INFERENCE_URL"])
def test_what_does_not_answer_in_time_is_504_and_what_is_down_503(
    endpoint: Stub, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"BINWATCH_ENDPOINT_NAME": "bins", "BINWATCH_INFERENCE_URL": endpoint.url}[variable]
    response = handle({"url": "s3://b/x"}, connect({variable: name, "BINWATCH_TIMEOUT_S": "0.3"}))
    assert (response["statusCode"], json_of(response)["type"]) == (504, "TimedOut")
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", nobody)
    response = handle({"url": "s3://b/x"}, connect({variable: "bins" if name == "bins" else nobody}))
    assert (response["statusCode"], json_of(response)["type"]) == (503, "Down")


def test_your_own_torchserve_gets_the_same_request(stub: Stub) -> None:
    stub.answers = [
        (200, {}, COUNTED),
        (404, {}, {"code": 404, "type": "ModelNotFoundException", "message": "x"}),
        (422, {}, {"code": 422, "type": "BadField", "message": "y"}),
    ]
    upstream = connect({"BINWATCH_INFERENCE_URL": f"{stub.url}/"})
    event = rest(encoded(PHOTO), True, **JPEG, queryStringParameters={"expected_quantity": "3"})
    responses = [handle(event, upstream) for _ in range(3)]
    assert [response["statusCode"] for response in responses] == [200, 503, 422]
    path, headers, body = stub.requests[0]
    assert (path, body, headers[ATTRIBUTES.lower()]) == ("/predictions/bin-counter", PHOTO, "expected_quantity=3")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"BINWATCH_ENDPOINT_NAME": "a", "BINWATCH_INFERENCE_URL": "http://b"},
        {"BINWATCH_INFERENCE_URL": "b"},
        {"BINWATCH_ENDPOINT_NAME": "a", "BINWATCH_TIMEOUT_S": "soon"},
    ],
)
def test_settings_without_a_usable_server_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="BINWATCH_"):
        connect(environ)


def test_the_zip_has_what_the_handler_imports_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = lambda_zip.write(tmp_path / "a.zip"), lambda_zip.write(tmp_path / "b" / "c.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        archive.extractall(tmp_path / "code")
    modules = {path for path in (tmp_path / "code").rglob("*.py") if path.name != "__init__.py"}
    assert modules == closure("lambda_function.py", root=tmp_path / "code")


class FakeLambda:
    """A Lambda service with one function, its URL and its permissions; every change takes until the next poll."""

    def __init__(self, state: str = "Active") -> None:
        self.recorder, self.state = Recorder(), state
        self.function: dict[str, Any] | None = None
        self.url, self.allowed, self.pending = "", set[str](), False

    def call(self, request: AwsRequest) -> dict[str, Any]:
        self.recorder.call(request)  # validates it against the service's description
        response: dict[str, Any] = getattr(self, request.operation)(dict(request.parameters))
        return response

    def _existing(self) -> dict[str, Any]:
        if self.function is None:
            raise not_found("function")
        return self.function

    def GetFunctionConfiguration(self, _: dict[str, Any]) -> dict[str, Any]:
        function, pending, self.pending = self._existing(), self.pending, False
        return {**function, "State": self.state, "LastUpdateStatus": "InProgress" if pending else "Successful"}

    def CreateFunction(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self.function, self.pending = parameters, True
        return parameters

    def UpdateFunctionCode(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if self.pending:
            raise AssertionError("updated during an update")
        self.pending = True
        return {**self._existing(), **parameters}

    UpdateFunctionConfiguration = UpdateFunctionCode

    def GetFunctionUrlConfig(self, _: dict[str, Any]) -> dict[str, Any]:
        if not self.url:
            raise not_found("URL")
        return {"AuthType": self.url}

    def CreateFunctionUrlConfig(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self.url = parameters["AuthType"]
        return {"FunctionUrl": "https://abc.lambda-url.eu-west-1.on.aws/"}

    UpdateFunctionUrlConfig = CreateFunctionUrlConfig

    def DeleteFunctionUrlConfig(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self.GetFunctionUrlConfig(parameters)
        self.url = ""
        return {}

    def AddPermission(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["StatementId"] in self.allowed:
            raise conflict()
        self.allowed.add(parameters["StatementId"])
        return {}

    def RemovePermission(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["StatementId"] not in self.allowed:
            raise not_found("statement")
        self.allowed.remove(parameters["StatementId"])
        return {}

    def DeleteFunction(self, _: dict[str, Any]) -> dict[str, Any]:
        self._existing()
        self.function = None
        return {}

    def operations(self) -> list[str]:
        return [request.operation for request in self.recorder.requests]


def not_found(resource: str) -> Exception:
    return AwsError(f"no {resource}", "ResourceNotFoundException", f"no {resource}")


def conflict() -> Exception:
    return AwsError("it exists", "ResourceConflictException", "it exists")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return lambda_zip.write(tmp_path / "lambda.zip")


PACE = Pace(0.001, 5)


def test_a_function_is_created_opened_updated_closed_and_removed(code: Path) -> None:
    api = FakeLambda()
    opened = lambda_deploy.read_lambda_spec({"name": "binwatch", "role": ROLE, "url": "NONE", "api": API})
    assert lambda_deploy.deploy(api, opened, code, PACE) == lambda_deploy.LambdaOutcome(
        Change.CREATED, "binwatch", "https://abc.lambda-url.eu-west-1.on.aws/"
    )
    assert api.allowed == {"binwatch-url", "binwatch-url-invoke", "binwatch-api"}
    assert lambda_deploy.deploy(api, opened, code, PACE).did == "updated"
    assert api.allowed == {"binwatch-url", "binwatch-url-invoke", "binwatch-api"}
    closed = lambda_deploy.read_lambda_spec(
        {
            "name": "binwatch",
            "role": ROLE,
            "inference_url": "http://10.0.0.5:8080",
            "subnets": "subnet-1",
            "groups": "sg-1",
        }
    )
    assert lambda_deploy.deploy(api, closed, code, PACE).url == ""
    assert (api.url, api.allowed) == ("", set())
    assert lambda_deploy.destroy(api, "binwatch") == ["DeleteFunction"]
    assert lambda_deploy.destroy(api, "binwatch") == []


def test_a_function_that_does_not_come_up_is_an_error(code: Path) -> None:
    with pytest.raises(ServerError, match="the function a "):
        lambda_deploy.deploy(
            FakeLambda("Failed"), lambda_deploy.read_lambda_spec({"name": "a", "role": ROLE}), code, PACE
        )


@pytest.mark.parametrize("exists", [False, True])
def test_a_plan_lists_the_requests_of_a_deployment(code: Path, exists: bool) -> None:
    spec, api = lambda_deploy.read_lambda_spec({"name": "a", "role": ROLE, "url": "AWS_IAM"}), FakeLambda()
    if exists:
        lambda_deploy.deploy(api, spec, code, PACE)
    before = len(api.operations())
    lambda_deploy.deploy(api, spec, code, PACE)
    planned = [request.operation for request in lambda_deploy.plan(spec, code, exists)]
    assert without_repeats(api.operations()[before:]) == without_repeats(planned)


def without_repeats(names: list[str]) -> list[str]:
    """Drop each name that follows the same name: polls are repeated until they succeed."""
    return [name for name, _ in groupby(names)]


def test_a_contradictory_command_line_is_refused_with_all_its_problems() -> None:
    with pytest.raises(SettingsError, match=r"not both.*'x'.*--subnets and --groups"):
        lambda_deploy.read_lambda_spec(
            {"name": "a", "role": "x", "endpoint": "a", "inference_url": "http://b", "subnets": "c"}
        )
    assert lambda_deploy.read_lambda_spec({"name": "a"}, dry_run=True).role.endswith("placeholder")
