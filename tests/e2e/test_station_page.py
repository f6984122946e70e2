"""Stations, the promise and the estimated accuracy on the page's monitoring tab, in a real Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from serve.local.servers import free_port, gateway_server
from tests.e2e.conftest import text_with
from tests.e2e.test_page import PHONE, axe_violations, by_id, monitoring_report, open_page, overflow_px, wait

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stations")


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """A gateway without TorchServe, which the report does not need."""
    unused = f"http://127.0.0.1:{free_port()}"
    with gateway_server(home, unused, environ={"BINWATCH_MONITORING": str(home)}) as address:
        yield address


def estimated(bucket: dict[str, Any]) -> dict[str, Any]:
    shares = {"accuracy_estimated": 0.62, "accuracy_estimated_low": 0.57, "accuracy_estimated_high": 0.67}
    return {**bucket, **shares}


def report_with_stations() -> dict[str, Any]:
    """The report of a day in which the camera of dock 7 slipped and too many right records raised the alarm."""
    report = monitoring_report()
    totals = estimated(report["totals"])
    drift = [{"name": "brightness", "psi": 0.61, "threshold": 0.2, "alert": True}]
    listed = [
        {"name": "dock 7", "totals": {**totals, "requests": 2300}, "drift": drift},
        {"name": "<b>dock</b>", "totals": {**totals, "requests": 1300, "feedback": 0}, "drift": []},
        {"name": "", "totals": {**totals, "requests": 700}, "drift": []},
    ]
    recounts = {
        "version": "3",
        "alpha": 0.05,
        "alarms_on_right": {"share": 0.11, "low": 0.08, "high": 0.15, "total": 310},
        "promise_e_value": 2310.0,
        "accuracy": {"share": 0.6, "low": 0.55, "high": 0.65, "total": 340},
        "accuracy_estimated": 0.62,
        "accuracy_compared": 340,
        "accuracy_e_value": 0.4,
        "threshold": 100.0,
    }
    buckets = [estimated(bucket) for bucket in report["buckets"]]
    stations = {"listed": listed, "other": {**totals, "requests": 300}}
    return {**report, "buckets": buckets, "totals": totals, "stations": stations, "recounts": recounts}


def test_the_tab_shows_stations_the_promise_and_the_estimated_accuracy(
    browser: WebDriver, url: str, home: Path
) -> None:
    (home / "monitoring.json").write_text(json.dumps(report_with_stations()))
    open_page(browser, f"{url}/#monitoring")
    text_with(browser, "Estimated accuracy", "62 %", "57 % to 67 %", "Is the promise kept?", "Stations")
    rows = browser.find_elements(By.CSS_SELECTOR, "[aria-labelledby=stations-title] tbody tr")
    assert [row.text.split(" ")[0] for row in rows] == ["dock", "<b>dock</b>", "(none", "(all"]
    assert "brightness of the photos" in rows[0].text
    promise = browser.find_elements(By.CSS_SELECTOR, "[aria-labelledby=promise-state-title] tbody tr")
    assert "11.0 % of 310 (8.0 % to 15.0 %)" in promise[0].text
    assert "broken" in promise[0].text
    assert "they agree" in promise[1].text
    assert axe_violations(browser) == []


def test_it_fits_a_phone(browser: WebDriver, url: str, home: Path) -> None:
    (home / "monitoring.json").write_text(json.dumps(report_with_stations()))
    open_page(browser, f"{url}/#monitoring", PHONE)
    text_with(browser, "Stations")
    assert overflow_px(browser) == 0
    assert axe_violations(browser) == []


def test_a_report_from_before_there_were_stations_is_shown_without_them(
    browser: WebDriver, url: str, home: Path
) -> None:
    (home / "monitoring.json").write_text(json.dumps(monitoring_report()))
    open_page(browser, f"{url}/#monitoring")
    by_id(browser, "refresh").click()
    text_with(browser, "Drift since training")
    wait(browser, lambda driver: not driver.find_elements(By.ID, "stations-title"))
    assert not browser.find_elements(By.ID, "promise-state-title")
