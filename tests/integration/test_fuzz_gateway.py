"""Fuzzes every route of the gateway against its OpenAPI document, in front of a real TorchServe."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import requests

from serve.gateway import keys
from serve.local.servers import gateway_server
from tests.conftest import Served, rounds
from tests.integration.test_serving import deploy
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
SEED = 20261124
ROUTES = {
    "/verify",
    "/predict",
    "/feedback",
    "/healthz",
    "/livez",
    "/metrics",
    "/monitoring",
    "/history",
    "/records",
    "/records/{bin_id}",
    "/recounts",
    "/recounts/next",
    "/recounts/{event_id}",
    "/recounts/{event_id}/photo",
}


def schemathesis(url: str, key: str, work: Path) -> str:
    """Run schemathesis and return its output; it fails at an answer that the document does not describe.

    One check is excluded: that all requests that fit the document are accepted. For the document a photo is a string of
    bytes, but few such strings are photos.
    """
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "run",
        f"{url}/openapi.json",
        "--header",
        f"X-API-Key: {key}",
        "--exclude-checks",
        "positive_data_acceptance",
        "--max-examples",
        rounds(30, 2000),
        "--seed",
        SEED,
        "--generation-database",
        "none",
        "--generation-with-security-parameters",
        "false",
        "--request-timeout",
        60,
        "--no-color",
    ]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.integration.photos_to_fuzz", "PYTHONPATH": str(ROOT)}
    arguments = [str(argument) for argument in command]
    process = subprocess.run(arguments, env=env, cwd=work, capture_output=True, text=True, timeout=7200)
    assert process.returncode == 0, process.stdout[-20_000:] + process.stderr[-2000:]
    return process.stdout


def test_every_route_conforms_to_the_document(served: Served, trained: Trained, tmp_path: Path) -> None:
    deploy(served, trained.archive, "3")
    (tmp_path / "monitoring.json").write_text(json.dumps({"records": 0}))
    (tmp_path / "history.json").write_text(json.dumps({"served": [], "executions": []}))
    environ = {
        "BINWATCH_API_KEYS": str(tmp_path / "keys.json"),
        "BINWATCH_CAPTURE": str(tmp_path / "capture"),
        "BINWATCH_MONITORING": str(tmp_path),
        "BINWATCH_RECOUNTS": str(tmp_path / "recounts"),
        "BINWATCH_RECOUNT_RANDOM": "1",
        "BINWATCH_RATE": "0",
    }
    key = keys.add(tmp_path / "keys.json", "fuzz", keys.RIGHTS)
    with gateway_server(tmp_path, served.inference.url, environ=environ) as url:
        document = requests.get(f"{url}/openapi.json", headers={"X-API-Key": key}, timeout=30).json()
        assert set(document["paths"]) == ROUTES
        output = schemathesis(url, key, tmp_path)
        metrics = requests.get(f"{url}/metrics", headers={"X-API-Key": key}, timeout=30).text
        healthy = requests.get(f"{url}/healthz", headers={"X-API-Key": key}, timeout=30)
    generated, passed = re.findall(r"(\d+) generated, (\d+) passed", output)[0]
    assert generated == passed
    assert int(generated) > 300
    statuses = {
        (route, status) for route, status in re.findall(r'requests_total\{route="(.*?)",status="(\d+)"\}', metrics)
    }
    print(f"{generated} requests; answers by route and status: {sorted(statuses)}")
    assert statuses >= {("/verify", "200"), ("/predict", "200"), ("/feedback", "201"), ("/metrics", "200")}
    assert statuses >= {("/recounts", "200"), ("/recounts/next", "200"), ("/recounts/{event_id}", "404")}
    assert not [status for _, status in statuses if status >= "500"]
    assert healthy.json()["model_version"] == "3"
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()
