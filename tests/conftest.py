"""What the tests share: drawn bins, real photos where there are any, a trained archive, real servers.

What takes long is made once for a run, whatever the number of its processes (``tests/once.py``). Nothing heavy is
imported before a test asks for it: the unit tests need neither torch nor MLflow.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.once import Run

if TYPE_CHECKING:
    from serve.rollout.rollout import Rollout
    from serve.rollout.torchserve_client import Inference, Management
    from trainer.registry.mlflow_registry import Registry
    from trainer.training.run import Trained

os.environ.setdefault("BINWATCH_CAPTURE_DISK", "1")  # a full machine is not what the tests are about

ROOT = Path(__file__).parents[1]
TORCHSERVE = re.compile(r"\b(torchserve|served): ")
"""A parameter of a test or fixture that needs a TorchServe."""
PROMOTIONS = frozenset({"test_healing", "test_pipeline", "test_probation", "test_promotion", "test_rollback"})
"""The files with the TorchServe of promotions; the others have a second one, so that neither row is too long."""


LONGEST = frozenset({"test_continuous", "test_distributed", "test_extra", "test_story", "test_tune"})
"""The files whose tests take minutes, besides the rows."""


@cache
def scope(path: str) -> str:
    """The tests of a file run in one process, and so do all files whose tests swap models in the same TorchServe."""
    if not TORCHSERVE.search((ROOT / path).read_text()):
        return path
    return "torchserve-promotions" if Path(path).stem in PROMOTIONS else "torchserve-answers"


class TorchServeRows(LoadScopeScheduling):  # type: ignore[misc]
    """Hands the tests of one scope to one process. (``xdist_group`` has no effect with this version of pytest.)"""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """The scheduler of `-n`."""
    return TorchServeRows(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: the rows of the TorchServes, then the files of LONGEST."""

    def rank(item: pytest.Item) -> int:
        row = scope(item.nodeid.partition("::")[0])
        return 0 if row.startswith("torchserve") else 1 + (Path(row).stem not in LONGEST)

    items.sort(key=rank)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the run's servers, once the last of its processes has ended."""
    if hasattr(session.config, "workerinput"):
        return
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    Run(session.config, factory).stop()


def rounds(sample: int, full: int) -> int:
    """How often a test that takes long repeats itself: ``full`` in `make proof`, else the first ``sample``."""
    return full if os.environ.get("BINWATCH_PROOF") else sample


proof = pytest.mark.skipif(not os.environ.get("BINWATCH_PROOF"), reason="takes minutes: make proof")
"""Marks a test that only `make proof` runs."""


def need(name: str, present: bool, reason: str) -> None:
    """Skip where ``name`` is missing; fail where BINWATCH_REQUIRE lists it."""
    if present:
        return
    if name in os.environ.get("BINWATCH_REQUIRE", "").split(","):
        pytest.fail(f"BINWATCH_REQUIRE lists {name}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What this run of the tests makes once."""
    return Run(request.config, tmp_path_factory)


@pytest.fixture(scope="session")
def drawn(once: Run) -> Path:
    """300 drawn bins."""
    from trainer.data import synthetic

    return once.value("drawn", lambda folder: synthetic.draw_dataset(folder / "bins", 300, seed=1))


@pytest.fixture(scope="session")
def abid() -> Path:
    """The folder of real photos that BINWATCH_DATA names."""
    path = Path(os.environ.get("BINWATCH_DATA") or "/dev/null")
    need("abid", path.is_dir(), "BINWATCH_DATA names no folder of real photos")
    return path


@pytest.fixture(scope="session")
def full_size() -> Path:
    """The folder of real full-size photos that BINWATCH_FULL_SIZE names."""
    path = Path(os.environ.get("BINWATCH_FULL_SIZE") or "/dev/null")
    need("abid", path.is_dir(), "BINWATCH_FULL_SIZE names no folder of real photos")
    return path


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine that answers."""
    try:
        compose = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60)
        engine = subprocess.run(["docker", "info"], capture_output=True, timeout=60)
        present = compose.returncode == engine.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        present = False
    need("docker", present, "no Docker engine with Compose answers")


@pytest.fixture(scope="session")
def toolkits() -> Path:
    """The programs of the environment with AWS's toolkits; its python sees this one's packages, but no binwatch."""
    path = Path(f"{sys.prefix}-sagemaker")
    need("sagemaker", (path / ".ready").is_file(), f"there is no {path}: `make toolkits` sets it up")
    return path / "bin"


@pytest.fixture(scope="session")
def trained(drawn: Path, once: Run) -> "Trained":
    """An archive of drawn bins, evaluated, without MLflow."""
    from tests.models import train_sure

    return once.value("trained", lambda folder: train_sure(drawn, folder / "trained"))


@pytest.fixture
def mlflow_url(once: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run's MLflow server on SQLite, where this process and its children have a workspace of their own."""
    from tests.once import mlflow_workspace

    url = str(once.server("mlflow", MLFLOW_ENABLE_WORKSPACES="true"))
    monkeypatch.setenv("MLFLOW_WORKSPACE", mlflow_workspace(url, once.worker))
    return url


@pytest.fixture
def registry(mlflow_url: str) -> "Iterator[Registry]":
    """A real MLflow whose model registry is empty, and which knows of no deployment and no execution."""
    from mlflow import MlflowClient

    from trainer.registry.mlflow_registry import Registry
    from trainer.reporting.history import EXECUTIONS_QUERY

    registry = Registry(mlflow_url)
    yield registry
    client = MlflowClient(mlflow_url, mlflow_url)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    runs = [*(move.run_id for move in registry.deployments()), *(run.id for run in registry.runs(EXECUTIONS_QUERY))]
    for run_id in runs:
        client.delete_run(run_id)


@pytest.fixture
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials of AWS, of the environment or of files."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture(scope="session")
def s3(once: Run) -> str:
    """The address of the run's S3 server, which asks for no credentials. Tests share it: name buckets after yours."""
    return str(once.server("s3"))


@dataclass(frozen=True)
class Served:
    """A real TorchServe, and the promotion's view of it."""

    inference: "Inference"
    management: "Management"
    store: Path
    rollout: "Rollout"


@pytest.fixture(scope="module")
def torchserve(request: pytest.FixtureRequest, once: Run) -> Served:
    """The TorchServe of the file's row."""
    row = scope(str(request.path.relative_to(ROOT)))
    assert row.startswith("torchserve"), f"{row} must name its fixture as TORCHSERVE expects, to run in a row"
    return start_torchserve(once, row)


def start_torchserve(once: Run, name: str) -> Served:
    """A TorchServe of this name. A test that takes minutes has one of its own, and keeps no others waiting."""
    from serve.rollout.rollout import Rollout
    from serve.rollout.torchserve_client import Inference, Management

    inference_url, management_url, store = cast("tuple[str, str, str]", once.server("torchserve", name))
    inference, management = Inference(inference_url), Management(management_url)
    return Served(inference, management, Path(store), Rollout(inference, management, Path(store)))


@pytest.fixture
def served(torchserve: Served) -> Iterator[Served]:
    """A real TorchServe without a model."""
    yield torchserve
    emptied(torchserve)


def emptied(torchserve: Served) -> None:
    """Unload every model, and take its archive out of the store."""
    for version in sorted(torchserve.management.loaded(), key=lambda version: version.default):
        torchserve.management.unregister(version.version)
    for path in torchserve.store.iterdir():
        path.unlink()
