"""The server side of a promotion with several TorchServe servers: a champion on all of them, or on none.

    lock     a round: look up the servers, see what each serves, and bring one that came back up to the version that
             was switched to last
    load     on all servers that answer; where one refuses a version that has not served yet, it goes from all
    switch   on all
    observe  the traffic and the golden photos of all servers together

A server that is down holds up nothing. It gets the champion before it gets requests: the routes that gateways follow
name only servers that answer with the champion.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import reduce
from pathlib import Path
from typing import TypeVar

from serve.errors import ArchiveError, BinwatchError, CanaryError, DataError, RefusedError, ServerError
from serve.rollout.instances import InstanceDecision, InstancePolicy, decide_instances
from serve.rollout.model_store import ModelStore
from serve.rollout.probation import Measurement, Observation
from serve.routing.route_board import RouteBoard
from trainer.promotion.fleet.instance import Instance, InstancePlan
from trainer.promotion.fleet.promoter_lock import PromoterLock
from trainer.promotion.fleet.server_addresses import ServerAddress
from trainer.promotion.notices import Notices
from trainer.promotion.patience import Patience

log = logging.getLogger(__name__)

T = TypeVar("T")

FOLLOW_S = 2.5
"""Time in which every gateway has asked for the routes: each does so every second."""


class Fleet:
    """Servers with one model store, which is the promoter's own. It is used within ``lock`` only."""

    def __init__(
        self,
        find: Callable[[], list[ServerAddress]],
        plan: InstancePlan,
        board: RouteBoard,
        shared_lock: PromoterLock | None = None,
        policy: InstancePolicy | None = None,
        follow_s: float = FOLLOW_S,
    ) -> None:
        """``find``: where the servers are now; ``shared_lock``: with promoters on other hosts."""
        self._find, self._plan, self._board, self._shared_lock = find, plan, board, shared_lock
        self._policy, self._follow_s = policy or InstancePolicy(), follow_s
        self._archives = ModelStore(plan.store)
        self._instances: dict[ServerAddress, Instance] = {}
        self._versions: dict[str, str | None] = {}
        self._loaded_now: set[str] = set()
        self._silent: set[str] = set()
        self._notices, self._patience = Notices(), Patience()
        self.instance_decision: InstanceDecision | None = None

    @property
    def archives(self) -> ModelStore:
        """The model store."""
        return self._archives

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One round, in which no other promoter changes anything. Raises LockHeldError, LockLostError, ServerError."""
        with ExitStack() as stack:
            if self._shared_lock:
                stack.enter_context(self._shared_lock.hold())
            stack.enter_context(self._archives.lock())
            self._survey()
            self._heal()
            self._publish()
            try:
                yield
            finally:
                self._publish()

    def serving(self) -> str | None:
        """The version that the servers answer with; None where they answer with none, or with several.

        Raises ServerError where no server answers.
        """
        if not self._reachable():
            raise ServerError(f"none of the servers answers: {', '.join(sorted(self._versions)) or 'none is known'}")
        return self._common()

    def store_archive(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        """Make sure that the archive of ``version`` is in the store, undamaged; else store what ``fetch`` returns."""
        self._archives.ensure(version, fetch, run_id)

    def load(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        """Load ``version`` on all servers that answer. Raises as ``Rollout.load`` does; then it is on none of them.

        A version that has served is left out on a server that refuses it.
        """
        self._check()
        replaces = self._archives.is_of_another_run(version, run_id)
        self._archives.ensure(version, fetch, run_id)
        ready, _ = self._on_all(lambda server: not replaces and server.rollout.has(version))
        newly = {name for name in self._reachable() if not ready.get(name)}
        for name in newly:
            self._versions[name] = None if self._versions.get(name) == version else self._versions.get(name)
        _, refusals = self._on_all(
            lambda server: server.rollout.load(version, lambda: self._archives.path(version), run_id, replaces)
        )
        self._loaded_now = newly
        self._all_or_none(version, refusals, any(ready.values()))

    def canary(self, version: str) -> None:
        """Ask all servers about the golden photos of ``version``. Raises CanaryError; then it is on none of them."""
        _, refusals = self._on_all(lambda server: server.rollout.canary(version))
        self._all_or_none(version, refusals, self._loaded_now != set(self._reachable()))
        self._check()  # the alias is moved next

    def switch(self, version: str) -> None:
        """Make a loaded version the one that answers, on all servers."""
        self._check()
        switched, refusals = self._on_all(lambda server: self._switch(server, version))
        for name, error in refusals.items():
            self._leave_out(name, error)
        self._versions.update(dict.fromkeys(switched, version))
        self.serving()
        self._publish()

    def observe(self, version: str) -> Observation:
        """Assess the version that answers by the traffic and the golden photos of all servers."""
        serving = self._reachable(version)
        measurements, _ = self._on_all(lambda server: server.rollout.measure(version), serving)
        if not measurements:
            raise ServerError(f"no server answers with version {version}; trying again")
        return reduce(Measurement.plus, measurements.values()).assessed(self._plan.probation)

    def retire_others(self, version: str, fallback: str | None) -> None:
        """Drain and unload all other versions; the archive of ``fallback`` stays in the store."""
        self._check()
        self._on_all(lambda server: server.rollout.unload_others(version), self._reachable(version))
        self._archives.delete_all_but(version, *filter(None, [fallback]))

    def discard(self, version: str) -> None:
        """Unload a version that does not answer, and delete its archive from the store."""
        self._check()
        self._on_all(lambda server: server.rollout.unload(version))
        self._archives.delete(version)

    def scale(self) -> None:
        """One step of each server's autoscaler; says how many servers are wanted when that changes."""
        self._check()
        serving = self._reachable(self._common())
        for server in serving.values():
            try:
                server.scale()
            except BinwatchError as error:
                self._notices.warn(f"scale {server.name}", f"the workers of {server.name} are not scaled: {error}")
            else:
                self._notices.clear(f"scale {server.name}")
        if self._plan.scaling:
            decision = decide_instances([one.decision for one in serving.values()], self._plan.scaling, self._policy)
            before, self.instance_decision = self.instance_decision, decision
            if before is None or (before.serving, before.instances) != (decision.serving, decision.instances):
                log.info("%s", decision)

    def serves(self) -> Mapping[str, str | None]:
        """The version that each server answered with in the last round; None for none, or where it was down."""
        return dict(self._versions)

    def _reachable(self, version: str | None = None) -> dict[str, Instance]:
        """The servers that have answered in this round, by name; with ``version`` only those that serve it."""
        servers = {server.name: server for server in self._instances.values() if server.reachable}
        if version is None:
            return servers
        return {name: server for name, server in servers.items() if self._versions.get(name) == version}

    def _common(self) -> str | None:
        """The version that was switched to last, if any server answers with it; else the one that all answer with."""
        versions = {self._versions.get(name) for name in self._reachable()} - {None}
        stored = self._archives.serving()
        if stored and stored.version in versions:
            return stored.version
        return versions.pop() if len(versions) == 1 else None

    def _survey(self) -> None:
        """Look up the servers, and ask each which version it serves."""
        addresses = self._find()
        self._instances = {
            address: self._instances.get(address) or Instance(address, self._plan, self._announce)
            for address in addresses
        }
        for server in self._instances.values():
            server.reachable = True
        versions, _ = self._on_all(Instance.serving)
        names = [server.name for server in self._instances.values()]
        self._versions = {name: versions.get(name) for name in names}
        for name in self._silent & versions.keys():
            log.info("server %s answers again", name)
        self._silent -= versions.keys()

    def _heal(self) -> None:
        """Bring servers that do not serve what the others do to the version that was switched to last."""
        stored = self._archives.serving()
        if stored is None or not self._reachable(stored.version):
            return  # none has it: the promoter knows what is to be done
        behind = {
            name: server for name, server in self._reachable().items() if name not in self._reachable(stored.version)
        }
        behind = {name: server for name, server in behind.items() if not self._patience.waits(name)}
        if not behind:
            return
        self._check()
        _, refusals = self._on_all(lambda server: self._bring(server, stored.version, stored.run_id), behind)
        for name in behind:
            if name not in refusals and name in self._reachable():
                self._patience.succeed(name)
                self._versions[name] = stored.version
                log.info("server %s got version %s, which serves", name, stored.version)
        for name, error in refusals.items():
            wait_s = self._patience.fail(name)
            text = f"server {name} gets no requests, because it cannot serve version {stored.version}: {error}"
            self._notices.warn(f"heal {name}", f"{text}; trying again in {wait_s:.0f} s, then less often")

    def _bring(self, server: Instance, version: str, run_id: str) -> None:
        def missing() -> Path:
            raise ArchiveError(f"the store lacks the archive of version {version}; the promoter fetches it")

        server.rollout.load(version, missing, run_id)
        server.rollout.canary(version)
        server.rollout.switch(version)

    def _switch(self, server: Instance, version: str) -> None:
        if self._versions.get(server.name) != version:
            server.rollout.switch(version)

    def _voters(self) -> set[str]:
        """The servers whose refusal of a version counts for all: those that serve, if any do."""
        common = self._common()
        return set(self._reachable(common) if common else self._reachable())

    def _all_or_none(self, version: str, refusals: Mapping[str, BinwatchError], is_proven: bool) -> None:
        """Let a refusal by one server count for all, unless it does not serve, or the version is proven on others."""
        if not self._reachable():
            self.serving()  # raises
        if not refusals:
            return
        stored = self._archives.serving()
        has_served = is_proven or (stored is not None and stored.version == version)
        is_minor = has_served or not refusals.keys() & self._voters()
        if is_minor and len(refusals) < len(self._reachable()):
            for name, error in refusals.items():
                self._leave_out(name, error)
            return
        newly = {name: server for name, server in self._reachable().items() if name in self._loaded_now}
        self._on_all(lambda server: server.rollout.unload(version), newly)
        raise CanaryError("; ".join(f"server {name}: {error}" for name, error in sorted(refusals.items())))

    def _on_all(
        self, step: Callable[[Instance], T], servers: Mapping[str, Instance] | None = None
    ) -> tuple[dict[str, T], dict[str, BinwatchError]]:
        """What ``step`` gives on each server at the same time, and the errors of those that refuse it.

        A server that does not answer is left out until the next round.
        """
        servers = self._reachable() if servers is None else servers
        results: dict[str, T] = {}
        refusals: dict[str, BinwatchError] = {}
        with ThreadPoolExecutor(max(1, len(servers))) as pool:
            futures = {name: pool.submit(step, server) for name, server in servers.items()}
        for name, future in futures.items():
            try:
                results[name] = future.result()
            except (CanaryError, RefusedError, ArchiveError, DataError) as error:
                refusals[name] = error
            except ServerError as error:
                self._leave_out(name, error)
        return results, refusals

    def _leave_out(self, name: str, error: BinwatchError) -> None:
        """A server gets no requests in this round; the log says it once."""
        for server in self._instances.values():
            if server.name == name:
                server.reachable = False
        self._versions[name] = None
        if name not in self._silent:  # the text of an error differs each time
            log.warning("server %s is left out, and gets the champion when it answers again: %s", name, error)
        self._silent.add(name)

    def _publish(self) -> None:
        version = self._common()
        if version:
            servers = [server.address.published for server in self._reachable(version).values()]
            self._board.publish(tuple(sorted(servers)), version)

    def _announce(self, published: str, version: str) -> None:
        """While a stand-in answers on a server, let gateways ask the others or, where there is none, the stand-in."""
        common = self._common() or version
        servers = sorted(server.address.published for server in self._reachable(common).values())
        others = tuple(address for address in servers if address != published)
        if version == common:
            self._board.publish(tuple(servers), common)
        else:
            self._board.publish(others or (published,), common if others else version)
        time.sleep(self._follow_s)

    def _check(self) -> None:
        """Raise LockLostError where another promoter may have begun to work."""
        if self._shared_lock:
            self._shared_lock.check()
