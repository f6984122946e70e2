"""Where the servers are: the names of BINWATCH_SERVERS, looked up in each round, because servers come and go."""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from serve.errors import ServerError

INFERENCE_PORT = 8080
ARCHIVES_PATH = "/archives/"
"""Where the promoter's door has the archives."""
TASK = re.compile(r"(?P<task>\S+\.\w+\.[a-z0-9]{25})\.[^.]+")
"""The name that Docker Swarm gives to the address of a task: service, slot, the task's id, and the network."""
Lookup: TypeAlias = Callable[[str], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """A server as the promoter reaches it. ``published``: its inference address as gateways reach it."""

    inference: str
    management: str
    metrics: str
    published: str


def parse_servers(text: str) -> tuple[tuple[str, int], ...]:
    """Names and inference ports, from ``serve,other:8090``. Raises ValueError."""
    return tuple(_parse_server(part.strip()) for part in text.split(",") if part.strip())


def _parse_server(text: str) -> tuple[str, int]:
    name, _, port = text.partition(":")
    if (
        not re.fullmatch(r"[\w.-]+", name)
        or not re.fullmatch(r"\d{0,5}", port)
        or int(port or 1) not in range(1, 65534)
    ):
        raise ValueError("give names of hosts, each with a port if it is not 8080, separated by commas")
    return name, int(port or INFERENCE_PORT)


def find_servers(names: Sequence[tuple[str, int]], lookup: Lookup, reverse: Lookup) -> list[ServerAddress]:
    """All addresses of all names. Raises ServerError where there is none."""
    addresses = sorted({(ip, port) for name, port in names for ip in lookup(name)})
    if not addresses:
        raise ServerError(f"no host has the name {' or '.join(name for name, _ in names)}; is BINWATCH_SERVERS right?")
    return [_server_at(ip, port, reverse) for ip, port in addresses]


def _server_at(ip: str, port: int, reverse: Lookup) -> ServerAddress:
    """The server at an inference port, with the next two for management and metrics, as is TorchServe's default.

    A task of Docker Swarm has an address in each of its networks, and one name in all of them: gateways, which do not
    share the promoter's network, get the name.
    """
    tasks = [match["task"] for name in reverse(ip) if (match := TASK.fullmatch(name))]
    return ServerAddress(
        inference=f"http://{ip}:{port}",
        management=f"http://{ip}:{port + 1}",
        metrics=f"http://{ip}:{port + 2}",
        published=f"http://{tasks[0] if tasks else ip}:{port}",
    )


def look_up(name: str) -> Sequence[str]:
    """The IPv4 addresses that a name has now; none where it has none."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)]
    except OSError:
        return []


def look_up_names(ip: str) -> Sequence[str]:
    """The names that an address has; none where it has none."""
    try:
        name, aliases, _ = socket.gethostbyaddr(ip)
    except OSError:
        return []
    return [name, *aliases]
