"""The gateway and its script as processes, and what their image holds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from serve.gateway.keys import Keys

ROOT = Path(__file__).parents[2]


def run_script(path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "BINWATCH_API_KEYS": str(path)}
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "api_key.py", *words], env=env, capture_output=True, text=True
    )


def test_the_script_adds_lists_and_removes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    added = run_script(path, "add", "dock-3")
    assert Keys(path).name_of(added.stdout.strip()) == "dock-3"
    listed = run_script(path, "list").stdout
    assert "dock-3" in listed
    assert added.stdout.strip() not in listed
    assert run_script(path, "add", "anna", "--may", "recount").returncode == 0
    rights = {line.split()[2]: line.split()[3:] for line in run_script(path, "list").stdout.splitlines()}
    assert rights == {"dock-3": [], "anna": ["may", "recount"]}
    assert run_script(path, "add", "ben", "--may", "rule").returncode == 2
    for name in ("dock-3", "anna"):
        assert run_script(path, "remove", name).returncode == 0
    assert json.loads(path.read_text()) == {"keys": []}
    repeated = run_script(path, "remove", "dock-3")
    assert repeated.returncode == 1
    assert re.match("error: .*'dock-3'", repeated.stderr)
    assert run_script(path).returncode == 2


def test_the_process_refuses_to_start_and_says_what_to_do() -> None:
    env = {**os.environ, "BINWATCH_GATEWAY_BIND": "0.0.0.0"}
    command = [sys.executable, "-m", "serve.gateway"]
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert process.stderr.startswith("error: the gateway is reached at 0.0.0.0, which is not loopback")
    assert "Traceback" not in process.stderr


def test_the_image_holds_all_that_the_gateway_imports(tmp_path: Path) -> None:
    for line in (ROOT / "serve/gateway/Dockerfile").read_text().splitlines():
        if line.startswith(("COPY serve", "COPY scripts")):
            *sources, target = line.split()[1:]
            for source in sources:
                place = tmp_path / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, place)
    code = "import serve.gateway.__main__, runpy; runpy.run_path('scripts/api_key.py', run_name='imported')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True
    )
