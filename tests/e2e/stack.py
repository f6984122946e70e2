"""The compose stack as a compose project of its own, with its own ports and volumes."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.local.servers import free_port

ROOT = Path(__file__).parents[2]
FIRST_ANSWER_S = 600
ONE_THREAD = ("-e", "OMP_NUM_THREADS=1")
"""For a training beside other work: several threads wait for each other where a core is busy."""


class Stack:
    """One compose project; ``settings``: variables of docker-compose.yml, of which the caller's own do not count."""

    def __init__(self, project: str, **settings: str) -> None:
        self._passwords: dict[str, str] = {}
        self.port, self.mlflow_port, self.gateway_port = free_port(), free_port(), free_port()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BINWATCH_")}
        self.env = {
            **kept,
            "BINWATCH_PORT": str(self.port),
            "BINWATCH_MLFLOW_PORT": str(self.mlflow_port),
            "BINWATCH_GATEWAY_PORT": str(self.gateway_port),
            "COMPOSE_PROJECT_NAME": project,
            "BINWATCH_CAPTURE_DISK": "1",  # a full machine is not what the tests are about
            **settings,
        }

    def compose(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            ["docker", "compose", *words], cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=1800
        )
        if check and done.returncode:
            logs = self.compose("logs", "--tail", "30", check=False).stdout
            pytest.fail(f"docker compose {' '.join(words)}: {done.returncode}\n{done.stderr[-3000:]}\n{logs[-6000:]}")
        return done

    def python(self, service: str, code: str) -> "subprocess.CompletedProcess[str]":
        return self.compose("exec", "-T", service, "python3", "-c", code, check=False)

    def ask(self, photo: bytes) -> requests.Response:
        return requests.post(f"http://127.0.0.1:{self.port}/predictions/bin-counter", data=photo, timeout=60)

    def wait_for_answer(self, photo: bytes, timeout_s: float = FIRST_ANSWER_S) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                response = self.ask(photo)
                if response.ok:
                    return dict(response.json())
            except requests.ConnectionError:
                pass
            time.sleep(1)
        logs = self.compose("logs", "--tail", "40", "trainer", "promoter", "serve").stdout
        pytest.fail(f"no answer within {timeout_s:.0f} s\n{logs[-6000:]}")

    def password(self, account: str) -> str:
        """The password of one of MLflow's accounts."""
        if account not in self._passwords:
            path = f"/secrets/accounts/{account}"
            self._passwords[account] = self.compose("exec", "-T", "mlflow", "cat", path).stdout
        return self._passwords[account]

    def log_in(self) -> None:
        """Let MLflow's client in this process use the account of the administrator."""
        os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": self.password("admin")}

    def mlflow(self, method: str, path: str, account: str, body: object = None) -> requests.Response:
        """What MLflow answers an account, or without one anybody; the path is sent as it is."""
        request = requests.Request(method, f"http://127.0.0.1:{self.mlflow_port}", json=body)
        if account:
            request.auth = (account, self.password(account))
        with requests.Session() as session:
            prepared = session.prepare_request(request)
            prepared.url = f"http://127.0.0.1:{self.mlflow_port}{path}"
            return session.send(prepared, timeout=60, allow_redirects=False)

    def versions(self) -> list[dict[str, Any]]:
        answer = self.mlflow("GET", "/api/2.0/mlflow/model-versions/search", "reader")
        return list(answer.json().get("model_versions", []))
