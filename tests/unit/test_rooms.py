"""What the project's layout promises."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = {
    "serve",
    "serve.archive",
    "serve.counter",
    "serve.environment",
    "serve.errors",
    "serve.photo",
    "serve.probation",
    "serve.verdict",
    "serve.vetting",
    "serve.zips",
}


def imported(path: Path) -> set[str]:
    """Full names of the project's own modules that a file imports, and mlflow."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name.split(".")[0] in ("serve", "trainer", "scripts", "mlflow", "tests")}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", modules("serve"), ids=lambda path: str(path.relative_to(ROOT)))
def test_serve_imports_neither_the_trainer_nor_mlflow(path: Path) -> None:
    assert {name.split(".")[0] for name in imported(path)} <= {"serve"}


@pytest.mark.parametrize("path", modules("trainer"), ids=lambda path: path.name)
def test_the_trainer_imports_only_the_leaves_of_serve(path: Path) -> None:
    rooms = {name.split(".")[0] for name in imported(path)}
    assert rooms <= {"serve", "trainer"} | ({"mlflow"} if path.name == "tracking.py" else set())
    used = {".".join(name.split(".")[:2]) for name in imported(path) if name.startswith("serve")}
    assert used <= LEAVES


@pytest.mark.parametrize("module", ["serve.counter", "trainer.features", "trainer.quantise"])
def test_onnx_runtime_tells_nobody_what_it_runs(module: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}  # where CI is set, it never tells
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT, env=environ)
    assert not list(tmp_path.rglob("onnxruntime.db"))  # what waits to be sent
    assert not list(tmp_path.rglob("deviceid"))


def test_the_images_of_trainer_and_server_share_the_torch_layer() -> None:
    heads = [(ROOT / room / "Dockerfile").read_text().split("# -- shared --")[0] for room in ("trainer", "serve")]
    first, second = ([line for line in head.splitlines() if not line.startswith("#")] for head in heads)
    assert first == second
    assert any("torch.txt" in line for line in first)


def pins(name: str) -> dict[str, str]:
    """The versions that a file of requirements/ pins, by package."""
    lines = [line for line in (ROOT / "requirements" / name).read_text().splitlines() if "==" in line]
    return {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}


def test_versions_are_pinned_in_one_place_for_each_environment() -> None:
    first, toolkits = pins("constraints.txt"), pins("sagemaker-constraints.txt")
    for path in (ROOT / "requirements").glob("*.txt"):
        if not path.stem.endswith("constraints"):
            lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-"))]
            names = toolkits if path.stem == "sagemaker" else first
            assert {line.partition(";")[0].lower() for line in lines} <= set(names)
    assert not {name for name in first.keys() & toolkits.keys() if first[name] == toolkits[name]}
    pinned = re.compile(r"[A-Za-z0-9_.-]+==\d")
    others = [*ROOT.glob("*/Dockerfile"), ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "docker-compose.yml"]
    assert not [path for path in others if pinned.search(path.read_text())]


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", text, re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z0-9]+):.*##", text, re.MULTILINE))
    assert targets >= {"help", "demo", "test", "e2e", "check", "proof", "bench", "up", "down"}
