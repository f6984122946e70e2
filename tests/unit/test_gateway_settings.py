from pathlib import Path

import pytest

from serve.errors import SettingsError
from serve.gateway import keys
from serve.gateway.settings import LOOPBACK, GatewaySettings, is_loopback
from serve.settings import read


def test_without_settings_it_is_on_loopback_without_keys() -> None:
    settings = read(GatewaySettings, {})
    assert (settings.listen, settings.bind, settings.port) == ("127.0.0.1", "127.0.0.1", 8000)
    assert settings.hosts == LOOPBACK
    assert not settings.needs_keys


def test_it_answers_to_its_address_and_to_the_names_that_are_listed() -> None:
    settings = GatewaySettings(extra_hosts="Bins.example.com, , other.example.com", bind="127.0.0.2")
    assert settings.hosts == LOOPBACK | {"bins.example.com", "other.example.com", "127.0.0.2"}
    assert settings.listen == "127.0.0.2"


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
        read(GatewaySettings, wrong)
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
        read(GatewaySettings, environ)
    with_file = {**environ, "BINWATCH_API_KEYS": str(path)}
    with pytest.raises(SettingsError, match=r"holds no API key; add one with `python scripts/api_key.py add NAME`"):
        read(GatewaySettings, with_file)
    keys.add(path, "a")
    assert read(GatewaySettings, with_file).needs_keys


def test_a_container_whose_port_is_published_on_loopback_needs_none() -> None:
    environ = {"BINWATCH_GATEWAY_LISTEN": "0.0.0.0", "BINWATCH_GATEWAY_BIND": "127.0.0.1"}
    settings = read(GatewaySettings, environ)
    assert (settings.listen, settings.needs_keys) == ("0.0.0.0", False)
