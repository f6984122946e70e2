import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.errors import SettingsError
from serve.gateway import keys
from serve.gateway.settings import from_env, is_loopback


def test_without_settings_it_is_on_loopback_without_keys() -> None:
    made = from_env({})
    assert (made.listen, made.bind, made.port) == ("127.0.0.1", "127.0.0.1", 8000)
    assert not made.needs_keys


def test_all_problems_are_named_at_once() -> None:
    wrong = {
        "BINWATCH_GATEWAY_PORT": "0",
        "BINWATCH_TIMEOUT_S": "soon",
        "BINWATCH_RATE": "-1",
        "BINWATCH_IN_FLIGHT": "nan",
        "BINWATCH_INFERENCE_URL": "serve:8080",
        "BINWATCH_GATEWAY_BIND": "0.0.0.0",
    }
    with pytest.raises(SettingsError) as caught:
        from_env(wrong)
    for name, value in wrong.items():
        assert name in str(caught.value) or f" {value}," in str(caught.value), name
    assert "give a whole number from 1 to 65535" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.example.com", False),
        ("gateway", False),
        ("127.0.0.1.example.com", False),
        ("", False),
        ("2130706433", False),
    ],
)
def test_only_this_machine_reaches_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    "environ",
    [
        {"BINWATCH_GATEWAY_BIND": "0.0.0.0"},
        {"BINWATCH_GATEWAY_BIND": "192.168.1.5"},
        {"BINWATCH_GATEWAY_LISTEN": "0.0.0.0"},  # a container that nobody told where it is published
        {"BINWATCH_GATEWAY_LISTEN": "0.0.0.0", "BINWATCH_GATEWAY_BIND": "10.0.0.1"},
        {"BINWATCH_GATEWAY_LISTEN": "0.0.0.0", "BINWATCH_GATEWAY_BIND": " "},
    ],
)
def test_any_other_bind_needs_a_file_with_keys(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(SettingsError, match=r"which is not loopback, and BINWATCH_API_KEYS names no file"):
        from_env(environ)
    named = {**environ, "BINWATCH_API_KEYS": str(path)}
    with pytest.raises(SettingsError, match=r"holds no API key; make one with `python scripts/api_key.py add NAME`"):
        from_env(named)
    keys.add(path, "a")
    assert from_env(named).needs_keys


def test_a_container_whose_port_is_published_on_loopback_needs_none() -> None:
    made = from_env({"BINWATCH_GATEWAY_LISTEN": "0.0.0.0", "BINWATCH_GATEWAY_BIND": "127.0.0.1"})
    assert (made.listen, made.needs_keys) == ("0.0.0.0", False)


def test_the_process_refuses_to_start_and_says_what_to_do() -> None:
    env = {**os.environ, "BINWATCH_GATEWAY_BIND": "0.0.0.0"}
    done = subprocess.run([sys.executable, "-m", "serve.gateway"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the gateway is reached at 0.0.0.0, which is not loopback")
    assert "Traceback" not in done.stderr
