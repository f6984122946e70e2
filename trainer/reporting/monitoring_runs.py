"""Monitoring in MLflow: reads the reference of the champion, and logs the reports.

The experiment ``binwatch-monitoring`` has one run per day (UTC), ``monitoring 2026-11-24``. Each bucket is logged once,
after it has ended, to the run of its day, with its start as time and as step (minutes since midnight), so that MLflow
draws curves. Accuracy and drift of the whole window are logged with the time of the report, together with
``monitoring.json`` and the figures.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import groupby

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError
from trainer.artifacts import LOGGED_TO_TAG, MONITORING, REFERENCE
from trainer.promotion.notices import Notices
from trainer.promotion.trial_status import status_from_text
from trainer.registry.entities import CHAMPION, Version
from trainer.registry.mlflow_registry import Registry
from trainer.reporting.history import HistoryExporter
from trainer.reporting.monitoring_plots import FIGURES, Report

_OBJECT = TypeAdapter(dict[str, object])
EXPERIMENT = "binwatch-monitoring"
BUCKET_METRICS = (
    "requests",
    "errors",
    "confidence_mean",
    "confidence_p10",
    "latency_p50_ms",
    "latency_p99_ms",
    "feedback",
    "accuracy",
    "accuracy_estimated",
)
ACCURACIES = tuple(f"{name}{end}" for name in ("accuracy", "accuracy_estimated") for end in ("", "_low", "_high"))


class Journal:
    """The monitoring's connection to MLflow, opened when it is first needed.

    Every method raises TrackingError when the server does not answer.
    """

    def __init__(self, uri: str, history: HistoryExporter | None = None) -> None:
        """``history``: exported with each report."""
        self._uri, self._history = uri, history
        self._reference: tuple[Version, Mapping[str, object] | None] | None = None
        self._notices = Notices()
        self._logged_state: tuple[str, tuple[str, ...]] | None = None

    @cached_property
    def _models(self) -> Registry:
        return Registry(self._uri)

    @cached_property
    def _runs(self) -> Registry:
        return Registry(self._uri, EXPERIMENT)

    def reference(self) -> tuple[str, Mapping[str, object]] | None:
        """The champion's number, and the reference that its training run recorded; None where either is missing.

        A reference that cannot be used counts as missing, and is logged once.
        """
        champion = self._models.alias(CHAMPION)
        if champion is None:
            return None
        if self._reference is None or self._reference[0] != champion:
            try:
                text = self._models.read_text(champion.run_id, REFERENCE)
                self._reference = (champion, _parse_reference(text) if text is not None else None)
            except DataError as error:  # it may be restored
                self._notices.warn("reference", f"version {champion.number} has no reference for drift: {error}")
                return None
        shares = self._reference[1]
        return (champion.number, shares) if shares is not None else None

    def comparison(self) -> Mapping[str, object] | None:
        """What the promoter has stored of the newest version that was tried on live traffic; None where none was."""
        texts = (version.trial for version in self._models.versions() if status_from_text(version.trial))
        text = next(texts, None)
        return _OBJECT.validate_json(text) if text else None

    def log(self, report: Report) -> None:
        """Log a report if, since the last one, a bucket has ended or an alert has started or ended."""
        if self._history:
            self._history.write()
        end_s = _seconds(report["to"])
        ended = [bucket for bucket in report["buckets"] if _seconds(bucket["start"]) + report["bucket_s"] <= end_s]
        state = (ended[-1]["start"] if ended else "", tuple(alert["name"] for alert in report["alerts"]))
        if state == self._logged_state or not report["records"]:
            return
        for day, buckets in groupby(ended, lambda bucket: str(bucket["start"][:10])):
            self._log_day(day, list(buckets))
        self._log_report(report)
        self._logged_state = state

    def _log_day(self, day: str, buckets: Sequence[Report]) -> None:
        """Log the buckets of a day that are not logged yet."""
        match = self._runs.find_run(_run_name(day))
        run_id, tags = match or (None, {})
        new = [bucket for bucket in buckets if bucket["start"] > tags.get(LOGGED_TO_TAG, "")]
        if not new:
            return
        with self._runs.run(_run_name(day), resume_run_id=run_id) as run:
            for bucket in new:
                start_s = _seconds(bucket["start"])
                run.log_metrics(bucket_metrics(bucket), _minutes(start_s), start_s)
            run.set_tags({LOGGED_TO_TAG: new[-1]["start"]})

    def _log_report(self, report: Report) -> None:
        end_s, name = _seconds(report["to"]), _run_name(report["to"][:10])
        match = self._runs.find_run(name)
        with self._runs.run(name, resume_run_id=match[0] if match else None) as run:
            run.log_metrics(report_metrics(report), _minutes(end_s), end_s)
            run.set_tags({"alerts": ", ".join(alert["name"] for alert in report["alerts"]) or "none"})
            run.log_json(report, MONITORING)
            for figure_name, draw in FIGURES.items():
                run.log_picture(draw(report), f"{figure_name}.png")


def bucket_metrics(bucket: Report) -> dict[str, float]:
    """The metrics of one bucket of a report."""
    metrics = {name: float(bucket[name]) for name in BUCKET_METRICS if bucket[name] is not None}
    metrics |= {f"verdict_{name}": float(number) for name, number in bucket["verdicts"].items()}
    return metrics | {f"count_{_metric_name(name)}": float(number) for name, number in bucket["counts"].items()}


def report_metrics(report: Report) -> dict[str, float]:
    """The metrics of a report's whole window."""
    totals = report["totals"]
    metrics = {
        "window_requests": totals["requests"],
        "window_alerts": len(report["alerts"]),
        **{f"window_{name}": totals[name] for name in ACCURACIES},
        **{f"psi_{statistic['name']}": statistic["psi"] for statistic in report["drift"]},
        **_station_metrics(report["stations"]["listed"]),
        **(_recount_metrics(report["recounts"]) if report["recounts"] else {}),
    }
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _station_metrics(stations: Sequence[Report]) -> dict[str, float]:
    """How many stations there are and how many drifted; their names, which no metric can have, are in the artifact."""
    drifted = sum(any(index["alert"] for index in station["drift"]) for station in stations)
    return {"stations": len(stations), "stations_drifted": drifted} if stations else {}


def _recount_metrics(recounts: Report) -> dict[str, float | None]:
    """What random recounts say of the promise and of the accuracy."""
    shares = {"recount_accuracy": recounts["accuracy"], "recount_alarms_on_right": recounts["alarms_on_right"]}
    ends = {"": "share", "_low": "low", "_high": "high"}
    return {
        "recounts": recounts["accuracy"]["total"],
        "recount_promise_e_value": recounts["promise_e_value"],
        "recount_accuracy_e_value": recounts["accuracy_e_value"],
        **{f"{name}{end}": measured[key] for name, measured in shares.items() for end, key in ends.items()},
    }


def _parse_reference(text: str) -> Mapping[str, object]:
    try:
        return _OBJECT.validate_json(text)
    except ValidationError as error:
        raise DataError(f"its {REFERENCE} is no JSON object; export the model again") from error


def _run_name(day: str) -> str:
    return f"monitoring {day}"


def _metric_name(count: str) -> str:
    """The name of a count in a metric, where MLflow allows no plus sign."""
    return count.replace("+", "_and_above")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _minutes(at_s: float) -> int:
    """Minutes since midnight, UTC."""
    return int(at_s % 86_400 / 60)
