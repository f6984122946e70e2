"""Processes are killed and networks are lost at every step of an execution; nobody puts anything right by hand.

Afterwards one champion serves, registry and server agree, nothing was promoted twice, no archive is half written, the
execution has come to its end, and whoever asked meanwhile got answers, except while the server itself was down.
"""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.archives.archive import unpacked
from serve.manifest import read_manifest, sha256
from serve.rollout.model_store import ORIGIN, RECORDS, SERVING
from serve.settings import OFF, settings_of
from tests.conftest import rounds
from tests.e2e.faults import MOMENTS, SERVICES, Case, Client, Scene, fault, wait_for
from tests.e2e.stack import ONE_THREAD, ROOT, Stack
from trainer.artifacts import ARCHIVE_SHA
from trainer.evaluation import policy
from trainer.registry.entities import PREVIOUS, Status
from trainer.registry.signed_archive import fetch

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("docker"),
    # docker's adapter for sockets leaves one that nobody listens on to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket fd=[0-9]+, family=1,:ResourceWarning"),
]

CASES = [
    *(Case("train", victim) for victim in ("trainer", "serve", "mlflow", "postgres")),
    *(Case("evaluate", victim) for victim in ("trainer", "mlflow", "postgres")),
    *(Case("gate", victim) for victim in ("trainer", "mlflow", "postgres")),
    Case("register", "trainer"),
    *(Case("load", victim) for victim in ("trainer", "promoter", "serve", "mlflow", "postgres")),
    *(Case("canary", victim) for victim in ("promoter", "serve")),
    *(Case("alias", victim) for victim in ("promoter", "serve", "mlflow", "postgres")),
    *(Case("watch", victim) for victim in ("trainer", "promoter", "serve", "mlflow")),
    *(Case("retire", victim) for victim in ("promoter", "serve", "postgres")),
    Case("train", "trainer", "tracking"),
    Case("evaluate", "mlflow", "tracking"),
    Case("gate", "mlflow", "database"),
    Case("load", "promoter", "inference"),
    Case("load", "promoter", "tracking"),
    Case("alias", "promoter", "tracking"),
    Case("watch", "promoter", "inference"),
]
SEED = 7
PATIENCE_S = 900.0
CHALLENGER = ("--recipe", "hpo-frozen", "--architecture", "efficientnet-lite0", "--size-px", "64", "--epochs", "20")
"""Trained in seconds, and better than a first champion of one epoch, so that every case comes to a promotion."""
WHOLE = """
import json, pathlib
from serve.archives.archive import unpacked
from serve.manifest import read_manifest
names = []
for path in pathlib.Path("/models").iterdir():
    names.append(path.name)
    if path.suffix == ".mar":
        with unpacked(path) as folder:
            read_manifest(folder)
print(json.dumps({"files": sorted(names), "accuracy": json.loads(pathlib.Path("/models/accuracy.json").read_text())}))
"""


def settings(photos: Path) -> dict[str, str]:
    """Of a stack in which every challenger that is better at all is promoted, and soon."""
    return {
        "BINWATCH_DATA": str(photos),
        "BINWATCH_RECIPE": "tiny",
        "BINWATCH_EPOCHS": "1",
        "BINWATCH_RETRAIN_ON_DRIFT": "0",
        "BINWATCH_GATE_POLICY": policy.GREATER,
        **{setting.variable: OFF for setting in settings_of(policy.GatePolicy) if setting.allowed.endswith(OFF)},
        "BINWATCH_WATCH_S": "4",
        "BINWATCH_WORKERS": "1",
        "BINWATCH_AUTOSCALE": "0",
    }


@pytest.fixture(scope="module")
def stack(drawn: Path, docker: None) -> Iterator[Stack]:
    for folder in (drawn, drawn.parent, drawn.parent.parent):  # the trainer is another user
        folder.chmod(0o755)
    made = Stack("binwatch-faults", **settings(drawn))
    made.compose("down", "--volumes")
    made.compose("up", "--build", "--wait", *SERVICES)
    made.log_in()
    made.wait_for_answer(photo_in(drawn))
    yield made
    made.compose("down", "--volumes")


def photo_in(drawn: Path) -> bytes:
    return sorted((drawn / "bin-images").iterdir())[0].read_bytes()


@pytest.fixture
def scene(stack: Stack) -> Iterator[Scene]:
    """The weak first champion serves and nothing goes on; afterwards it serves again."""
    wait_for("the first champion serves and nothing goes on", lambda: Scene(stack).rests("1"), PATIENCE_S)
    yield Scene(stack)
    if Scene(stack).champion() != "1":
        stack.compose("exec", "-T", "promoter", "python", "scripts/promote.py", "--rollback", "for the next case")


