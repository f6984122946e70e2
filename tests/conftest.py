"""What the tests share: drawn bins, real photos where there are any, a trained archive, real servers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from torch import nn

from serve.local.servers import mlflow_server, torchserve_server
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management
from trainer.data import synthetic
from trainer.data.dataset import DataSpec
from trainer.registry.mlflow_registry import Registry
from trainer.reporting.history import KIND as EXECUTIONS
from trainer.training.networks import ARCHITECTURES, Architecture
from trainer.training.recipes import RECIPES
from trainer.training.run import Trained, run_evaluation, run_training

os.environ.setdefault("BINWATCH_CAPTURE_DISK", "1")  # a full machine is not what the tests are about


def small() -> nn.Module:
    """A body whose archive is made in seconds, and has kilobytes where ResNet-18's has a hundred megabytes."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


ARCHITECTURES["small"] = Architecture(small, 16, dict)
TINY = replace(RECIPES["resnet18-small"], architecture="small", size_px=32, epochs=1)
"""A recipe for tests that need a model, but not a good one."""
SURE = replace(TINY, epochs=30, learning_rate=0.03)
"""One whose model is sure enough of its answers for another model's to differ."""


LEFT = {"bin-counter.mar", "dataset.json", "evaluation.json", "predictions.json", "training.json"}
"""What a training job leaves behind."""


def rounds(sample: int, full: int) -> int:
    """How often a test that takes long repeats itself: ``full`` in `make proof`, else the first ``sample``."""
    return full if os.environ.get("BINWATCH_PROOF") else sample


def need(name: str, present: bool, reason: str) -> None:
    """Skip where ``name`` is missing; fail where BINWATCH_REQUIRE lists it."""
    if present:
        return
    if name in os.environ.get("BINWATCH_REQUIRE", "").split(","):
        pytest.fail(f"BINWATCH_REQUIRE lists {name}, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 drawn bins."""
    return synthetic.draw_dataset(tmp_path_factory.mktemp("drawn"), 300, seed=1)


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
        done = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60)
        engine = subprocess.run(["docker", "info"], capture_output=True, timeout=60)
        present = done.returncode == engine.returncode == 0
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
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An archive of drawn bins, evaluated, without MLflow."""
    made = run_training(DataSpec(drawn), SURE, tmp_path_factory.mktemp("trained"), None)
    run_evaluation(made)
    return made


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on SQLite."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def registry(mlflow_url: str) -> Iterator[Registry]:
    """A real MLflow whose model registry is empty, and which knows of no deployment and no execution."""
    tracking = Registry(mlflow_url)
    yield tracking
    client = MlflowClient(mlflow_url, mlflow_url)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    for run_id in [*(each.run_id for each in tracking.deployments()), *(run.id for run in tracking.runs(EXECUTIONS))]:
        client.delete_run(run_id)


@dataclass(frozen=True)
class Served:
    """A real TorchServe, and the promotion's view of it."""

    inference: Inference
    management: Management
    store: Path
    rollout: Rollout


@pytest.fixture(scope="session")
def torchserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real TorchServe for the whole session."""
    with torchserve_server(tmp_path_factory.mktemp("torchserve")) as (inference_url, management_url, store):
        inference, management = Inference(inference_url), Management(management_url)
        yield Served(inference, management, store, Rollout(inference, management, store))


@pytest.fixture
def served(torchserve: Served) -> Iterator[Served]:
    """A real TorchServe without a model."""
    yield torchserve
    emptied(torchserve)


def emptied(torchserve: Served) -> None:
    """Unload every model, and take its archive out of the store."""
    for each in sorted(torchserve.management.loaded(), key=lambda each: each.default):
        torchserve.management.unregister(each.version)
    for path in torchserve.store.iterdir():
        path.unlink()
