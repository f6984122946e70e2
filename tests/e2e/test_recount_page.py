"""The page's third tab in a real Chromium: a person counts bins, takes one back, and the labels are on disk."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from serve.gateway import keys
from serve.local.servers import free_port
from serve.recount.recount_entities import Recount
from tests.e2e.conftest import log_of, text_with
from tests.e2e.test_page import DESKTOP, PHONE, axe_violations, by_id, open_page, overflow_px, wait
from tests.integration.recounting import RecountGateway, event, recount_gateway
from tests.integration.upstream import Upstream, upstream_server
from tests.recounting import recount_in

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]
EVIL = "<img src=x onerror=\"document.title='owned'\">"
PRODUCT = {"id": "B00BALL", "name": EVIL, "quantity": 3, "length": 9, "width": 9, "height": 9, "size_unit": "cm"}


@pytest.fixture(scope="module")
def torchserve_answer() -> Iterator[Upstream]:
    with upstream_server() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(torchserve_answer: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecountGateway]:
    home = tmp_path_factory.mktemp("recount-page")
    (home / "records").mkdir()
    with recount_gateway(home, torchserve_answer, RECORDS=str(home / "records")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: RecountGateway, browser: WebDriver) -> RecountGateway:
    """A gateway at which no bin waits, and no page asks for one."""
    browser.get("about:blank")  # the page of the test before would lease bins of this one
    running.empty()
    return running


def add_bins(gateway: RecountGateway, number: int) -> None:
    """Bins 1 to ``number``, which are handed out in this order, each with a photo of its own."""
    for item in range(1, number + 1):
        gateway.answers(item)
        photo = gateway.folder.parent / f"{item}.png"
        Image.fromarray(np.full((120, 160 + item, 3), 20 * item, np.uint8)).save(photo)
        form = {"products": json.dumps([PRODUCT]), "station": f"dock {item % 2}"}
        files = {"photo": (photo.name, photo.read_bytes(), "image/png")}
        requests.post(f"{gateway.url}/verify", data=form, files=files, timeout=30).raise_for_status()
    gateway.pending(number)


def shown_bin(browser: WebDriver) -> int:
    """The bin on the screen, by the width of its photo; 0 for none."""
    script = """const image = document.getElementById("recount-photo");
        return image.offsetParent !== null && image.complete ? image.naturalWidth : 160;"""
    return int(browser.execute_script(script)) - 160


def wait_for_bin(browser: WebDriver, number: int) -> None:
    wait(browser, lambda driver: shown_bin(driver) == number)


def opened(browser: WebDriver, url: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    """As in a new tab of the browser, which has leased nothing."""
    browser.get(f"{url}/livez")
    browser.execute_script("sessionStorage.clear()")
    open_page(browser, f"{url}/#recount", size, dark)


def press(browser: WebDriver, *names: str) -> None:
    """Type as a person does."""
    actions = ActionChains(browser)
    for name in names:
        actions.send_keys(name).pause(0.12)
    actions.perform()


def settled(gateway: RecountGateway) -> dict[str, Recount]:
    paths = sorted((gateway.folder / "settled").glob("*.json"))
    return {path.stem: recount_in(path) for path in paths}


def wait_settled(gateway: RecountGateway, number: int) -> dict[str, Recount]:
    deadline = time.monotonic() + 30
    while len(recounts := settled(gateway)) != number:
        assert time.monotonic() < deadline, recounts
        time.sleep(0.05)
    return recounts


def test_three_recounts_and_an_undo_become_labels_on_disk(browser: WebDriver, gateway: RecountGateway) -> None:
    add_bins(gateway, 5)
    opened(browser, gateway.url)
    wait_for_bin(browser, 1)
    text = text_with(browser, "5 wait.", f"The record: 3 objects\n3 ×\n{EVIL}")
    assert "model saw about" not in text  # nobody is to be anchored
    press(browser, "4", Keys.ENTER)
    wait_for_bin(browser, 2)
    text_with(
        browser, "4 objects counted, the record says 3: it is wrong.", "The model saw about 2.1, most probably 2."
    )
    text_with(browser, "1 counted: 1 wrong record found, 0.5 expected.")
    press(browser, "3", Keys.ENTER)
    wait_for_bin(browser, 3)
    text_with(browser, "3 objects counted, as recorded.")
    press(browser, "1", "2", Keys.ENTER)
    wait_for_bin(browser, 4)
    assert {name: recount.count for name, recount in wait_settled(gateway, 3).items()} == {
        event(1): 4,
        event(2): 3,
        event(3): 12,
    }
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    wait_for_bin(browser, 3)
    text_with(browser, "Taken back.")
    assert set(wait_settled(gateway, 2)) == {event(1), event(2)}
    press(browser, "2", Keys.ENTER)
    wait_for_bin(browser, 4)
    press(browser, "/")
    wait_for_bin(browser, 5)
    press(browser, "*")
    text_with(browser, "No bin waits for a recount.")
    outcomes = {name: (recount.outcome, recount.count) for name, recount in wait_settled(gateway, 5).items()}
    assert outcomes == {
        event(1): ("count", 4),
        event(2): ("count", 3),
        event(3): ("count", 2),
        event(4): ("cannot_tell", None),
        event(5): ("bad_photo", None),
    }
    labels = {path.stem: json.loads(path.read_text()) for path in (gateway.folder / "metadata").iterdir()}
    assert {name: label["EXPECTED_QUANTITY"] for name, label in labels.items()} == {
        event(1): 4,
        event(2): 3,
        event(3): 2,
    }
    assert [len(labels[event(number)]["BIN_FCSKU_DATA"]) for number in (1, 2, 3)] == [0, 1, 0]
    assert {path.stem for path in (gateway.folder / "bin-images").iterdir()} == set(labels)
    assert browser.title == "Recount - binwatch"
    assert not [entry for entry in log_of(browser, "browser") if entry["level"] == "SEVERE"]


def test_a_filter_selects_a_station(browser: WebDriver, gateway: RecountGateway) -> None:
    add_bins(gateway, 4)
    opened(browser, gateway.url)
    wait_for_bin(browser, 1)
    wait(browser, lambda driver: "dock 0" in by_id(driver, "recount-station").text)
    by_id(browser, "recount-station").find_element(By.CSS_SELECTOR, "option[value='dock 0']").click()
    wait_for_bin(browser, 2)
    text_with(browser, "2 wait.", "Station dock 0")
    by_id(browser, "recount-count").send_keys("3", Keys.ENTER)
    wait_for_bin(browser, 4)


def test_a_scan_is_no_count_and_a_wrong_number_is_named(browser: WebDriver, gateway: RecountGateway) -> None:
    add_bins(gateway, 2)
    opened(browser, gateway.url)
    wait_for_bin(browser, 1)
    ActionChains(browser, duration=0).send_keys("00007", Keys.ENTER).perform()
    wait(browser, lambda driver: "scanned" in by_id(driver, "recount-error").text)
    assert (by_id(browser, "recount-count").get_property("value"), shown_bin(browser)) == ("", 1)
    press(browser, Keys.ENTER)
    assert by_id(browser, "recount-count").get_attribute("aria-invalid") == "true"
    ActionChains(browser, duration=0).send_keys("12", Keys.ENTER).perform()  # fast, but a person's
    wait_for_bin(browser, 2)
    assert [recount.count for recount in wait_settled(gateway, 1).values()] == [12]


def test_two_tabs_get_different_bins(browser: WebDriver, gateway: RecountGateway) -> None:
    add_bins(gateway, 3)
    assert gateway.next("somebody") == event(1)
    opened(browser, gateway.url)
    wait_for_bin(browser, 2)
    press(browser, "3", Keys.ENTER)
    wait_for_bin(browser, 3)
    press(browser, "3", Keys.ENTER)
    text_with(browser, "Others count the bins that are left.", "1 is on other screens.")


def test_a_server_that_is_away_loses_nothing(browser: WebDriver, torchserve_answer: Upstream, tmp_path: Path) -> None:
    port, photos = free_port(), 'performance.getEntriesByType("resource").filter(({name}) => name.endsWith("/photo"))'
    with recount_gateway(tmp_path, torchserve_answer, port) as gateway:
        add_bins(gateway, 3)
        opened(browser, gateway.url)
        wait_for_bin(browser, 1)
        wait(browser, lambda driver: "leases.json" in {path.name for path in gateway.folder.iterdir()})
        wait(browser, lambda driver: len(re.findall("until_s", (gateway.folder / "leases.json").read_text())) == 2)
        wait(browser, lambda driver: driver.execute_script(f"return {photos}.length") == 2)  # the next one is there
    press(browser, "4", Keys.ENTER)
    text_with(browser, "1 recount is not saved yet.", "Nothing is lost")
    wait_for_bin(browser, 2)
    with recount_gateway(tmp_path, torchserve_answer, port):
        assert {recount.count for recount in wait_settled(gateway, 1).values()} == {4}
        wait(browser, lambda driver: not by_id(driver, "recount-unsaved").is_displayed())
        press(browser, "5", Keys.ENTER)
        wait_for_bin(browser, 3)
        assert {recount.count for recount in wait_settled(gateway, 2).values()} == {4, 5}


def test_a_key_without_the_right_is_told_what_to_do(
    browser: WebDriver, torchserve_answer: Upstream, tmp_path: Path
) -> None:
    key = keys.add(tmp_path / "keys.json", "station")
    with recount_gateway(tmp_path, torchserve_answer, API_KEYS=str(tmp_path / "keys.json")) as gateway:
        opened(browser, gateway.url)
        text_with(browser, "An API key is needed")
        ActionChains(browser).send_keys(key, Keys.ENTER).perform()
        text_with(browser, "This API key may not recount", "--may recount")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_tab_fits_a_phone_and_axe_finds_nothing(
    browser: WebDriver, gateway: RecountGateway, size: tuple[int, int], dark: bool
) -> None:
    opened(browser, gateway.url, size, dark)
    text_with(browser, "No bin waits for a recount.")
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
    add_bins(gateway, 2)
    by_id(browser, "recount-again").click()
    wait_for_bin(browser, 1)
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
    by_id(browser, "recount-count").send_keys("x4", Keys.ENTER)
    wait_for_bin(browser, 2)
    text_with(browser, "The model saw about 2.1")
    by_id(browser, "recount-count").send_keys(Keys.ENTER)
    assert (overflow_px(browser), axe_violations(browser)) == (0, [])
