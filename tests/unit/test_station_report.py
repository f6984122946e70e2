"""Statistics and drift by station, and where a record's station comes from."""

import json
from typing import Any

import pytest

from serve.monitoring.report import Report
from serve.monitoring.stations import MAX_STATIONS
from tests.unit.captured import answer, drawn, event, line, parsed, reference, report_on


def at_station(lines: list[bytes], name: str) -> list[bytes]:
    """``lines`` as if they were of a station, which stands in the record where the handler writes it."""
    records = [json.loads(text) for text in lines]
    for content in records:
        content["eventMetadata"]["binwatch"]["station"] = name
    return [json.dumps(content).encode() + b"\n" for content in records]


def listed(report: Report) -> dict[str, int]:
    return {station.name: station.totals.requests for station in report.stations.listed}


@pytest.mark.parametrize(
    ("more", "station"),
    [
        ({"station": "dock 3"}, "dock 3"),
        ({"attributes": "expected_quantity=3,station=Tor%207%2C%20links"}, "Tor 7, links"),
        ({"station": "dock 3", "attributes": "station=another"}, "dock 3"),
        ({"attributes": "a_station=7"}, ""),
        ({"attributes": "station=%0Aa"}, ""),
        ({}, ""),
    ],
)
def test_the_station_of_a_record_is_its_own_or_that_of_its_attributes(more: dict[str, Any], station: str) -> None:
    """Archives of before there were stations capture the attributes and nothing else."""
    (row,), unreadable = parsed([line(event(**more))])
    assert (row["station"].decode(), unreadable) == (station, 0)


def test_a_long_name_is_cut_between_two_letters() -> None:
    report = report_on([line(event(station="ä" * 40)), line(event(station="x" + "ä" * 40))])
    assert set(listed(report)) == {"ä" * 32, "x" + "ä" * 31}


def test_each_station_has_its_statistics_and_those_without_one_are_listed_too() -> None:
    lines = [line(event(number, station="a", answer=answer(verdict="match"))) for number in range(3)]
    lines += [line(event(station="b", event_id="counted")), line(event(station="b", status=400)), line(event())]
    report = report_on(lines, truths=[("counted", 3)])
    assert listed(report) == {"a": 3, "b": 2, "": 1}
    first, second, _ = report.stations.listed
    assert first.totals.verdicts["match"] == 3
    assert (second.totals.errors, second.totals.accuracy, second.totals.feedback) == (1, 1.0, 1)
    assert report.stations.other is None
    assert json.loads(json.dumps(report.to_json()))["stations"]["listed"][0]["name"] == "a"


def test_where_no_station_is_known_none_is_listed() -> None:
    report = report_on([line(event())])
    assert (report.stations.listed, report.stations.other) == ((), None)


def test_stations_beyond_the_limit_are_summarised_together() -> None:
    lines = [line(event(station=f"{number:03}")) for number in range(MAX_STATIONS + 7)]
    report = report_on([*lines, line(event(station="busy")), line(event(station="busy"))])
    assert len(report.stations.listed) == MAX_STATIONS
    assert report.stations.listed[0].name == "busy"
    assert report.stations.other is not None
    assert report.stations.other.requests == 8


def test_the_camera_of_one_station_that_slipped_raises_an_alert_with_its_name() -> None:
    lines = at_station(drawn(1), "dock 1") + at_station(drawn(2), "dock 2") + at_station(drawn(3), "dock 3")
    dark = at_station(drawn(4, brightness=0.5), "dock 7")
    assert report_on(lines, reference=reference()).alerts == ()
    alerts = report_on([*lines, *dark], reference=reference()).alerts
    (station,) = (alert for alert in alerts if alert.name.startswith("station"))
    assert station.name == "station dock 7"
    assert station.value > station.threshold
    assert "brightness" in station.message
    assert "'dock 7'" in station.message
    few = at_station(drawn(4, 150, brightness=0.5), "dock 7")
    assert not [alert for alert in report_on([*lines, *few], reference=reference()).alerts if "dock" in alert.name]
