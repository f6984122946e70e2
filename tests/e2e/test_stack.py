"""The compose stack itself, built and run for real: in the order in which an engineer meets it."""

import json
import socket
import subprocess
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.stack import ONE_THREAD, ROOT, Stack
from trainer.data import synthetic

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    records = tmp_path_factory.mktemp("records") / "stock.csv"
    records.write_text("bin_id,id,quantity,length,width,height,size_unit\nA-7,oil filter,4,9.9,7.4,7.1,cm\n")
    records.chmod(0o644)
    # A first champion of few epochs leaves room for a better one.
    settings = {"BINWATCH_RECIPE": "tiny", "BINWATCH_EPOCHS": "2", "BINWATCH_WATCH_S": "10"}
    settings["BINWATCH_RECORDS"] = str(records)
    made = Stack("binwatch-e2e", **settings, BINWATCH_SERVE_MEMORY="2g")
    made.compose("down", "--volumes")
    made.compose("up", "--build", "--wait")
    yield made
    made.compose("down", "--volumes")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A drawn bin."""
    source = synthetic.draw_dataset(tmp_path_factory.mktemp("drawn"), 5, seed=9)
    return sorted((source / "bin-images").iterdir())[0].read_bytes()


def test_a_first_champion_answers_with_no_further_command(stack: Stack, photo: bytes) -> None:
    start = time.monotonic()
    answer = stack.wait_for_answer(photo)
    print(f"first answer {time.monotonic() - start:.0f} s after `docker compose up --wait`")
    assert answer["model_version"] == "1"
    assert set(answer["probabilities"]) == {"1", "2", "3", "4", "5"}


def test_the_gateway_answers_for_the_champion(stack: Stack, photo: bytes) -> None:
    url = f"http://127.0.0.1:{stack.gateway_port}"
    assert requests.get(f"{url}/healthz", timeout=60).json() == {"status": "ok", "model_version": "1"}
    answer = requests.post(f"{url}/verify?expected_quantity=7", data=photo, timeout=60).json()
    assert (answer["verdict"], answer["model_version"]) == ("unsure", "1")
    kept = requests.post(f"{url}/feedback", json={"event_id": answer["event_id"], "count": 2}, timeout=60)
    assert kept.status_code == 201, kept.text
    assert "<title>" in requests.get(url, timeout=60).text


def test_a_bin_s_record_comes_from_the_table_that_the_settings_name(stack: Stack, photo: bytes) -> None:
    url = f"http://127.0.0.1:{stack.gateway_port}"
    answer = requests.post(f"{url}/verify?bin_id=A-7", data=photo, timeout=60).json()
    assert (answer["bin_id"], answer["expected_quantity"], answer["record"]["products"][0]["id"]) == (
        "A-7",
        4,
        "oil filter",
    )
    unknown = requests.post(f"{url}/verify?bin_id=A-8", data=photo, timeout=60)
    assert (unknown.status_code, unknown.json()["type"]) == (404, "NoSuchBin")


def test_both_ports_are_one_door(stack: Stack, photo: bytes) -> None:
    for port in (stack.port, stack.gateway_port):
        url = f"http://127.0.0.1:{port}"
        path = f"{url}/predictions/bin-counter"
        assert requests.put(path, data=photo, timeout=60).json()["model_version"] == "1"  # curl -T
        form = {"Content-Type": "application/x-www-form-urlencoded"}  # curl --data-binary
        assert requests.post(path, data=photo, headers=form, timeout=60).json()["model_version"] == "1"
        assert requests.get(f"{url}/ping", timeout=60).json() == {"status": "Healthy"}
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert connection.recv(12)[9:10] == b"4"


def test_the_server_has_no_torch(stack: Stack) -> None:
    assert "ModuleNotFoundError" in stack.python("serve", "import torch").stderr


def test_a_process_that_outgrows_its_container_is_ended_and_the_champion_answers(stack: Stack, photo: bytes) -> None:
    assert stack.python("serve", "len(bytes(3 << 30).replace(bytes(1), b'x'))").returncode == 137
    assert stack.wait_for_answer(photo, 180)["model_version"] == "1"


def test_the_gateway_does_not_start_for_other_machines_without_a_key(stack: Stack) -> None:
    words = ("run", "--rm", "-T", "-e", "BINWATCH_GATEWAY_BIND=0.0.0.0", "gateway")
    refused = stack.compose(*words, check=False)
    assert refused.returncode == 2
    assert "not loopback, and /keys/api-keys.json holds no API key" in refused.stdout + refused.stderr


def test_a_broken_photo_is_400(stack: Stack) -> None:
    assert stack.ask(b"no photo").status_code == 400


def test_a_better_model_is_swapped_in_without_a_failed_request(stack: Stack, photo: bytes) -> None:
    stop, answers = threading.Event(), Tally[str]()

    def ask() -> Tally[str]:
        mine = Tally[str]()
        while not stop.is_set():
            response = stack.ask(photo)
            mine[response.json()["model_version"] if response.ok else f"HTTP {response.status_code}"] += 1
            time.sleep(0.2)  # two cores train meanwhile
        return mine

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            # 100 test photos are too few to be sure of a few points, and this is about requests
            words = ["python", "scripts/pipeline.py", "--epochs", "20", "--policy", "greater", "--json"]
            done = stack.compose("exec", "-T", *ONE_THREAD, "trainer", *words)
            time.sleep(1)
        finally:
            stop.set()
        for client in clients:
            answers += client.result()
    execution = json.loads(done.stdout)
    print(f"requests during the execution, by version: {dict(answers)}")
    assert execution["decision"] == "promoted"
    assert {step["status"] for step in execution["steps"]} == {"Succeeded"}
    assert execution["challenger"]["accuracy"] > execution["champion"]["accuracy"]
    assert set(answers) == {"1", "2"}


def test_a_run_on_a_tenth_of_the_photos_is_refused(stack: Stack, photo: bytes) -> None:
    words = ["python", "scripts/pipeline.py", "--train-share", "0.1", "--json"]
    done = stack.compose("exec", "-T", *ONE_THREAD, "trainer", *words, check=False)
    assert done.returncode == 3, done.stderr[-2000:]
    assert json.loads(done.stdout)["decision"] == "refused"
    assert stack.ask(photo).json()["model_version"] == "2"


def test_the_champion_comes_back_after_a_restart_of_serve(stack: Stack, full_size: Path) -> None:
    photo = (full_size / "05049.jpg").read_bytes()
    before = stack.ask(photo).json()
    stack.compose("restart", "serve")
    after = stack.wait_for_answer(photo, 120)
    print(f"full-size photo before the restart {before}, after it {after}")
    assert after.pop("event_id") != before.pop("event_id")
    assert after == before


def test_the_monitoring_shows_what_was_answered_and_what_was_really_there(stack: Stack) -> None:
    url, deadline = f"http://127.0.0.1:{stack.gateway_port}/monitoring", time.monotonic() + 180
    while "2" not in (found := requests.get(url, timeout=60).json()).get("model_versions", {}):
        assert time.monotonic() < deadline, f"the monitor, which looks every minute, has not seen version 2: {found}"
        time.sleep(1)
    assert found["totals"]["feedback"] == 1
    assert found["totals"]["verdicts"]["unsure"] >= 1
    assert found["unreadable"] == 0
    assert {each["name"] for each in found["drift"]} == {"counts", "confidence", "brightness", "sharpness"}


def test_down_and_up_bring_the_champion_back_without_training(stack: Stack, photo: bytes) -> None:
    before, versions = stack.ask(photo).json(), len(stack.versions())
    stack.compose("down")
    stack.compose("up", "--wait")
    after = stack.wait_for_answer(photo, 180)
    assert after.pop("event_id") != before.pop("event_id")
    assert after == before
    assert len(stack.versions()) == versions


def reaches(stack: Stack, service: str, host: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
    return stack.python(service, code).returncode == 0


def test_the_networks_are_the_fence(stack: Stack) -> None:
    assert reaches(stack, "promoter", "serve", 8080)
    assert reaches(stack, "gateway", "serve", 8080)
    assert reaches(stack, "trainer", "mlflow", 5000)
    assert reaches(stack, "mlflow", "postgres", 5432)
    for service, host, port in [
        ("serve", "mlflow", 5000),
        ("serve", "postgres", 5432),
        ("trainer", "serve", 8080),
        ("trainer", "postgres", 5432),
        ("promoter", "postgres", 5432),
        ("promoter", "serve", 8081),
        ("gateway", "serve", 8081),
        ("gateway", "mlflow", 5000),
        ("monitor", "serve", 8080),
        ("monitor", "postgres", 5432),
    ]:
        assert not reaches(stack, service, host, port), f"{service} reaches {host}:{port}"


def test_the_management_has_no_port_that_a_user_of_the_host_could_reach(stack: Stack) -> None:
    """It is a socket in a volume of serve's and the promoter's; the host reaches containers by their addresses."""
    (serve,) = [each for each in inspect(stack) if each["Config"]["Labels"]["com.docker.compose.service"] == "serve"]
    for network in serve["NetworkSettings"]["Networks"].values():
        socket.create_connection((network["IPAddress"], 8080), 5).close()
        for port in (8081, 8082, 7070, 7071):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((network["IPAddress"], port), 5)
    mounts = {
        container["Config"]["Labels"]["com.docker.compose.service"]
        for container in inspect(stack)
        for mount in container["Mounts"]
        if mount["Destination"] == "/management"
    }
    assert mounts == {"serve", "promoter"}


MLFLOW = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ODD_PATHS = [
    *("", "/", "//", "/.", "/./", "/%2e", "/%252e", "/..", "/%2e%2e", "/%2f", "/%2f.", "/*", "/%00", "/0/..", "/;"),
    *("/0/%2e%2e", "/0%2f..%2f.", "/1/..", "/1/%2e%2e", "/1%2f%2e%2e", "/.%2f1/..", "/x/../1/..", "/%5c.."),
]


def test_nobody_without_an_account_gets_anything_from_mlflow(stack: Stack) -> None:
    assert stack.mlflow("GET", "/health", "").status_code == 200
    for method, path in [("GET", "/"), ("GET", f"{MLFLOW}/model-versions/search"), ("GET", f"{MLFLOW}/users/list")]:
        assert stack.mlflow(method, path, "").status_code == 401
    assert {stack.mlflow("DELETE", ARTIFACTS + path, "").status_code for path in ODD_PATHS} == {401}


def test_an_account_of_mlflow_has_the_rights_of_its_work_and_no_more(stack: Stack) -> None:
    version = {"name": "bin-counter", "version": "1"}
    tag = {**version, "key": "seen", "value": "yes"}
    alias = {**version, "alias": "of-a-test"}
    allowed = {
        account: [
            path
            for path, body in (
                ("model-versions/set-tag", tag),
                ("registered-models/alias", alias),
                ("runs/create", {"experiment_id": "1"}),
                ("experiments/delete", {"experiment_id": "999"}),
                ("users/create", {"username": "eve", "password": "a long password"}),
            )
            if stack.mlflow("POST", f"{MLFLOW}/{path}", account, body).ok
        ]
        for account in ("reader", "monitor", "promoter", "trainer")
    }
    edits = ["model-versions/set-tag", "registered-models/alias", "runs/create"]
    assert allowed == {"reader": [], "monitor": ["runs/create"], "promoter": edits, "trainer": edits}
    assert stack.mlflow("GET", f"{MLFLOW}/model-versions/search", "reader").ok


def test_no_odd_path_removes_artifacts(stack: Stack) -> None:
    """MLflow 3.17 without accounts removed all of them, and answered 500."""
    archive = stack.compose("exec", "-T", "mlflow", "find", "/artifacts", "-name", "*.mar").stdout.split()
    assert archive
    experiments = {path.removeprefix("/artifacts").rpartition("/artifacts/")[0].rpartition("/")[0] for path in archive}
    for account in ("reader", "monitor", "promoter"):
        paths = [*ODD_PATHS, *(experiments if account == "reader" else ())]
        answers = {path: stack.mlflow("DELETE", ARTIFACTS + path, account).status_code for path in paths}
        assert not {200, 500} & set(answers.values()), answers
    assert stack.compose("exec", "-T", "mlflow", "find", "/artifacts", "-name", "*.mar").stdout.split() == archive


def test_people_learn_their_passwords_with_one_command(stack: Stack) -> None:
    shown = stack.compose("run", "--rm", "-T", "--no-deps", "secrets", "make-secrets", "show").stdout.split()
    assert dict(zip(shown[::2], shown[1::2], strict=True)) == {
        account: stack.password(account) for account in ("admin", "reader")
    }


def test_wrong_settings_are_named_at_once_and_what_runs_goes_on(stack: Stack, photo: bytes) -> None:
    wrong = {
        "BINWATCH_ALPHA": "5",
        "BINWATCH_WORKERS": "-3",
        "BINWATCH_CAPTURE_SHARE": "7",
        "BINWATCH_CAPTURE_DISK": "abc",
        "BINWATCH_S3_ENDPOINT": "notaurl",
    }
    before = stack.compose("ps", "--quiet").stdout
    changed = Stack("binwatch-e2e", **wrong)
    changed.env = {**stack.env, **wrong}
    refused = changed.compose("up", "--wait", check=False)
    assert refused.returncode
    for variable, text in wrong.items():
        assert f"error: {variable} is {text!r}; give " in refused.stdout + refused.stderr
    assert stack.compose("ps", "--quiet").stdout == before
    assert stack.ask(photo).ok


def test_photos_that_cannot_be_read_are_named_and_what_runs_goes_on(stack: Stack, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "bins" / "bin-images").mkdir(parents=True)
    (tmp_path / "bins").chmod(0o700)
    env = {**stack.env, "BINWATCH_DATA": str(tmp_path / "bins")}
    command = ["docker", "compose", "run", "--rm", "-T", "--no-deps", "settings"]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 2
    assert "error: BINWATCH_DATA: the user of the containers, uid 10001, cannot read /photos/data" in done.stderr
    assert stack.ask(photo).ok


def inspect(stack: Stack) -> list[dict[str, Any]]:
    containers = stack.compose("ps", "--all", "--quiet").stdout.split()
    done = subprocess.run(["docker", "inspect", *containers], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_only_three_ports_are_published_and_only_on_this_machine(stack: Stack) -> None:
    published = [
        (binding["HostIp"], int(binding["HostPort"]))
        for container in inspect(stack)
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or ()
    ]
    ports = (stack.port, stack.mlflow_port, stack.gateway_port)  # the first and the last are the gateway
    assert sorted(published) == sorted(("127.0.0.1", port) for port in ports)


def test_nobody_is_root_and_nobody_holds_the_docker_socket(stack: Stack) -> None:
    for container in inspect(stack):
        assert container["Config"]["User"] not in ("", "0", "root"), container["Name"]
        assert "docker.sock" not in json.dumps(container["Mounts"])
    for service in ("postgres", "mlflow", "serve", "gateway", "trainer", "promoter"):
        assert stack.compose("exec", "-T", service, "id", "-u").stdout.strip() != "0"


def test_only_the_promoter_writes_the_model_store(stack: Stack) -> None:
    writable = {
        container["Config"]["Labels"]["com.docker.compose.service"]: mount["RW"]
        for container in inspect(stack)
        for mount in container["Mounts"]
        if mount["Destination"] == "/models"
    }
    assert writable == {"promoter": True, "serve": False}


def test_the_password_is_made_up_and_needed(stack: Stack) -> None:
    code = "import psycopg2; psycopg2.connect('postgresql://binwatch:{}@postgres/mlflow')"
    for guess in ("binwatch", "postgres", "password"):
        done = stack.python("mlflow", code.format(guess))
        assert "password authentication failed" in done.stderr
    done = stack.python(
        "mlflow",
        (
            "import psycopg2; p = open('/secrets/postgres-password').read(); assert len(p) > 30; "
            "psycopg2.connect(f'postgresql://binwatch:{p}@postgres/mlflow')"
        ),
    )
    assert done.returncode == 0, done.stderr
    assert not any("POSTGRES_PASSWORD=" in entry for c in inspect(stack) for entry in c["Config"]["Env"])


def test_only_the_trainer_can_sign_and_the_promoter_can_check(stack: Stack) -> None:
    services = ("trainer", "promoter", "serve", "gateway", "monitor", "postgres")
    held = {
        each: stack.compose("exec", "-T", each, "ls", "-A", "/signing", "/verifying", check=False).stdout
        for each in services
    }
    assert {each for each in services if "signing.key" in held[each]} == {"trainer"}
    assert {each for each in services if ".pem" in held[each]} == {"trainer", "promoter"}
    mode = stack.python("trainer", "import os; s = os.stat('/signing/signing.key'); print(oct(s.st_mode), s.st_uid)")
    assert mode.stdout.split() == ["0o100600", "10001"]
    assert stack.python("trainer", "open('/signing/signing.key', 'a')").returncode
    environments = [entry for c in inspect(stack) for entry in c["Config"]["Env"]]
    assert not any("PRIVATE KEY" in entry for entry in environments)
    assert sum(entry.startswith("BINWATCH_SIGNING_KEY=") for entry in environments) == 1


def test_the_gpu_file_adds_the_reservations_and_torch_and_nothing_else(stack: Stack) -> None:
    plain = json.loads(stack.compose("config", "--format", "json").stdout)
    gpu = json.loads(
        stack.compose("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml", "config", "--format", "json").stdout
    )
    for service in ("serve", "trainer"):
        (device,) = gpu["services"][service].pop("deploy")["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        plain["services"][service].pop("deploy", None)
    assert gpu["services"]["serve"]["build"]["args"].pop("BASE") == "torch"
    assert gpu == plain
