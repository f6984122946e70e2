"""The profiles tls and observe: the proxy in front of gateway and MLflow, Prometheus, and an alert that is posted."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.local.servers import free_port
from tests.e2e.stack import ROOT, Stack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("docker"),
    pytest.mark.skipif(not os.environ.get("BINWATCH_PROOF"), reason="builds two more images: make proof"),
]

PROJECT = "binwatch-e2e-front"
SERVICES = ("gateway", "mlflow", "proxy", "prometheus", "alertmanager")
WAIT_S = 180
RECEIVER = """
import http.server
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        open("/tmp/posted", "ab").write(self.rfile.read(int(self.headers["Content-Length"])) + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("", 9999), Receiver).serve_forever()
"""


@dataclass(frozen=True)
class Front:
    """The stack, where its services are published, and an API key. ``authority``: what clients of TLS trust."""

    stack: Stack
    ports: dict[str, int]
    key: dict[str, str]
    authority: str

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """The result of a query."""
        url = f"http://127.0.0.1:{self.ports['PROMETHEUS']}/api/v1/query"
        return list(requests.get(url, params={"query": query}, timeout=30).json()["data"]["result"])


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("front")
    folder.chmod(0o755)
    ports = {name: free_port() for name in ("TLS", "TLS_HTTP", "TLS_MLFLOW", "PROMETHEUS", "ALERTMANAGER")}
    stack = Stack(
        PROJECT,
        COMPOSE_PROFILES="tls,observe",
        BINWATCH_TLS_BIND="127.0.0.1",
        BINWATCH_METRICS_KEY=str(folder / "key"),
        BINWATCH_ALERTMANAGER_WEBHOOK="http://prometheus:9999/",
        **{f"BINWATCH_{name}_PORT": str(port) for name, port in ports.items()},
    )
    stack.compose("down", "--volumes")
    stack.compose("build", *SERVICES[:4])
    run = ("run", "--rm", "-T", "--no-deps", "gateway")
    key = stack.compose(*run, "python", "scripts/api_key.py", "add", "prometheus").stdout.strip()
    (folder / "key").write_text(key)
    stack.compose("up", "--wait", *SERVICES)
    authority = stack.compose("exec", "-T", "proxy", "cat", "/data/pki/authorities/local/root.crt").stdout
    (folder / "root.crt").write_text(authority)
    yield Front(stack, ports, {"X-API-Key": key}, str(folder / "root.crt"))
    stack.compose("down", "--volumes")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(1)


def test_the_gateway_is_reached_by_https_with_a_key(front: Front) -> None:
    url = f"https://localhost:{front.ports['TLS']}"
    assert "<title>" in requests.get(url, verify=front.authority, timeout=60).text
    for headers, status in (({}, 401), (front.key, 200)):
        answer = requests.get(f"{url}/metrics", headers=headers, verify=front.authority, timeout=60)
        assert answer.status_code == status
    http = requests.get(f"http://localhost:{front.ports['TLS_HTTP']}/", allow_redirects=False, timeout=60)
    assert (http.status_code, http.headers["Location"]) == (308, f"{url}/")


def test_mlflow_is_reached_by_https_with_an_account(front: Front) -> None:
    url = f"https://localhost:{front.ports['TLS_MLFLOW']}/api/2.0/mlflow/experiments/search"
    account = ("reader", front.stack.password("reader"))
    for auth, status in ((None, 401), (account, 200)):
        answer = requests.post(url, json={"max_results": 1}, auth=auth, verify=front.authority, timeout=60)
        assert answer.status_code == status, answer.text


def test_the_proxy_runs_without_rights(front: Front) -> None:
    container = front.stack.compose("ps", "--quiet", "proxy").stdout.strip()
    inspected = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
    (content,) = json.loads(inspected)
    assert content["HostConfig"]["ReadonlyRootfs"]
    assert content["HostConfig"]["CapDrop"] == ["ALL"]
    assert front.stack.compose("exec", "-T", "proxy", "id", "-u").stdout.strip() == "10001"


def test_rules_and_configurations_are_valid() -> None:
    for words in (
        ("promtool", "check", "rules", "alert_rules.yml"),
        ("promtool", "test", "rules", "alert_rules_test.yml"),
        ("promtool", "check", "config", "--syntax-only", "prometheus.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ):
        mount = f"{ROOT / 'serve' / 'observe'}:/observe:ro"
        command = ["docker", "run", "--rm", "--network", "none", "--volume", mount, "binwatch-observe", *words]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert re.search("FAILED", checked.stdout + checked.stderr) is None


def test_an_alert_of_the_monitoring_reaches_the_webhook(front: Front, tmp_path: Path) -> None:
    front.stack.compose("exec", "-d", "prometheus", "python3", "-c", RECEIVER)
    report = {"made_at": "2026-11-24T12:00:00Z", "alerts": [{"name": "drift of brightness"}]}
    code = f"import pathlib; pathlib.Path('/monitoring/monitoring.json').write_text({json.dumps(report)!r})"
    volume = f"{PROJECT}_monitoring:/monitoring"
    words = ["docker", "run", "--rm", "--network", "none", "--volume", volume, "binwatch-gateway", "python", "-c", code]
    subprocess.run(words, check=True, capture_output=True)
    wait_for(lambda: front.prometheus('up{job="gateway"} == 1'), "Prometheus reaches no gateway")
    wait_for(lambda: front.prometheus("binwatch_monitoring_alert"), "the report is no metric")

    def posted() -> str:
        return front.stack.compose("exec", "-T", "prometheus", "cat", "/tmp/posted", check=False).stdout

    wait_for(lambda: "MonitoringAlert" in posted(), "nothing came to the webhook")
    notices = [json.loads(line) for line in posted().splitlines() if line]
    alerts = [alert for notice in notices for alert in notice["alerts"]]
    (alert,) = [alert for alert in alerts if alert["labels"]["alertname"] == "MonitoringAlert"][:1]
    assert (alert["labels"]["alert"], alert["status"]) == ("drift of brightness", "firing")
    assert alert["annotations"]["runbook"] == "docs/operations.md#monitoring"
