"""Helpers of the tests of several servers: real TorchServes with model stores of their own, and a promoter's door."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from serve.local.servers import free_port, torchserve_server
from serve.rollout.torchserve_client import Management
from serve.routing.route_board import RouteBoard
from trainer.promotion.fleet.door import Door, opened
from trainer.promotion.fleet.fleet import Fleet
from trainer.promotion.fleet.fleet_metrics import registry_of
from trainer.promotion.fleet.instance import InstancePlan
from trainer.promotion.fleet.promoter_lock import PromoterLock
from trainer.promotion.fleet.server_addresses import find_servers, parse_servers

HOST, NETWORK = "127.0.0.1", "127.0.0.1/32"
DEADLINE_S, POLL_S = 120.0, 0.1


def free_ports() -> int:
    """The first of three TCP ports in a row that are free at the moment."""
    while True:
        first = free_port()
        try:
            for port in (first + 1, first + 2):
                with socket.socket() as probe:
                    probe.bind((HOST, port))
        except (OSError, OverflowError):
            continue
        return first


@dataclass
class Host:
    """A TorchServe that can be stopped and started, at ``port`` and the next two; archives come from the promoter."""

    state: Path
    promoter_url: str
    port: int = field(default_factory=free_ports)
    _running: AbstractContextManager[object] | None = None

    @property
    def inference(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def management(self) -> Management:
        return Management(f"http://{HOST}:{self.port + 1}")

    def loaded(self) -> dict[str, bool]:
        """The loaded versions, and whether they are the default."""
        return {version.version: version.default for version in self.management.loaded()}

    def archives(self) -> set[str]:
        """The archives that it has fetched."""
        return {path.name for path in (self.state / "models").glob("*.mar")}

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._running:
            return
        environ = {"BINWATCH_MANAGEMENT_NETWORK": NETWORK, "BINWATCH_PROMOTER_URL": self.promoter_url}
        self.state.mkdir(exist_ok=True)
        self._running = torchserve_server(self.state, self.port, environ)
        self._running.__enter__()

    def stop(self) -> None:
        if self._running:
            self._running.__exit__(None, None, None)
        self._running = None


@contextmanager
def hosts(folder: Path, number: int, promoter_url: str) -> Iterator[list[Host]]:
    """As many TorchServes, without a model."""
    servers = [Host(folder / f"server-{index}", promoter_url) for index in range(number)]
    try:
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(Host.start, servers))
        yield servers
    finally:
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(Host.stop, servers))


@dataclass(frozen=True, kw_only=True)
class Fleeted:
    """Servers, the promoter's view of them, and its door. ``store``: the promoter's model store."""

    hosts: list[Host]
    store: Path
    board: RouteBoard
    url: str

    def fleet(self, shared_lock: PromoterLock | None = None) -> Fleet:
        """The servers as a promoter that has just started sees them."""
        names = parse_servers(",".join(f"{HOST}:{host.port}" for host in self.hosts))
        find = partial(find_servers, names, lambda name: [name], lambda ip: [])
        plan = InstancePlan(store=self.store, workers=1, archives_url=f"{self.url}/archives/")
        return Fleet(find, plan, self.board, shared_lock)

    def routed(self) -> tuple[set[str], str]:
        """The servers and the version that gateways are told."""
        routes = self.board.routes()
        assert routes
        return set(routes.servers), routes.champion


@contextmanager
def fleeted(folder: Path, number: int) -> Iterator[Fleeted]:
    """As many servers, and a door that gives them archives."""
    store, board, port = folder / "store", RouteBoard(), free_port()
    store.mkdir()
    url = f"http://{HOST}:{port}"
    with hosts(folder, number, url) as servers:
        view = Fleeted(hosts=servers, store=store, board=board, url=url)
        with opened(Door(board, store, registry_of(view.fleet(), board)), HOST, port):
            yield view


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fails after a deadline. An error of a server that starts counts as not yet."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(POLL_S)
    raise AssertionError(f"after {DEADLINE_S:.0f} s: not {what}; processes: {os.getloadavg()}")
