"""The history on the page's monitoring tab, in a real Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from serve.local.servers import free_port, gateway_server
from tests.e2e.conftest import log_of, text_with
from tests.e2e.test_page import DESKTOP, PHONE, axe_violations, by_id, open_page, overflow_px, wait

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]
PICTURE = "#history-body .plot svg[role=img]"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("history")


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """A gateway without TorchServe, which the history does not need."""
    unused = f"http://127.0.0.1:{free_port()}"
    with gateway_server(home, unused, environ={"BINWATCH_MONITORING": str(home)}) as address:
        yield address


def stretch(version: str, start: str, end: str | None, did: str = "promoted", **more: Any) -> dict[str, Any]:
    return {
        "version": version,
        "from": start,
        "to": end,
        "did": did,
        "reason": f"because of {version}",
        "accuracy": 0.5 + int(version) / 20,
        "accuracy_interval": [0.45, 0.8],
        "dataset_fingerprint": "d" * 64,
        "revision": "c" * 40,
        "run_id": "r",
        "execution": None,
        **more,
    }


def history() -> dict[str, Any]:
    """The history.json after two promotions and a rollback."""
    steps = [
        {"name": "train", "status": "Succeeded", "seconds": 95.0, "cached": False},
        {"name": "evaluate", "status": "Succeeded", "seconds": 0.2, "cached": True},
        {"name": "promote", "status": "Failed", "seconds": 3, "cached": False},
    ]
    common = {"started": "2026-11-23T10:00:00Z", "seconds": 98.4, "why": ["drift of brightness"], "steps": steps}
    return {
        "made_at": "2026-11-24T12:00:00Z",
        "served": [
            stretch("1", "2026-11-24T11:00:00Z", None, "rolled-back", accuracy=None, accuracy_interval=None),
            stretch("2", "2026-11-24T09:00:00Z", "2026-11-24T11:00:00Z"),
            stretch("1", "2026-11-23T12:00:00Z", "2026-11-24T09:00:00Z"),
        ],
        "executions": [
            {"id": "b", "decision": "promoted", "reasons": ["greater"], "status": "finished", "version": "2", **common},
            {"id": "a", "decision": "", "reasons": [], "status": "failed", "version": None, **common},
        ],
    }


def write_and_refresh(browser: WebDriver, home: Path, content: object) -> None:
    """Write history.json and press the button that loads it again."""
    (home / "history.json").write_text(content if isinstance(content, str) else json.dumps(content))
    by_id(browser, "refresh").click()


def test_the_history_is_drawn_described_and_listed(browser: WebDriver, url: str, home: Path) -> None:
    open_page(browser, f"{url}/#monitoring")
    text_with(browser, "There is no history yet.", "there is no history.json yet", "scripts/monitor.py")
    for text in ("{", "[3]"):
        write_and_refresh(browser, home, text)
        text_with(browser, "The history cannot be read.")
    write_and_refresh(browser, home, {"served": [], "executions": []})
    text_with(browser, "No model has served yet.", "The pipeline has not run yet.")
    write_and_refresh(browser, home, {"served": 3, "executions": [None, 4]})
    text_with(browser, "No model has served yet.", "The pipeline has not run yet.")

    write_and_refresh(browser, home, history())
    text_with(
        browser, "Which model served when", "Version 1 has served since", "What the pipeline did", "promoted", "failed"
    )
    picture = wait(browser, lambda driver: driver.find_element(By.CSS_SELECTOR, PICTURE))
    assert "3 in total, newest first: version 1, rolled-back; version 2 with 60 %, promoted" in str(
        picture.get_attribute("aria-label")
    )
    lines = picture.find_elements(By.CSS_SELECTOR, "line.line")
    assert [line.get_attribute("class") for line in lines] == ["line accent", "line accent", "line second"]
    spans = [(float(str(line.get_attribute("x1"))), float(str(line.get_attribute("x2")))) for line in lines]
    assert spans[0][1] - spans[0][0] == pytest.approx(10.5 * (spans[1][1] - spans[1][0]), rel=0.02)  # 21 h and 2 h
    assert len(picture.find_elements(By.CSS_SELECTOR, ".band")) == 2
    by_id(browser, "history-body").find_element(By.CSS_SELECTOR, "details.numbers summary").click()
    rows = browser.find_elements(By.CSS_SELECTOR, "#history-body details.numbers tbody tr")
    assert [row.text.split()[1] for row in rows] == ["1", "2", "1"]
    assert "60.0 % 45.0 % to 80.0 % promoted: because of 2 dddddddddddd cccccccccccc" in rows[1].text
    browser.find_element(By.CSS_SELECTOR, ".executions summary").click()
    text_with(browser, "Started because drift of brightness", "Succeeded, from the cache", "95 s", "0.2 s", "98 s")
    assert axe_violations(browser) == []
    errors = [str(entry) for entry in log_of(browser, "browser") if "history" in str(entry)]
    assert all("404" in error or "503" in error for error in errors)


def test_the_history_is_reached_by_keyboard_and_is_only_text(browser: WebDriver, url: str, home: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    content = history()
    content["served"][1] |= {"reason": evil, "version": evil}
    content["executions"][0] |= {"reasons": [evil], "decision": evil}
    (home / "history.json").write_text(json.dumps(content))
    open_page(browser, f"{url}/#monitoring")
    wait(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, PICTURE))
    by_id(browser, "refresh").send_keys("")
    for name in ("details.numbers", ".executions details"):
        details = browser.find_element(By.CSS_SELECTOR, f"#history-body {name}")
        while browser.switch_to.active_element != details.find_element(By.TAG_NAME, "summary"):
            ActionChains(browser).send_keys(Keys.TAB).perform()
        ActionChains(browser).send_keys(Keys.ENTER).perform()
        assert details.get_attribute("open") is not None
    text_with(browser, evil)
    assert browser.title == "Monitoring - binwatch"


@pytest.mark.parametrize(("size", "dark"), [(PHONE, False), (DESKTOP, True)], ids=["phone", "dark"])
def test_the_history_fits_and_axe_finds_nothing(
    browser: WebDriver, url: str, home: Path, size: tuple[int, int], dark: bool
) -> None:
    (home / "history.json").write_text(json.dumps(history()))
    open_page(browser, f"{url}/#monitoring", size, dark)
    wait(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, PICTURE))
    browser.execute_script("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    browser.save_screenshot(str(home / f"{size[0]}.png"))
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
