"""What the gateway tells Prometheus, and what rules and dashboard ask for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serve.local.servers import gateway_server
from serve.observe.start_alertmanager import with_webhook
from tests.integration.upstream import upstream_server
from tests.unit.captured import NOW, answer, event, line, reference, report_on

OBSERVE = Path(__file__).parents[2] / "serve" / "observe"
RULES = [
    rule for group in yaml.safe_load((OBSERVE / "alert_rules.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((OBSERVE / "dashboard.json").read_text())
HISTORY = {
    "served": [
        {"version": "3", "from": "2026-11-24T11:00:00Z", "to": None, "did": "promoted", "accuracy": 0.6},
        {"version": "2", "from": "2026-11-24T09:00:00Z", "to": "2026-11-24T11:00:00Z", "did": "promoted"},
    ],
    "executions": [
        {"id": "b", "started": "2026-11-24T10:50:00Z", "seconds": 98.4, "status": "failed", "decision": "", "steps": []}
    ],
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def write_monitoring(folder: Path) -> None:
    """A report on 300 answers, some of which are alarms and three of which failed, and the history."""
    folder.mkdir(exist_ok=True)
    verdicts = ["mismatch"] * 60 + ["match"] * 240
    events = [event(n / 10, answer=answer(verdict=verdict)) for n, verdict in enumerate(verdicts)]
    lines = [line(captured) for captured in [*events, *(event(status=500, answer={"code": 500}) for _ in range(3))]]
    report = report_on(lines, [(events[0].event_id, 3), (events[1].event_id, 2)], reference())
    (folder / "monitoring.json").write_text(json.dumps(report.to_json()))
    (folder / "history.json").write_text(json.dumps(HISTORY))


def scrape(url: str) -> tuple[Samples, set[str]]:
    """The samples of a gateway, and the names of all its metrics, also of those without a sample yet."""
    families = list(text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=30).text))
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return samples, {f"{family.name}{suffix}" for family in families for suffix in suffixes.get(family.type, [""])}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("gateway")
    environ = {"BINWATCH_MONITORING": str(folder / "monitoring"), "BINWATCH_RATE": "0"}
    with upstream_server() as upstream, gateway_server(folder, upstream.url, environ=environ) as url:
        yield url, folder / "monitoring"


def test_the_report_and_the_history_are_metrics(gateway: tuple[str, Path]) -> None:
    url, folder = gateway
    write_monitoring(folder)
    samples, _ = scrape(url)

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    assert value("binwatch_monitoring_timestamp_seconds") == NOW.timestamp()
    assert value("binwatch_monitoring_requests") == 303
    assert value("binwatch_monitoring_errors") == 3
    assert value("binwatch_alarm_ratio") == pytest.approx(0.2)
    assert value("binwatch_accuracy_ratio") == 0.5
    assert value("binwatch_confidence_mean_ratio") == pytest.approx(0.7)
    assert value("binwatch_monitoring_verdicts", verdict="mismatch") == 60
    assert value("binwatch_monitoring_answers", version="1") == 303
    assert {dict(labels)["statistic"] for name, labels in samples if name == "binwatch_drift_psi"} == {
        *("counts", "confidence", "brightness", "sharpness")
    }
    assert any(name == "binwatch_monitoring_alert" for name, _ in samples)
    assert value("binwatch_champion_info", version="3") == 1
    assert value("binwatch_execution_last_failed") == 1
    assert value("binwatch_execution_last_duration_seconds") == 98.4


@pytest.mark.parametrize("content", ["", "{", "[3]", '{"made_at": "yesterday"}', '{"served": 3, "made_at": null}'])
def test_a_file_that_cannot_be_read_is_told_and_the_rest_goes_on(gateway: tuple[str, Path], content: str) -> None:
    url, folder = gateway
    write_monitoring(folder)
    for name in ("monitoring.json", "history.json"):
        (folder / name).write_text(content)
    samples, _ = scrape(url)
    readable = {dict(labels)["file"]: value for (name, labels), value in samples.items() if name.endswith("_readable")}
    assert readable == {"monitoring.json": 0, "history.json": 0}
    assert ("binwatch_gateway_in_flight", frozenset()) in samples


def expressions() -> list[str]:
    """What the alerts and the dashboard ask Prometheus for."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in RULES), *panels]


def test_rules_and_dashboard_ask_for_metrics_that_there_are(gateway: tuple[str, Path]) -> None:
    url, folder = gateway
    write_monitoring(folder)
    assert requests.post(f"{url}/verify?expected_quantity=1", data=b"x", timeout=30).ok
    _, names = scrape(url)
    asked = {name for text in expressions() for name in re.findall(r"\bbinwatch_\w+", text)}
    assert len(asked) > 15
    assert asked - names == set()


def test_every_alert_says_what_to_do_and_where_to_read_on() -> None:
    text = (OBSERVE.parents[1] / "docs" / "operations.md").read_text()
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "do", "runbook"} == rule["annotations"].keys()
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, anchor in anchors) == ("docs/operations.md", True), rule["alert"]


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert [variable["type"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    cells = set[tuple[int, int]]()
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in squares) < 24
        assert not squares & cells, panel["title"]
        cells |= squares


def test_the_webhook_is_entered_as_it_is() -> None:
    text = (OBSERVE / "alertmanager.yml").read_text()
    assert with_webhook(text, "") == text
    address = 'https://hooks.example.com/a?b={c}&d="#'
    (receiver,) = yaml.safe_load(with_webhook(text, address))["receivers"]
    assert receiver["webhook_configs"] == [{"url": address, "send_resolved": True}]
