"""The gateway's page in a real Chromium, in front of a real TorchServe."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import axe_core_python
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from serve.archives.archive import ask, manifest_of
from serve.gateway import keys
from serve.local.servers import gateway_server
from serve.manifest import MANIFEST_FILE
from tests.conftest import Served, emptied
from tests.e2e.conftest import SHELF, SHOWN_S, devtools, log_of, text_with
from tests.integration.test_serving import deploy
from tests.integration.upstream import upstream_server
from trainer.training.run import Trained

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]
AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
PHONE, DESKTOP = (320, 640), (1280, 900)


@dataclass(frozen=True)
class Page:
    """A running gateway and its folder, the browser's folder, and a photo with the count that the model predicts."""

    url: str
    home: Path
    shelf: Path
    photo: Path
    count: int


def certain_archive(path: Path, target: Path, count: int) -> Path:
    """A copy of an archive for which ``count`` fits every photo and all other counts fit none."""
    manifest = manifest_of(path)
    scores = {name: (1.0 if name == str(count) else -1.0,) * 40 for name in manifest.names}
    forms = tuple(replace(form, calibration=replace(form.calibration, scores=scores)) for form in manifest.forms)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            text = replace(manifest, scores=scores, forms=forms).to_json().encode()
            copy.writestr(name, text if name == MANIFEST_FILE else source.read(name))
    return target


