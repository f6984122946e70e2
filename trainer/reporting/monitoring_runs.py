"""Monitoring in MLflow: what a report is compared with comes from there, and its curves go there.

The experiment ``binwatch-monitoring`` has one run a day (UTC), ``monitoring 2026-11-24``. Each bucket is logged once,
when it is over, to the run of its day, at the step and time of its start (step: minutes since midnight), so that
MLflow draws curves. What is known of the whole window at a look, accuracy and drift, is logged at the time of the
look, with ``monitoring.json`` and the pictures.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Any

from serve.errors import DataError
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import TrackedRun
from trainer.registry.versions import CHAMPION
from trainer.reporting import monitoring_plots
from trainer.reporting.history import Chronicle

EXPERIMENT = "binwatch-monitoring"
REFERENCE = "reference.json"
LOGGED_TO = "binwatch.logged_to"
NUMBERS = (
    "requests",
    "errors",
    "confidence_mean",
    "confidence_p10",
    "latency_p50_ms",
    "latency_p99_ms",
    "feedback",
    "accuracy",
)


class Journal:
    """The monitoring's side of an MLflow server, connected when it is first needed.

    All of it raises TrackingError when the server does not answer.
    """

    def __init__(self, uri: str, chronicle: Chronicle | None = None) -> None:
        """``chronicle``: what writes the history at each look."""
        self._uri, self._chronicle = uri, chronicle
        self._reference: tuple[str, Mapping[str, Any] | None] = ("", None)
        self._seen: tuple[Any, ...] = ()

    @cached_property
    def _models(self) -> Registry:
        return Registry(self._uri)

    @cached_property
    def _runs(self) -> Registry:
        return Registry(self._uri, EXPERIMENT)

    def reference(self) -> tuple[str, Mapping[str, Any]] | None:
        """The version that serves, and the reference that its run recorded; None where either is missing."""
        champion = self._models.alias(CHAMPION)
        if champion is None:
            return None
        if self._reference[0] != champion.number:
            text = self._models.read_text(champion.run_id, REFERENCE)
            self._reference = (champion.number, _parsed(text, champion.number) if text else None)
        number, shares = self._reference
        return (number, shares) if shares is not None else None

    def log(self, report: Mapping[str, Any]) -> None:
        """Log a report, ``monitoring.json`` as it was written, if a bucket is over or an alert came or went."""
        if self._chronicle:
            self._chronicle.write()
        over = [each for each in report["buckets"] if _seconds(each) + report["bucket_s"] <= _time(report["to"])]
        seen = (over[-1]["start"] if over else "", tuple(alert["name"] for alert in report["alerts"]))
        if seen == self._seen or not report["records"]:
            return
        for day, buckets in groupby(over, lambda each: str(each["start"][:10])):
            self._log_day(day, list(buckets))
        self._log_look(report)
        self._seen = seen

    def _log_day(self, day: str, buckets: list[Mapping[str, Any]]) -> None:
        found = self._runs.find_run(_name(day))
        done = found[1].get(LOGGED_TO, "") if found else ""
        new = [each for each in buckets if each["start"] > done]
        if not new:
            return
        with self._runs.run(_name(day), resume_run_id=found[0] if found else None) as run:
            for each in new:
                start_s = _seconds(each)
                run.log_metrics(bucket_metrics(each), int(start_s % 86_400 / 60), start_s)
            run.set_tags({LOGGED_TO: new[-1]["start"]})

    def _log_look(self, report: Mapping[str, Any]) -> None:
        at_s = _time(report["to"])
        found = self._runs.find_run(_name(report["to"][:10]))
        with self._runs.run(_name(report["to"][:10]), resume_run_id=found[0] if found else None) as run:
            run.log_metrics(look_metrics(report), int(at_s % 86_400 / 60), at_s)
            run.set_tags({"alerts": ", ".join(alert["name"] for alert in report["alerts"]) or "none"})
            run.log_json(report, "monitoring.json")
            _log_pictures(run, report)


def bucket_metrics(bucket: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow draws of one bucket."""
    made = {name: float(bucket[name]) for name in NUMBERS if bucket[name] is not None}
    made |= {f"verdict_{name}": float(number) for name, number in bucket["verdicts"].items()}
    return made | {f"count_{_word(name)}": float(number) for name, number in bucket["counts"].items()}


def look_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow draws of one look at the whole window."""
    totals = report["totals"]
    made = {"window_requests": float(totals["requests"]), "window_alerts": float(len(report["alerts"]))}
    known = {f"window_{name}": totals[name] for name in ("accuracy", "accuracy_low", "accuracy_high")}
    known |= {f"psi_{each['name']}": each["psi"] for each in report["drift"]}
    return made | {name: float(value) for name, value in known.items() if value is not None}


def _log_pictures(run: TrackedRun, report: Mapping[str, Any]) -> None:
    for name, draw in monitoring_plots.PICTURES.items():
        run.log_picture(draw(report), f"{name}.png")


def _parsed(text: str, version: str) -> Mapping[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise DataError(f"{REFERENCE} of version {version} is damaged: {error}; export the model again") from error


def _name(day: str) -> str:
    return f"monitoring {day}"


def _word(name: str) -> str:
    """A name that MLflow takes for a metric: it knows no plus sign."""
    return name.replace("+", "_and_above")


def _seconds(bucket: Mapping[str, Any]) -> float:
    return _time(bucket["start"])


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
