"""What the promoter's door shows to Prometheus: the servers and their versions, and how many servers are wanted."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serve.routing.route_board import RouteBoard
from trainer.promotion.fleet.fleet import Fleet


class FleetMetrics(Collector):
    """Reads the last round of a fleet, and its board."""

    def __init__(self, fleet: Fleet, board: RouteBoard) -> None:
        self._fleet, self._board = fleet, board

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        serves = GaugeMetricFamily(
            "binwatch_server_serves", "1 where a server answers with a version, else 0", labels=["server", "version"]
        )
        for server, version in self._fleet.serves().items():
            serves.add_metric([server, version or ""], float(version is not None))
        yield serves
        routes = self._board.routes()
        champion = GaugeMetricFamily("binwatch_champion_info", "The version that gateways ask for", labels=["version"])
        if routes:
            champion.add_metric([routes.champion], 1.0)
        yield champion
        yield GaugeMetricFamily(
            "binwatch_servers_ready", "Servers that get requests", value=float(len(routes.servers) if routes else 0)
        )
        gateways = float(self._board.gateways(time.monotonic()))
        yield GaugeMetricFamily("binwatch_gateways", "Gateways that ask for the routes", value=gateways)
        decision = self._fleet.instance_decision
        if decision:
            yield GaugeMetricFamily(
                "binwatch_servers_wanted", "Servers that the load needs", value=float(decision.instances)
            )


def registry_of(fleet: Fleet, board: RouteBoard) -> CollectorRegistry:
    """A registry with the fleet's metrics alone."""
    registry = CollectorRegistry()
    registry.register(FleetMetrics(fleet, board))
    return registry
