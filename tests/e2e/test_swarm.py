"""docker-stack.yml on a real swarm: what Swarm makes of it, and three hosts of which one is lost."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml

from serve.gateway import keys
from serve.local.servers import free_port, s3_server
from serve.swarm.stack_file import make_stack
from serve.swarm.swarm_plan import PLACEMENTS, PROMOTER_PORT, external_name, secret_names
from serve.swarm.swarm_secrets import GENERATED, create_secrets, make_secrets
from tests.e2e.stack import ROOT
from tests.e2e.swarm import SUBNET, Host, Relay, Swarm, run, wait_until
from trainer.data import synthetic

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("docker"),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("dockerd"), reason="hosts are namespaces with a dockerd"),
]
proof = pytest.mark.skipif(not os.environ.get("BINWATCH_PROOF"), reason="takes long: BINWATCH_PROOF=1")
STACK_FILE = ROOT / "docker-stack.yml"
NAME = "bw"
WORKER = ("binwatch.serve=1", "binwatch.gateway=1")
FIRST_ANSWER_S = 1800.0
"""On a busy machine of two cores: seven containers start, one trains."""
BACK_S = 300.0


def deploy(manager: Host, **settings: str) -> str:
    """Deploy docker-stack.yml; returns what Docker prints."""
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("BINWATCH_", "AWS_"))}
    words = ["--compose-file", str(STACK_FILE), "--resolve-image", "never", "--detach=true", NAME]
    command = ["docker", "--host", manager.engine_url, "stack", "deploy", *words]
    done = subprocess.run(command, env=plain | settings, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_docker_reads_the_stack_and_asks_for_what_has_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["docker", "stack", "config", "--compose-file", str(STACK_FILE)]
    monkeypatch.setenv("BINWATCH_TAG", "7")
    monkeypatch.delenv("BINWATCH_STORE", raising=False)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode
    assert "give s3://bucket/prefix" in refused.stderr
    monkeypatch.setenv("BINWATCH_STORE", "s3://bins/all")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    services = yaml.safe_load(done.stdout)["services"]
    assert services["serve"]["image"] == "binwatch-serve:7"
    assert services["monitor"]["environment"]["BINWATCH_CAPTURE"] == "s3://bins/all/capture"


def test_a_swarm_takes_over_all_that_the_stack_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host has a label, so nothing starts: neither images nor real secrets are needed."""
    stack = make_stack(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    with Swarm([()]) as swarm:
        monkeypatch.setenv("DOCKER_HOST", swarm.manager.engine_url)
        for name in secret_names():
            run("docker", "secret", "create", f"binwatch-{name}", __file__)
        printed = deploy(swarm.manager, BINWATCH_TAG="7", BINWATCH_STORE="s3://bins/all")
        assert "ignoring" not in printed.lower(), printed
        for name, service in stack["services"].items():
            spec = json.loads(run("docker", "service", "inspect", f"{NAME}_{name}"))[0]["Spec"]
            task, container = spec["TaskTemplate"], spec["TaskTemplate"]["ContainerSpec"]
            assert container["CapabilityDrop"] == ["ALL"], name
            assert {mount["Target"] for mount in container.get("Mounts", ())} == {
                mount["target"] if isinstance(mount, dict) else mount.split(":")[1]
                for mount in service.get("volumes", ())
            }, name
            files = {secret["File"]["Name"]: secret["SecretName"] for secret in container.get("Secrets", ())}
            names = {external_name(secret["source"]): secret["target"] for secret in service["secrets"]}
            assert {text.rpartition(":-")[2].rstrip("}"): target for text, target in names.items()} == {
                secret: target for target, secret in files.items()
            }
            assert task["Placement"]["Constraints"] == [f"node.labels.binwatch.{PLACEMENTS[name].host} == 1"]
            assert task["RestartPolicy"]["Condition"] == "any"
            assert task["Resources"]["Limits"]["MemoryBytes"] > 0
            assert spec["UpdateConfig"]["FailureAction"] == "rollback"
            assert spec["EndpointSpec"]["Mode"] == "dnsrr"


def test_secrets_are_made_in_memory_and_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    if subprocess.run(["docker", "image", "inspect", "binwatch-mlflow"], capture_output=True).returncode:
        subprocess.run(["docker", "compose", "build", "mlflow"], cwd=ROOT, check=True, capture_output=True)
    contents = make_secrets("binwatch-mlflow")
    assert contents.keys() == GENERATED.keys()
    assert len(set(contents.values())) == len(contents)
    assert b"PRIVATE KEY" in contents["signing-key"]
    assert b"PUBLIC KEY" in contents["verify-key"]
    assert contents["trainer-password"] in contents["trainer-credentials"]
    assert capfd.readouterr() == ("", "")


class Hosts:
    """The stack on three hosts: one with all state, two with a server and a gateway each."""

    def __init__(self, swarm: Swarm, settings: dict[str, str], key: str) -> None:
        self.swarm, self.settings = swarm, settings
        self.headers = {"X-API-Key": key}

    def ask(self, host: Host, photo: bytes) -> dict[str, Any]:
        """The answer of a host's gateway. Raises requests.RequestException where there is none."""
        url = f"http://{host.address}:8000/predictions/bin-counter"
        response = requests.post(url, data=photo, headers=self.headers, timeout=30)
        response.raise_for_status()
        return dict(response.json())

    def answers(self, host: Host, photo: bytes) -> bool:
        """Whether a host's gateway answers."""
        with contextlib.suppress(requests.RequestException):
            return bool(self.ask(host, photo))
        return False

    def containers(self, host: Host, service: str) -> list[str]:
        """The running containers of a service on a host."""
        return host.docker("ps", "--quiet", "--filter", f"name={NAME}_{service}.").split()

    def routes(self) -> dict[str, Any]:
        """What the promoter tells gateways; empty while it does not answer."""
        code = (
            "import urllib.request as u; "
            f"print(u.urlopen(u.Request('http://127.0.0.1:{PROMOTER_PORT}/routes', b'{{\"gateway\": \"test\"}}', "
            "{'Content-Type': 'application/json'}), timeout=10).read().decode())"
        )
        for container in self.containers(self.swarm.manager, "promoter"):
            text = self.swarm.manager.docker("exec", container, "python3", "-c", code, check=False)
            if text.startswith("{"):
                return dict(json.loads(text))
        return {}

    def update_status(self, service: str) -> str:
        """How the last update of a service goes or went."""
        spec = json.loads(self.swarm.manager.docker("service", "inspect", f"{NAME}_{service}"))[0]
        return str((spec.get("UpdateStatus") or {}).get("State", ""))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A drawn bin."""
    source = synthetic.draw_dataset(tmp_path_factory.mktemp("drawn"), 5, seed=9)
    return sorted((source / "bin-images").iterdir())[0].read_bytes()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    drawn = synthetic.draw_dataset(folder / "bins", 400, seed=3)
    subprocess.run(["docker", "compose", "build"], cwd=ROOT, check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(s3_server(folder / "store"))
        client = boto3.client(
            "s3", endpoint_url=store, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        client.create_bucket(Bucket="bins")
        for path in filter(Path.is_file, drawn.rglob("*")):
            client.upload_file(str(path), "bins", f"photos/{path.relative_to(drawn)}")
        swarm = stack.enter_context(Swarm([["binwatch.state=1"], WORKER, WORKER]))
        relay = stack.enter_context(Relay((f"{SUBNET}.1", free_port()), int(store.rpartition(":")[2])))
        swarm.manager.load("postgres:15-bookworm", "binwatch-mlflow", "binwatch-trainer")
        for host in swarm.hosts[1:]:
            host.load("binwatch-serve", "binwatch-gateway")
        settings = {
            "BINWATCH_TAG": "latest",
            "BINWATCH_STORE": "s3://bins/all",
            "BINWATCH_S3_ENDPOINT": f"http://{relay.address[0]}:{relay.address[1]}",
            "BINWATCH_DATA_URL": "s3://bins/photos",
            "BINWATCH_RECIPE": "tiny",
            "BINWATCH_EPOCHS": "2",
            "BINWATCH_WATCH_S": "5",
            "BINWATCH_SERVE_MEMORY": "2g",
            "BINWATCH_CAPTURE_DISK": "1",
        }
        key = keys.add(folder / "keys.json", "test", [])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", swarm.manager.engine_url)
            create_secrets("binwatch-mlflow", {"api-keys": (folder / "keys.json").read_bytes()})
            assert create_secrets("binwatch-mlflow", {}) == []
        deploy(swarm.manager, **settings)
        yield Hosts(swarm, settings, key)


@proof
def test_two_servers_on_two_hosts_answer_with_one_champion(hosts: Hosts, photo: bytes) -> None:
    for host in hosts.swarm.hosts[1:]:
        took_s = wait_until(f"an answer of {host.name}", lambda host=host: hosts.answers(host, photo), FIRST_ANSWER_S)  # type: ignore[misc]
        print(f"{host.name} answers {took_s:.0f} s later")
        assert hosts.ask(host, photo)["model_version"] == "1"
    wait_until("two servers", lambda: len(hosts.routes().get("servers", ())) == 2, BACK_S)


@proof
def test_nobody_answers_without_a_key_and_nothing_but_the_gateway_is_published(hosts: Hosts, photo: bytes) -> None:
    for host in hosts.swarm.hosts[1:]:
        url = f"http://{host.address}:8000/predictions/bin-counter"
        assert requests.post(url, data=photo, timeout=30).status_code == 401
    for host, port in ((host, port) for host in hosts.swarm.hosts for port in (5000, 5432, 8080, 8081, 8090)):
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{host.address}:{port}/", timeout=5)


@proof
def test_the_gateway_does_not_reach_the_management(hosts: Hosts) -> None:
    host = hosts.swarm.hosts[1]
    (container,) = hosts.containers(host, "gateway")
    code = "import urllib.request as u; print(u.urlopen('http://tasks.serve:{}', timeout=10).status)"
    reached = host.docker("exec", container, "python3", "-c", code.format("8080/ping"))
    assert reached == "200"
    refused = host.docker("exec", container, "python3", "-c", code.format("8081/models"), check=False)
    assert refused == ""


@proof
def test_an_update_that_fails_goes_back_by_itself_and_answers_go_on(hosts: Hosts, photo: bytes) -> None:
    manager, (_, second, third) = hosts.swarm.manager, hosts.swarm.hosts
    words = ("--detach", "--no-resolve-image", "--args", "python -m serve.nothing", f"{NAME}_gateway")
    manager.docker("service", "update", "--update-monitor", "10s", *words)
    answered = 0

    def went_back() -> bool:
        nonlocal answered
        answers = [hosts.answers(host, photo) for host in (second, third)]
        assert any(answers), "no host answers"
        answered += sum(answers)
        return hosts.update_status("gateway") == "rollback_completed"

    wait_until("the update to go back", went_back, BACK_S)
    assert answered > 0
    for host in (second, third):
        wait_until(f"an answer of {host.name}", lambda host=host: hosts.answers(host, photo), BACK_S)  # type: ignore[misc]


@proof
def test_a_host_that_loses_its_power_is_missed_by_nobody(hosts: Hosts, photo: bytes) -> None:
    _, second, third = hosts.swarm.hosts
    third.cut_power()
    failures, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert hosts.ask(second, photo)["model_version"] == "1"
        except requests.RequestException as error:
            failures.append(repr(error))
        time.sleep(0.2)
    assert failures == []
    third.start()
    wait_until("the host's answer", lambda: hosts.answers(third, photo), BACK_S)
    wait_until("two servers", lambda: len(hosts.routes().get("servers", ())) == 2, BACK_S)
