"""Odd files, names and photos, as programs meet them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve import photo
from tests.conftest import rounds
from trainer.data.counts import Counts
from trainer.data.layouts import read_source

ROOT = Path(__file__).parents[2]


def call(*words: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True, timeout=3600)


def test_no_photo_takes_more_memory_than_is_stated() -> None:
    """Two processes at once, as two workers: the worst photos, and drawn ones at the decoders' edges."""
    number = rounds(6, 1000)
    words = [[sys.executable, "-m", "tests.edge_photos", str(number), str(seed)] for seed in (1, 2)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for command in words]
    results = [json.loads(process.communicate(timeout=7200)[0]) for process in processes]
    print(results)
    for result in results:
        assert result["peak_mb"] < photo.MAX_MB
        assert result["counted"] + result["refused"] == number + 8
        assert result["counted"] >= 5


@pytest.mark.parametrize(
    "value", ["/a b", "/a  b\t", "/it's", '/"x"', "/a;echo hi", "/a|b", "/`id`", "/*", "/a\\b", "-x", "/é", "/#x"]
)
@pytest.mark.parametrize("target", ["demo", "bench"])
def test_make_passes_a_path_on_as_it_is(value: str, target: str) -> None:
    words = ["make", "-s", "-o", ".venv/.ready", "VENV=.venv", "PY=printf '[%s]'", target, f"DATA={value}"]
    process = call(*words)
    assert process.returncode == 0, process.stderr
    assert f"[--data][{value}]" in process.stdout


def test_a_clone_with_the_line_ends_of_windows_has_those_of_linux(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    names = (
        "mlflow/entrypoint",
        "Makefile",
        ".env.example",
        "docker-compose.yml",
        "serve/torchserve/config.properties",
    )
    for name in (".gitattributes", *names):
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, origin / name)
    (origin / "mlflow" / "entrypoint").write_bytes((ROOT / "mlflow/entrypoint").read_bytes().replace(b"\n", b"\r\n"))
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "core.safecrlf=false")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "x")):
        assert call(*git, *words, cwd=origin).returncode == 0
    assert call("git", "-c", "core.autocrlf=true", "clone", "-q", origin, clone).returncode == 0
    assert [name for name in names if b"\r" in (clone / name).read_bytes()] == []


def as_table(drawn: Path, folder: Path) -> Path:
    """The drawn photos as a spreadsheet of Windows would list them: UTF-16, tabs, backslashes, absolute paths."""
    lines = ["Path\tCount\tGroup"]
    for number, bin_photo in enumerate(read_source(drawn, Counts()).photos):
        name = f'{number} it\'s, "é".jpg' if number % 3 else f"{number}{'x' * 240}.jpg"
        (folder / "my photos").mkdir(parents=True, exist_ok=True)
        shutil.copy(bin_photo.path, folder / "my photos" / name)
        written = str(folder / "my photos" / name) if number % 2 else f"my photos\\{name}"
        cell = written.replace('"', '""')
        lines.append(f'"{cell}"\t{bin_photo.count}.0\t{bin_photo.bin}')
    table = folder / "my photos.csv"
    table.write_bytes("\r\n".join([*lines, "", ""]).encode("utf-16"))
    return table


def test_a_table_of_a_spreadsheet_is_prepared(drawn: Path, tmp_path: Path) -> None:
    table = as_table(drawn, tmp_path / "a b")
    words = (sys.executable, ROOT / "scripts/prepare_data.py", "--data", table.name, "--out", "out", "--json")
    first, second = (call(*words, cwd=table.parent) for _ in range(2))
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert sum(result["photos"].values()) == 300
    assert result["skipped"] == 0
    assert json.loads(second.stdout) == result


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"photos.csv", b"\xff\xfe\x00"),
        (b"photos.csv", b'path,count\n"x.jpg,1\n'),
        (b"\xff\xfe.csv", b"path,count\n"),
        (b"a\nb.csv", b"path,count\n"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: bytes, data: bytes) -> None:
    source = tmp_path / os.fsdecode(name)
    source.write_bytes(data)
    process = call(sys.executable, ROOT / "scripts/prepare_data.py", "--data", source, "--out", tmp_path / "out")
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
