"""The page with records of bins: an id that is typed or scanned, in a real Chromium."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from serve.gateway.parsing import ATTRIBUTES
from serve.local.servers import gateway_server
from tests.e2e.conftest import log_of, text_with
from tests.e2e.test_page import (
    DESKTOP,
    PHONE,
    Page,
    axe_violations,
    by_id,
    check_bin,
    choose,
    open_page,
    overflow_px,
    wait,
)
from tests.integration.upstream import Upstream, upstream_server

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]
EVIL = "<img src=x onerror=\"document.title='owned'\">"
INCH = {"unit": "IN"}
BALL = {
    "name": EVIL,
    "quantity": 4,
    "length": {"value": 10, **INCH},
    "width": {"value": 5, **INCH},
    "height": {"value": 3, **INCH},
    "weight": {"value": 2, "unit": "pounds"},
}
RECORDS: dict[str, dict[str, object]] = {
    "00007": {"EXPECTED_QUANTITY": 5, "BIN_FCSKU_DATA": {"B00BALL": BALL, "B00CUP": {"quantity": 1}}},
    "A-12": {"EXPECTED_QUANTITY": 2},
    "lb-1": {"EXPECTED_QUANTITY": 4, "BIN_FCSKU_DATA": {"B00BALL": BALL}},
}
ANSWER: dict[str, object] = {
    "count": 2,
    "expected_count": 2.1,
    "probabilities": {"1": 0.1, "2": 0.7, "3": 0.2},
    "fit": {"1": 0.1, "2": 1.0, "3": 0.3},
    "model_version": "9",
    "event_id": "11111111-2222-4333-8444-555555555555",
    "expected_quantity": 5,
    "alpha": 0.05,
    "verdict": "mismatch",
    "reason": "about 2 objects are seen; the record lists 4 of 25 x 13 x 8 cm",
    "probability": 0.01,
    "counts_that_fit": ["2"],
    "evidence": "photo+products",
    "notes": ["the sizes of 'B00CUP' are not known"],
}


@pytest.fixture(scope="module")
def torchserve_answer() -> Iterator[Upstream]:
    with upstream_server() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def page(torchserve_answer: Upstream, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    home = tmp_path_factory.mktemp("bin-page")
    (home / "records").mkdir()
    for name, record in RECORDS.items():
        (home / "records" / f"{name}.json").write_text(json.dumps(record))
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(home / "bin.jpg")
    with gateway_server(home, torchserve_answer.url, environ={"BINWATCH_RECORDS": str(home / "records")}) as url:
        yield Page(url, home, shelf, home / "bin.jpg", 2)


@pytest.fixture(autouse=True)
def answer(torchserve_answer: Upstream) -> dict[str, Any]:
    """What the model answers, which a test can change."""
    torchserve_answer.body = json.dumps(ANSWER).encode()
    return dict(ANSWER)


def value_of(browser: WebDriver, name: str) -> str:
    return str(by_id(browser, name).get_property("value"))


def opened(browser: WebDriver, page: Page, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    open_page(browser, page.url, size, dark)
    wait(browser, lambda driver: by_id(driver, "bin").is_displayed())


def scan(browser: WebDriver, text: str) -> None:
    """Type as a scanner does: fast, and with Enter at the end."""
    ActionChains(browser, duration=0).send_keys(text, Keys.ENTER).perform()


def test_a_typed_bin_brings_its_record_and_the_products_stand_beside_the_verdict(
    browser: WebDriver, page: Page, torchserve_answer: Upstream
) -> None:
    opened(browser, page)
    by_id(browser, "bin").send_keys("00007", Keys.ENTER)
    text_with(browser, "5 objects by its record", f"4 × {EVIL}", "1 × B00CUP")
    assert (value_of(browser, "quantity"), by_id(browser, "quantity").get_property("readOnly")) == ("5", True)
    choose(browser, page, page.photo)
    by_id(browser, "submit").click()
    text_with(browser, "Mismatch", "About 2 objects are seen; the record lists 4 of 25 x 13 x 8 cm. Recount this bin.")
    shown = browser.find_element(By.CSS_SELECTOR, ".record").text
    for part in ("The record of bin 00007: 5 objects", EVIL, "25 × 13 × 7.6 cm, 907 g each", "size not known"):
        assert part in shown
    text_with(browser, "the sizes of 'B00CUP' are not known")
    assert json.loads(torchserve_answer.received)["record"] == RECORDS["00007"]
    assert browser.title == "Check a bin - binwatch"
    assert not [entry for entry in log_of(browser, "browser") if entry["level"] == "SEVERE"]

    by_id(browser, "bin").clear()
    by_id(browser, "bin").send_keys(Keys.ENTER)
    wait(browser, lambda driver: not by_id(driver, "quantity").get_property("readOnly"))
    assert value_of(browser, "quantity") == ""


@pytest.mark.parametrize("focus", ["quantity", "submit", "bin", "tab-check", "body"])
def test_a_scanned_bin_gets_into_its_field_wherever_the_focus_is(browser: WebDriver, page: Page, focus: str) -> None:
    opened(browser, page)
    if focus != "body":
        browser.execute_script("document.getElementById(arguments[0]).focus()", focus)
    if focus == "bin":
        by_id(browser, "bin").send_keys("old")
        ActionChains(browser).pause(0.3).perform()
    scan(browser, "00007")
    text_with(browser, "5 objects by its record")
    assert (value_of(browser, "bin"), value_of(browser, "quantity")) == ("00007", "5")
    scan(browser, "A-12")
    text_with(browser, "2 objects by its record")
    assert (value_of(browser, "bin"), value_of(browser, "quantity")) == ("A-12", "2")
    assert by_id(browser, "photo-error").text == ""  # the form was not sent


def test_what_was_typed_before_a_scan_stays_in_its_field(browser: WebDriver, page: Page) -> None:
    opened(browser, page)
    browser.execute_script("document.querySelector('.weigh').open = true")
    by_id(browser, "weight").send_keys("1.8")
    ActionChains(browser).pause(0.3).perform()
    scan(browser, "00007")
    text_with(browser, "5 objects by its record", "the record knows what they should weigh")
    assert value_of(browser, "weight") == "1.8"
    assert not by_id(browser, "expected-weight").is_displayed()
    by_id(browser, "weight-unit").send_keys("g")
    ActionChains(browser).pause(0.3).perform()
    scan(browser, "lb-1")  # which chooses pounds where it is typed
    text_with(browser, "4 objects by its record")
    assert (value_of(browser, "weight-unit"), value_of(browser, "bin")) == ("g", "lb-1")


def test_a_scan_on_the_monitoring_tab_leads_to_the_bin(browser: WebDriver, page: Page) -> None:
    opened(browser, page)
    by_id(browser, "tab-monitoring").click()
    scan(browser, "00007")
    text_with(browser, "5 objects by its record")
    assert by_id(browser, "panel-check").is_displayed()


def test_a_person_who_types_a_quantity_is_no_scanner(browser: WebDriver, page: Page) -> None:
    opened(browser, page)
    by_id(browser, "quantity").click()
    keys = ActionChains(browser, duration=0)
    for key in ("1", "2", "3", "4", Keys.ENTER):
        keys.send_keys(key).pause(0.12)
    keys.perform()
    assert (value_of(browser, "bin"), value_of(browser, "quantity")) == ("", "1234")
    text_with(browser, "Choose or take a photo of the bin first.")


def test_an_unknown_or_impossible_bin_is_named_at_its_field(browser: WebDriver, page: Page) -> None:
    opened(browser, page)
    scan(browser, "no-such-bin")
    wait(browser, lambda driver: "no-such-bin" in by_id(driver, "bin-error").text)
    assert by_id(browser, "bin").get_attribute("aria-invalid") == "true"
    scan(browser, "../00007")
    wait(browser, lambda driver: "../00007" in by_id(driver, "bin-error").text)
    choose(browser, page, page.photo)
    by_id(browser, "submit").click()
    assert browser.switch_to.active_element.get_attribute("id") == "bin"
    scan(browser, "00007")
    wait(browser, lambda driver: by_id(driver, "bin-error").text == "")


def test_the_photo_of_a_checked_bin_is_not_sent_for_the_next_one(browser: WebDriver, page: Page) -> None:
    opened(browser, page)
    choose(browser, page, page.photo)
    scan(browser, "00007")  # a photo that comes before its scan stays
    text_with(browser, "5 objects by its record")
    assert by_id(browser, "preview").is_displayed()
    by_id(browser, "submit").click()
    text_with(browser, "The record of bin 00007")
    scan(browser, "A-12")
    text_with(browser, "2 objects by its record")
    assert not by_id(browser, "preview").is_displayed()
    by_id(browser, "submit").click()
    text_with(browser, "Choose or take a photo of the bin first.")


def test_without_records_there_is_no_field_for_a_bin(
    browser: WebDriver, page: Page, torchserve_answer: Upstream, tmp_path: Path
) -> None:
    with gateway_server(tmp_path, torchserve_answer.url) as url:
        open_page(browser, url)
        text_with(browser, "Model 9 answers")
        scan(browser, "00007")
        assert not by_id(browser, "bin").is_displayed()
        assert value_of(browser, "bin") == ""
        assert check_bin(browser, page, 5) == "Mismatch"
    assert not [entry for entry in log_of(browser, "browser") if entry["level"] == "SEVERE"]


def test_the_station_is_sent_with_each_photo_and_remembered(
    browser: WebDriver, page: Page, torchserve_answer: Upstream
) -> None:
    opened(browser, page)
    by_id(browser, "station").send_keys("dock 3", Keys.TAB)
    check_bin(browser, page, 5)
    assert "dock%203" in torchserve_answer.headers[ATTRIBUTES]
    opened(browser, page)
    assert value_of(browser, "station") == "dock 3"
    by_id(browser, "station").clear()
    by_id(browser, "quantity").click()
    check_bin(browser, page, 5)
    assert "station" not in torchserve_answer.headers[ATTRIBUTES]


def test_where_the_model_looked_is_shown_on_request(
    browser: WebDriver, page: Page, torchserve_answer: Upstream, answer: dict[str, Any]
) -> None:
    picture = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(picture, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    torchserve_answer.body = json.dumps({**answer, "attention": {"count": "2", "image": image}}).encode()
    opened(browser, page)
    check_bin(browser, page, 5)
    assert "attention=" in torchserve_answer.headers[ATTRIBUTES]
    assert browser.find_elements(By.CSS_SELECTOR, ".heat") == []
    toggle = browser.find_element(By.CSS_SELECTOR, ".frame + .buttons button")
    toggle.click()
    heat = browser.find_element(By.CSS_SELECTOR, ".heat")
    photo = browser.find_element(By.CSS_SELECTOR, "img.judged")
    assert heat.is_displayed()
    assert browser.execute_script("return arguments[0].getAttribute('viewBox')", heat) == "0 0 200 120"
    assert heat.rect == pytest.approx(photo.rect, abs=1)
    assert toggle.get_attribute("aria-pressed") == "true"
    assert axe_violations(browser) == []
    toggle.click()
    assert not heat.is_displayed()
    assert not [entry for entry in log_of(browser, "browser") if entry["level"] == "SEVERE"]
    for unusable in (None, "data:image/svg+xml;base64,AAAA", "https://example.com/a.png", "data:image/png;base64,<", 3):
        torchserve_answer.body = json.dumps({**answer, "attention": {"count": "2", "image": unusable}}).encode()
        check_bin(browser, page, 5)
        assert browser.find_elements(By.CSS_SELECTOR, ".frame") == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_bin_and_its_record_fit_a_phone_and_axe_finds_nothing(
    browser: WebDriver, page: Page, size: tuple[int, int], dark: bool
) -> None:
    opened(browser, page, size, dark)
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
    scan(browser, "no-such-bin")
    wait(browser, lambda driver: by_id(driver, "bin-error").text)
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
    scan(browser, "00007")
    text_with(browser, "5 objects by its record")
    choose(browser, page, page.photo)
    by_id(browser, "submit").click()
    text_with(browser, "The record of bin 00007")
    browser.execute_script("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