@pytest.fixture(scope="module")
def page(torchserve: Served, trained: Trained, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    home = tmp_path_factory.mktemp("page")
    photo = trained.data.test.photos[0].path
    (answer,) = ask(trained.archive, [photo])
    deploy(torchserve, certain_archive(trained.archive, home / "certain.mar", answer["count"]), "3")
    (home / "monitoring").mkdir()
    environ = {"BINWATCH_CAPTURE": str(home / "capture"), "BINWATCH_MONITORING": str(home / "monitoring")}
    with gateway_server(home, torchserve.inference.url, environ=environ) as url:
        yield Page(url, home, shelf, photo, answer["count"])
    emptied(torchserve)


def open_page(browser: WebDriver, url: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    """Load an address from scratch, in a window of that size."""
    width, height = size
    devtools(
        browser,
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=size == PHONE,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    devtools(browser, "Emulation.setEmulatedMedia", features=[scheme])
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        log_of(browser, kind)
    browser.get(url)


def by_id(browser: WebDriver, name: str) -> Any:
    return browser.find_element(By.ID, name)


def check_bin(browser: WebDriver, page: Page, quantity: object, photo: Path | None = None) -> str:
    """Choose a photo, enter a quantity and press the button. Returns the result's heading."""
    choose(browser, page, photo or page.photo)
    by_id(browser, "quantity").clear()
    by_id(browser, "quantity").send_keys(str(quantity))
    before = by_id(browser, "result-body").get_property("firstChild")
    by_id(browser, "submit").click()
    wait(browser, lambda driver: by_id(driver, "result-body").get_property("firstChild") != before)
    return str(by_id(browser, "result-title").text)


def choose(browser: WebDriver, page: Page, path: Path) -> None:
    (page.shelf / path.name).write_bytes(path.read_bytes())
    (page.shelf / path.name).chmod(0o644)
    by_id(browser, "photo").send_keys(f"{SHELF}/{path.name}")
    wait(browser, lambda driver: by_id(driver, "photo-name").text or by_id(driver, "photo-error").text)


def wait(browser: WebDriver, until: Any) -> Any:
    return WebDriverWait(browser, SHOWN_S).until(until)


def overflow_px(browser: WebDriver) -> int:
    """How much wider the page is than the window."""
    return int(
        browser.execute_script("const root = document.documentElement; return root.scrollWidth - root.clientWidth")
    )


def axe_violations(browser: WebDriver) -> list[str]:
    """What axe-core finds wrong with the page as it is, by the rules of WCAG 2.1 AA."""
    browser.execute_script(AXE.read_text())
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    script = (
        "axe.run({runOnly: arguments[0]}).then(arguments[1], (error) => arguments[1]({violations: [String(error)]}))"
    )
    violations = browser.execute_async_script(script, rules)["violations"]
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in violations]


def requested_urls(browser: WebDriver) -> set[str]:
    """The addresses that the browser requested since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in log_of(browser, "performance")]
    requests = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    urls = [parameters["request"]["url"] for parameters in requests]
    return {url for url in urls if not url.startswith(("blob:", "data:", "about:"))}


def test_a_photo_and_a_quantity_get_a_verdict_and_feedback_is_stored(browser: WebDriver, page: Page) -> None:
    open_page(browser, page.url)
    text_with(browser, "Model 3 answers")
    assert check_bin(browser, page, page.count) == "Match"
    assert browser.switch_to.active_element.get_attribute("id") == "result-title"
    text = text_with(browser, "as recorded", "How probable is each count?", "What was really in the bin?")
    assert "most probable, recorded" in text
    shares = [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".bars .share")]
    assert len(shares) == 5
    assert abs(sum(int(share.strip("<% ")) for share in shares) - 100) <= 3
    image = browser.find_element(By.CSS_SELECTOR, "img.judged")
    assert image.get_property("naturalWidth") == 224

    browser.find_element(By.CSS_SELECTOR, ".choices [aria-label='4 objects']").click()
    text_with(browser, "Thank you: 4 objects saved")
    (path,) = (page.home / "capture" / "ground-truth").rglob("*.jsonl")
    assert json.loads(path.read_text())["groundTruthData"]["data"] == "4"

    wrong_count = page.count % 5 + 1
    assert check_bin(browser, page, wrong_count) == "Mismatch"
    text_with(browser, f"the record says {wrong_count}. Recount this bin.")
    assert check_bin(browser, page, 7) == "Unsure"
    text_with(browser, "it knows 1 to 5 objects")
    by_id(browser, "count-only").click()
    text_with(browser, "Nothing was compared.")
    assert not [entry for entry in log_of(browser, "browser") if entry["level"] == "SEVERE"]
    assert all(url.startswith(page.url) for url in requested_urls(browser))


def test_missing_and_invalid_values_are_reported_at_the_field(browser: WebDriver, page: Page, tmp_path: Path) -> None:
    open_page(browser, page.url)
    by_id(browser, "submit").click()
    assert by_id(browser, "photo-error").text == "Choose or take a photo of the bin first."
    assert by_id(browser, "quantity-error").text == "Enter the recorded quantity, a whole number."
    assert browser.switch_to.active_element.get_attribute("id") == "photo"
    assert by_id(browser, "quantity").get_attribute("aria-invalid") == "true"

    (tmp_path / "notes.txt").write_text("no photo")
    choose(browser, page, tmp_path / "notes.txt")
    assert by_id(browser, "photo-error").text == "notes.txt is not a photo. Choose a JPEG or PNG file."
    (tmp_path / "broken.jpg").write_bytes(page.photo.read_bytes()[:40])
    choose(browser, page, tmp_path / "broken.jpg")
    assert "broken.jpg cannot be read as a photo" in by_id(browser, "photo-error").text
    assert not by_id(browser, "preview").is_displayed()

    choose(browser, page, page.photo)
    wait(browser, lambda driver: not by_id(driver, "photo-error").is_displayed())
    for text in ("-1", "2.5", "many"):
        by_id(browser, "quantity").clear()
        by_id(browser, "quantity").send_keys(text)
        by_id(browser, "submit").click()
        assert f"“{text}” is not a whole number" in by_id(browser, "quantity-error").text
    assert not any(url.endswith("/verify") for url in requested_urls(browser))


def test_a_large_photo_is_scaled_down_before_it_is_sent(browser: WebDriver, page: Page, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2400, 3600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=95)
    assert (tmp_path / "large.jpg").stat().st_size > 6_500_000
    open_page(browser, page.url)
    assert check_bin(browser, page, 2, tmp_path / "large.jpg") in ("Match", "Mismatch")
    image = browser.find_element(By.CSS_SELECTOR, "img.judged")
    assert (image.get_property("naturalWidth"), image.get_property("naturalHeight")) == (1600, 1067)


def test_the_camera_takes_a_photo(browser: WebDriver, page: Page) -> None:
    open_page(browser, page.url)
    by_id(browser, "camera").click()
    wait(browser, lambda driver: by_id(driver, "viewfinder").get_property("videoWidth") > 0)
    by_id(browser, "shutter").click()
    wait(browser, lambda driver: by_id(driver, "photo-name").text.startswith("photo.jpg"))
    assert not by_id(browser, "camera-dialog").is_displayed()
    by_id(browser, "count-only").click()
    text_with(browser, "Nothing was compared.")


def test_without_torchserve_or_a_model_it_says_so_and_can_retry(browser: WebDriver, page: Page, tmp_path: Path) -> None:
    with upstream_server() as upstream, gateway_server(tmp_path, upstream.url) as url:
        upstream.status, upstream.body = (
            404,
            b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found"}',
        )
        open_page(browser, url)
        text_with(browser, "No model yet")
        assert check_bin(browser, page, 2) == "There is no model yet"
        text_with(browser, "trained and deployed automatically", "asks to wait 10 s")
        upstream.status, upstream.body = 503, b'{"code": 503, "type": "ServiceUnavailableException", "message": "full"}'
        browser.find_element(By.CSS_SELECTOR, "#result-body button").click()
        text_with(browser, "The server is busy")
        upstream.status, upstream.body = 200, b"<html>"
        browser.find_element(By.CSS_SELECTOR, "#result-body button").click()
        text_with(browser, "The counting server failed")
    with gateway_server(tmp_path, upstream.url) as url:
        open_page(browser, url)
        assert check_bin(browser, page, 2) == "The counting server is down"
        text_with(browser, "Not available", "Nothing is lost.")
    by_id(browser, "submit").click()  # the gateway is down too
    text_with(browser, "The server cannot be reached")


def bucket(start: datetime, requests: int) -> dict[str, Any]:
    """A bucket of monitoring.json."""
    some = requests > 0
    return {
        "start": start.isoformat().replace("+00:00", "Z"),
        "requests": requests,
        "errors": requests // 50,
        "confidence_mean": 0.61 if some else None,
        "confidence_p10": 0.35 if some else None,
        "latency_p50_ms": 14.0 if some else None,
        "latency_p99_ms": 61.0 if some else None,
        "verdicts": {"match": requests // 2, "mismatch": requests // 10, "unsure": requests // 4},
        "counts": {str(count): requests // 5 for count in range(1, 6)},
        "feedback": requests // 20,
        "accuracy": 0.55 if requests >= 20 else None,
    }


def monitoring_report() -> dict[str, Any]:
    """The monitoring.json of a day with an hour without requests and photos that became darker."""
    start = datetime(2026, 11, 23, 6, tzinfo=UTC)
    indices = {"counts": 0.03, "confidence": 0.1, "brightness": 0.31, "sharpness": 0.05}
    drift = [{"name": name, "psi": psi, "threshold": 0.2, "alert": psi > 0.2} for name, psi in indices.items()]
    message = "the photos' brightness has moved"
    return {
        "made_at": "2026-11-24T06:00:00Z",
        "from": "2026-11-23T06:00:00Z",
        "to": "2026-11-24T06:00:00Z",
        "records": 4600,
        "unreadable": 1,
        "buckets": [bucket(start + timedelta(hours=hour), 0 if hour == 3 else 200) for hour in range(24)],
        "totals": bucket(start, 4600),
        "drift": drift,
        "model_versions": {"3": 4600},
        "alerts": [{"name": "brightness", "value": 0.31, "threshold": 0.2, "message": message}],
    }


def test_monitoring_shows_the_report_and_says_when_there_is_none(browser: WebDriver, page: Page) -> None:
    file = page.home / "monitoring" / "monitoring.json"
    open_page(browser, f"{page.url}/#monitoring")
    text_with(browser, "There is nothing to show yet.", "scripts/monitor.py")
    file.write_text("{")
    by_id(browser, "refresh").click()
    text_with(browser, "The monitoring report cannot be read.")
    file.write_text(json.dumps({**monitoring_report(), "records": 0}))
    by_id(browser, "refresh").click()
    text_with(browser, "Nothing was captured in this period.")

    file.write_text(json.dumps(monitoring_report()))
    by_id(browser, "refresh").click()
    text_with(
        browser,
        "Confidence over time",
        "Verdicts over time",
        "Counts predicted",
        "Response time",
        "Accuracy",
        "Drift since training",
        "brightness: the photos' brightness has moved",
        "4,600",
        "55 %",
        "61.0 ms",
        "drifted",
    )
    wait(browser, lambda driver: len(driver.find_elements(By.CSS_SELECTOR, ".plot svg[role=img]")) == 6)
    (confidence, *_) = browser.find_elements(By.CSS_SELECTOR, ".plot svg")
    mean = confidence.find_element(By.CSS_SELECTOR, "path.line.accent").get_attribute("d")
    assert str(mean).count("M") == 2  # the hour without requests is a gap
    browser.find_element(By.CSS_SELECTOR, "details.numbers summary").click()
    rows = browser.find_elements(By.CSS_SELECTOR, "details.numbers[open] tbody tr")
    assert [row.text.split(" ", 1)[1] for row in rows[2:5]] == ["61 % 35 %", "- -", "61 % 35 %"]
    assert axe_violations(browser) == []
    assert all(url.startswith(page.url) for url in requested_urls(browser))


def test_monitoring_says_what_the_verdicts_rest_on_where_the_report_knows(browser: WebDriver, page: Page) -> None:
    file = page.home / "monitoring" / "monitoring.json"
    report = monitoring_report()
    evidence = {
        "photo": {"match": 20, "mismatch": 3, "unsure": 7},
        "photo+products": {"match": 1400, "mismatch": 5, "unsure": 6},
    }
    totals = {**report["totals"], "verdicts_by_evidence": evidence, "not_a_bin": 2}
    file.write_text(json.dumps({**report, "totals": totals}))
    open_page(browser, f"{page.url}/#monitoring")
    text_with(browser, "What the verdicts rest on", "2 are about photos that do not look like a bin")
    rows = browser.find_elements(By.CSS_SELECTOR, "[aria-labelledby=evidence-title] tbody tr")
    assert [row.text for row in rows] == ["The photo alone 20 7 3", "Photo and products 1,400 6 5"]
    assert axe_violations(browser) == []

    file.write_text(json.dumps(report))  # of before verdicts had evidence
    by_id(browser, "refresh").click()
    wait(browser, lambda driver: not driver.find_elements(By.ID, "evidence-title"))
    text_with(browser, "Drift since training")


def test_monitoring_compares_a_challenger_with_the_champion_on_live_traffic(browser: WebDriver, page: Page) -> None:
    traffic = {"answered": 100, "failed": 0}
    trial = {
        "version": "2",
        "champion": "1",
        "plan": "shadow",
        "stage": "shadow",
        "step": "wait",
        "reason": "100 of 400 photos are compared",
        "comparison": {
            "champion": traffic,
            "challenger": traffic,
            "counts": {"2>2": 50, "3>2": 40, "3>3": 10},
            "verdicts": {"match>match": 90, "match>mismatch": 10},
        },
        "agreement": {
            "2": {"photos": 50, "share": 1.0, "expected": 0.9},
            "3": {"photos": 50, "share": 0.2, "expected": None},
        },
        "latency_ms": {"champion": 31.2, "challenger": 40.0},
    }
    file = page.home / "monitoring" / "monitoring.json"
    file.write_text(json.dumps({**monitoring_report(), "comparison": trial}))
    open_page(browser, f"{page.url}/#monitoring")
    text_with(browser, "Version 2 beside version 1", "It is under way.", "100 of 400 photos are compared")
    rows = browser.find_elements(By.CSS_SELECTOR, "[aria-labelledby=comparison-title] tbody tr")
    assert [row.text for row in rows] == [
        "1, champion 100 0 31 ms",
        "2, challenger 100 0 40 ms",
        "2 50 0 100 % 90 %",
        "3 40 10 20 % -",
        "match 90 10",
    ]
    assert axe_violations(browser) == []


def test_a_period_in_which_every_answer_failed_is_shown(browser: WebDriver, page: Page) -> None:
    report = monitoring_report()
    drift = [{**entry, "psi": None, "alert": False} for entry in report["drift"]]
    failed = {**bucket(datetime(2026, 11, 23, 6, tzinfo=UTC), 0), "requests": 9, "errors": 9}
    content = {**report, "drift": drift, "buckets": [failed], "totals": failed, "alerts": [], "model_versions": {}}
    (page.home / "monitoring" / "monitoring.json").write_text(json.dumps(content))
    open_page(browser, f"{page.url}/#monitoring")
    text_with(browser, "Drift since training", "no answers to compare", "Model versions", "No alerts")


def test_a_name_in_the_file_is_text_and_nothing_else(browser: WebDriver, page: Page) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    report = {**monitoring_report(), "alerts": [{"name": evil, "message": evil}], "model_versions": {evil: 1}}
    (page.home / "monitoring" / "monitoring.json").write_text(json.dumps(report))
    open_page(browser, f"{page.url}/#monitoring")
    text_with(browser, evil)
    assert browser.title == "Monitoring - binwatch"


def test_the_keyboard_is_enough(browser: WebDriver, page: Page) -> None:
    open_page(browser, page.url)
    text_with(browser, "Model 3 answers")

    def press(*names: str) -> str:
        ActionChains(browser).send_keys(*names).perform()
        focused = browser.switch_to.active_element
        return str(focused.get_attribute("id") or focused.text)

    assert press(Keys.TAB) == "Skip to the content"
    assert press(Keys.TAB) == "tab-check"
    assert press(Keys.ARROW_RIGHT) == "tab-monitoring"
    assert by_id(browser, "panel-monitoring").is_displayed()
    assert browser.current_url.endswith("#monitoring")
    assert press(Keys.HOME) == "tab-check"
    assert by_id(browser, "panel-check").is_displayed()
    assert press(Keys.TAB) == "photo"
    outline = "return getComputedStyle(document.getElementById('choose')).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    choose(browser, page, page.photo)  # a key would open the system's file dialog, which a test cannot type into
    assert press(Keys.TAB) == "camera"
    assert press(Keys.TAB) == "quantity"
    press(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_DOWN)
    assert by_id(browser, "quantity").get_property("value") == "1"
    assert press(Keys.TAB) == "Weighed it too? (optional)"
    assert press(Keys.TAB) == "station"
    assert press(Keys.TAB) == "submit"
    press(Keys.ENTER)
    wait(browser, lambda driver: driver.switch_to.active_element.get_attribute("id") == "result-title")
    assert press(Keys.TAB) == "Where the model looked"
    press(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("aria-pressed") == "true"
    assert press(Keys.TAB) == "1"
    press(Keys.ENTER)
    text_with(browser, "Thank you: 1 object saved")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_and_axe_finds_nothing(
    browser: WebDriver, page: Page, size: tuple[int, int], dark: bool
) -> None:
    (page.home / "monitoring" / "monitoring.json").write_text(json.dumps(monitoring_report()))
    open_page(browser, page.url, size, dark)
    text_with(browser, "Model 3 answers")
    ground = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(16, 21, 27)") is dark
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
    for quantity in (page.count, page.count % 5 + 1, 7):
        check_bin(browser, page, quantity)
        browser.execute_script("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
        assert (overflow_px(browser), axe_violations(browser)) == (0, []), quantity
    by_id(browser, "tab-monitoring").click()
    wait(browser, lambda driver: len(driver.find_elements(By.CSS_SELECTOR, ".plot svg[role=img]")) == 6)
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])


def test_a_key_is_asked_for_and_forgotten_with_the_tab(
    browser: WebDriver, page: Page, tmp_path: Path, torchserve: Served
) -> None:
    key = keys.add(tmp_path / "keys.json", "page")
    environ = {"BINWATCH_API_KEYS": str(tmp_path / "keys.json")}
    with gateway_server(tmp_path, torchserve.inference.url, environ=environ) as url:
        open_page(browser, url)
        text_with(browser, "An API key is needed")
        assert browser.switch_to.active_element.get_attribute("id") == "key"
        ActionChains(browser).send_keys("bw_wrong", Keys.ENTER).perform()
        text_with(browser, "This key is not valid")
        ActionChains(browser).send_keys(key, Keys.ENTER).perform()
        text_with(browser, "Model 3 answers", "Forget the API key")
        assert check_bin(browser, page, page.count) == "Match"
        assert browser.execute_script("return localStorage.length + document.cookie.length") == 0
        browser.get(url)
        text_with(browser, "Model 3 answers")
        by_id(browser, "forget").click()
        browser.get(url)
        text_with(browser, "An API key is needed")