@pytest.mark.parametrize("case", random.Random(SEED).sample(CASES, rounds(1, len(CASES))), ids=str)
def test_one_champion_serves_after_a_fault(stack: Stack, scene: Scene, drawn: Path, tmp_path: Path, case: Case) -> None:
    deployed, strike, start = len(scene.registry.deployments()), fault(stack, case), time.monotonic()
    with Client(stack, photo_in(drawn)) as client:
        pipeline = begin(scene)
        wait_for(str(case), lambda: MOMENTS[case.moment](scene), PATIENCE_S)
        struck = strike()
        down = None
        if case.victim == "serve":
            down = (struck, wait_for("serve is back", lambda: bool(scene.answering()), PATIENCE_S))
        ended = end(scene, pipeline)
        wait_for("one version serves", lambda: scene.rests(scene.champion()), PATIENCE_S)
    print(f"| {case} | {ended} | {time.monotonic() - start:.0f} s | {len(client.asked)} requests |")
    assert client.failures(down) == []
    check_registry(scene, deployed)
    check_execution(scene)
    check_archives(scene, tmp_path)


def begin(scene: Scene) -> "subprocess.Popen[str]":
    """Start an execution in the trainer's container. Each one has a seed of its own, so that nothing is cached."""
    command = ["docker", "compose", "exec", "-T", *ONE_THREAD, "trainer"]
    command += ["python", "scripts/pipeline.py", *CHALLENGER]
    command += ["--seed", str(scene.before)]
    return subprocess.Popen(
        command, cwd=ROOT, env=scene.stack.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end(scene: Scene, pipeline: "subprocess.Popen[str]") -> str:
    """Wait for the execution to come to its end, and say how it did."""
    said, _ = pipeline.communicate(timeout=PATIENCE_S)
    found = None

    def ended() -> bool:
        nonlocal found
        found = scene.execution()
        return found is not None and found.status != "RUNNING"

    wait_for(f"the execution goes on after\n{said[-3000:]}", ended, PATIENCE_S)
    assert found is not None
    if found.status == "FINISHED":
        return "went on" if pipeline.returncode == 0 else "resumed by the trainer"
    scene.stack.compose("exec", "-T", "trainer", "python", "scripts/pipeline.py", "--resume", found.id)
    return f"resumed by a command, after {said.strip().splitlines()[-1:]}"


def check_registry(scene: Scene, deployed: int) -> None:
    """One champion, promoted once, from a run of its own; what it replaced is what a rollback returns to."""
    versions, new = scene.registry.versions(), scene.new()
    assert new is not None
    assert scene.champion() == scene.answering() == new.number
    assert new.status == Status.PROMOTED
    assert not [each for each in versions if each.status in ("", Status.APPROVED)]
    assert len({each.run_id for each in versions}) == len(versions)
    assert int(new.number) == scene.before + 1
    moves = scene.registry.deployments()
    assert [(each.version, each.did) for each in moves[: len(moves) - deployed]] == [(new.number, "promoted")]
    recorded = scene.registry.runs("tags.`binwatch.kind` = 'deployment'")
    assert len({each.id for each in recorded if each.tags["version"] == new.number}) == 1
    previous = scene.registry.alias(PREVIOUS)
    assert previous is not None
    assert previous.number == scene.base


def check_execution(scene: Scene) -> None:
    """It is one, every step of it succeeded, and nothing of it seems to go on."""
    execution = scene.execution()
    assert execution is not None
    told = json.loads(scene.registry.read_text(execution.id, "execution.json") or "{}")
    assert (execution.status, told["decision"]) == ("FINISHED", "promoted")
    steps = [(each["name"], each["status"]) for each in told["steps"]]
    assert steps == [(name, "Succeeded") for name in ("prepare", "train", "evaluate", "gate", "promote")]
    assert {each.status for each in scene.registry.nested(execution.id)} <= {"FINISHED", "KILLED", "FAILED"}
    left = scene.stack.compose("exec", "-T", "trainer", "ls", "/state").stdout.split()
    assert "underway.json" not in left


def check_archives(scene: Scene, folder: Path) -> None:
    """In the model store and in MLflow: whole, and nothing else in the store."""
    done, new = scene.stack.python("promoter", WHOLE), scene.new()
    assert done.returncode == 0, done.stderr
    assert new is not None
    found = json.loads(done.stdout)
    notes = ("", ORIGIN, RECORDS)
    kept = [f"bin-counter-{version}.mar{note}" for version in (scene.base, new.number) for note in notes]
    assert found["files"] == sorted(["accuracy.json", SERVING, *kept])
    assert found["accuracy"]["version"] == new.number
    scene.stack.compose("cp", "promoter:/verifying", str(folder))
    logged = fetch(scene.registry, new.run_id, folder, folder / "verifying")
    with unpacked(logged) as content:
        read_manifest(content)
    assert sha256(logged) == scene.registry.tags(new.run_id)[ARCHIVE_SHA]
