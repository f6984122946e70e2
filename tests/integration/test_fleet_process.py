"""The promoter as a process, with several servers and its door: killed in the middle, and started again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from serve.local.servers import free_port
from serve.routing.route_table import ROUTES, Routes
from tests.conftest import proof
from tests.integration.fleets import HOST, hosts, until
from tests.integration.promoting import challenger
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]


def asked(url: str) -> Routes | None:
    """What a gateway is told."""
    try:
        response = requests.post(f"{url}/routes", json={"gateway": "of a test"}, timeout=5)
    except requests.ConnectionError:
        return None
    return ROUTES.validate_json(response.content) if response.ok else None


@proof
def test_a_promoter_that_is_killed_in_the_middle_is_followed_by_one_that_finishes(
    registry: Registry, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("fleet")  # a socket's path has at most 107 characters
    keys = signing.ensure_key_pair(tmp_path / "keys")
    first = challenger(registry, trained, 0.5, keys=keys)
    port = free_port()
    url = f"http://{HOST}:{port}"
    (tmp_path / "store").mkdir()
    with hosts(tmp_path, 2, url) as servers:
        environ = {
            **os.environ,
            "BINWATCH_SERVERS": ",".join(f"{HOST}:{server.port}" for server in servers),
            "BINWATCH_PROMOTER_LISTEN": f"{HOST}:{port}",
            "BINWATCH_PROMOTER_URL": url,
            "BINWATCH_MODEL_STORE": str(tmp_path / "store"),
            "BINWATCH_STATE": str(tmp_path / "state"),
            "BINWATCH_VERIFY_KEY": str(keys.public),
            "BINWATCH_WATCH_S": "0",
            "BINWATCH_WORKERS": "1",
            "MLFLOW_TRACKING_URI": registry.uri,
        }
        words = [sys.executable, "scripts/promote.py", "--watch", "--interval", "0.5"]
        command = [*words, "--heartbeat", str(tmp_path / "beat")]
        everywhere = {server.inference for server in servers}

        def answers_with(version: str) -> bool:
            routes = asked(url)
            return routes is not None and (set(routes.servers), routes.champion) == (everywhere, version)

        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log)
            try:
                until(lambda: answers_with(first), "version 1 on all servers")
                second = challenger(registry, trained, 0.6, compared_with=first, keys=keys)
                until(lambda: any(second in server.loaded() for server in servers), "the second version on a server")
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log)
            try:
                until(lambda: answers_with(second), "the second version on all servers")
                until(lambda: all(server.loaded() == {second: True} for server in servers), "the first version gone")
                metrics = requests.get(f"{url}/metrics", timeout=10).text
            finally:
                process.terminate()
                process.wait()
    assert f'binwatch_champion_info{{version="{second}"}} 1.0' in metrics
    assert json.loads((tmp_path / "store" / "accuracy.json").read_text())["version"] == second
