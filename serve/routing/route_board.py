"""What the promoter last told the gateways, and what they last told the promoter."""

from functools import reduce
from threading import Lock

from serve.routing.comparison import Comparison, Report
from serve.routing.route_table import Routes, Trial

HEARD_S = 10.0
"""A gateway that has reported within this time is there; each reports every second."""


class RouteBoard:
    """The routes, and the latest report of each gateway. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._routes: Routes | None = None
        self._trial: Trial | None = None
        self._reports: dict[str, tuple[Report, float]] = {}

    def publish(self, servers: tuple[str, ...], champion: str) -> None:
        """Let ``servers``, by their inference addresses, answer with ``champion``."""
        with self._lock:
            self._routes = Routes(servers=servers, champion=champion)

    def set_trial(self, trial: Trial | None) -> None:
        """Begin a trial, or end it with None. Reports about earlier trials are no longer counted."""
        with self._lock:
            self._trial = trial

    def routes(self) -> Routes | None:
        """What gateways are told; None while no champion is known."""
        with self._lock:
            if self._routes is None:
                return None
            return Routes(servers=self._routes.servers, champion=self._routes.champion, trial=self._trial)

    def receive(self, report: Report, now_s: float) -> None:
        """Keep a gateway's report. ``now_s``: of a monotonic clock."""
        with self._lock:
            self._reports = {
                name: (latest, heard_s)
                for name, (latest, heard_s) in self._reports.items()
                if now_s - heard_s <= HEARD_S or self._is_about(latest)
            }
            self._reports[report.gateway] = (report, now_s)

    def comparison(self, trial_id: str) -> Comparison:
        """The sum of what the gateways last reported about a trial, also of those that are gone."""
        with self._lock:
            comparisons = [report.comparison for report, _ in self._reports.values()]
        about = [comparison for comparison in comparisons if comparison and comparison.trial == trial_id]
        return reduce(Comparison.plus, about, Comparison(trial=trial_id))

    def gateways(self, now_s: float) -> int:
        """How many gateways have reported in the last 10 seconds before ``now_s``."""
        with self._lock:
            return sum(now_s - heard_s <= HEARD_S for _, heard_s in self._reports.values())

    def _is_about(self, report: Report) -> bool:
        """Whether a report counts for the trial that is under way."""
        return bool(report.comparison and self._trial and report.comparison.trial == self._trial.id)
