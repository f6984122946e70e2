"""What can be set of the gateway, all from the environment; .env.example explains it for the containers.

BINWATCH_GATEWAY_BIND   address that it is reached at, 127.0.0.1; any but loopback needs API keys
BINWATCH_GATEWAY_LISTEN address that the process listens on where that is another one: 0.0.0.0 in a container
                        whose port is published on BINWATCH_GATEWAY_BIND. Set alone, it counts as both
BINWATCH_GATEWAY_PORT   8000
BINWATCH_GATEWAY_HOSTS  further names that it may be called by, with commas; loopback and addresses always may
BINWATCH_INFERENCE_URL  TorchServe's inference API, http://127.0.0.1:8080
BINWATCH_API_KEYS       file with the hashes of the keys, made by scripts/api_key.py
BINWATCH_CAPTURE        folder of the data capture; feedback goes to ground-truth/ in it
BINWATCH_MONITORING     folder of monitoring.json and history.json
BINWATCH_TIMEOUT_S      of one answer and of one request's body, 30
BINWATCH_IN_FLIGHT      requests at the same time, 64; more get 503
BINWATCH_RATE           requests a second and client, 100; more get 429; 0: no limit
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serve.environment import Numbers
from serve.gateway.keys import Keys

MAX_BODY = 6_500_000
"""Bytes of a request's body; TorchServe's own limit is 6,553,500."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings:
    """See the module. ``needs_keys``: whether it is reached from other machines."""

    listen: str = "127.0.0.1"
    port: int = 8000
    bind: str = "127.0.0.1"
    hosts: frozenset[str] = LOOPBACK
    inference_url: str = "http://127.0.0.1:8080"
    keys: Path | None = None
    capture: str = ""
    monitoring: Path | None = None
    timeout_s: float = 30.0
    in_flight: int = 64
    rate: float = 100.0
    max_body: int = MAX_BODY

    @property
    def needs_keys(self) -> bool:
        """Whether other machines reach it."""
        return not is_loopback(self.bind)


def from_env(environ: Mapping[str, str]) -> Settings:
    """The settings of the environment. Raises SettingsError with all problems at once."""
    read = Numbers(environ)
    get = {key: value.strip() for key, value in environ.items() if value.strip()}.get
    listen = get("BINWATCH_GATEWAY_LISTEN") or get("BINWATCH_GATEWAY_BIND") or "127.0.0.1"
    bind = get("BINWATCH_GATEWAY_BIND") or listen
    names = {name.strip().lower() for name in (get("BINWATCH_GATEWAY_HOSTS") or "").split(",")}
    url = (get("BINWATCH_INFERENCE_URL") or "http://127.0.0.1:8080").rstrip("/")
    if not url.startswith(("http://", "https://")):
        read.problems.append(f"BINWATCH_INFERENCE_URL is {url!r}; give TorchServe's address, as http://127.0.0.1:8080")
    made = Settings(
        listen=listen,
        port=read("BINWATCH_GATEWAY_PORT", 8000, 1, 65535),
        bind=bind,
        hosts=LOOPBACK | (names - {""}) | {bind.lower()},
        inference_url=url,
        keys=_path(get("BINWATCH_API_KEYS")),
        capture=get("BINWATCH_CAPTURE") or "",
        monitoring=_path(get("BINWATCH_MONITORING")),
        timeout_s=read("BINWATCH_TIMEOUT_S", 30.0, 0.1, 3600),
        in_flight=read("BINWATCH_IN_FLIGHT", 64, 1, 10_000),
        rate=read("BINWATCH_RATE", 100.0, 0, 1e6),
    )
    if made.needs_keys and (problem := _keyless(made)):
        read.problems.append(problem)
    read.check()
    return made


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches ``address``. A name other than localhost may be anything: no."""
    if address.lower() == "localhost":
        return True
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _keyless(settings: Settings) -> str | None:
    """Why a gateway that other machines reach must not start, if it must not."""
    todo = "make one with `python scripts/api_key.py add NAME`, or bind 127.0.0.1"
    if settings.keys is None:
        return (
            f"the gateway is reached at {settings.bind}, which is not loopback, and BINWATCH_API_KEYS names no "
            f"file of API keys; name one, and {todo}"
        )
    if not Keys(settings.keys).names():
        return (
            f"the gateway is reached at {settings.bind}, which is not loopback, and {settings.keys} holds no "
            f"API key; {todo}"
        )
    return None


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
