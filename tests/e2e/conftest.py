"""A real browser for the tests that look at pages."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chromium.remote_connection import ChromiumRemoteConnection
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.command import Command
from selenium.webdriver.remote.file_detector import UselessFileDetector
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait
from urllib3 import Retry

from serve.local.servers import free_port

SHOWN_S = 60
SHELF = "/shelf"
"""Where the browser sees the files that it may choose."""


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the browser's container sees as SHELF, under another user."""
    folder = tmp_path_factory.mktemp("shelf")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def chromedriver(docker: None, shelf: Path) -> Iterator[int]:
    """The port of a chromedriver in a container, which sees this machine's ports as they are."""
    image, port = "binwatch-browser", free_port()
    folder = Path(__file__).with_name("browser")
    subprocess.run(["docker", "build", "--quiet", "--tag", image, folder], check=True, capture_output=True)
    mount = f"{shelf}:{SHELF}:ro"
    command = ["docker", "run", "--rm", "--detach", "--network", "host", "--volume", mount, image, f"--port={port}"]
    container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        with requests.Session() as session:  # until it answers
            session.mount("http://", HTTPAdapter(max_retries=Retry(20, backoff_factor=0.2, backoff_max=2)))
            session.get(f"http://127.0.0.1:{port}/status", timeout=5).raise_for_status()
        yield port
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)


@pytest.fixture(scope="module")
def browser(chromedriver: int) -> Iterator[WebDriver]:
    """Debian's Chromium."""
    options = webdriver.ChromeOptions()
    # the container is the sandbox; its /dev/shm is small; MLflow draws what is in view
    words = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,4000"]
    # a camera that shows a moving picture, and that nobody has to allow
    words += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    for word in words:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    executor = ChromiumRemoteConnection(f"http://127.0.0.1:{chromedriver}", "goog", "chrome")
    driver = webdriver.Remote(executor, options=options, file_detector=UselessFileDetector())
    yield driver
    driver.quit()


def devtools(browser: WebDriver, name: str, **parameters: Any) -> dict[str, Any]:
    """A command of https://chromedevtools.github.io/devtools-protocol/ and its answer."""
    return dict(browser.execute("executeCdpCommand", {"cmd": name, "params": parameters})["value"] or {})


def log_of(browser: WebDriver, kind: str) -> list[dict[str, Any]]:
    """What came to the log since it was read last: ``browser``, the console; ``performance``, the network too."""
    return list(browser.execute(Command.GET_LOG, {"type": kind})["value"])


def text_with(browser: WebDriver, *wanted: str) -> str:
    """The page's text, once it shows all that is wanted."""

    def shown(driver: WebDriver) -> str | None:
        found = driver.find_element(By.TAG_NAME, "body").text
        return found if all(each in found for each in wanted) else None

    try:
        return str(WebDriverWait(browser, SHOWN_S, ignored_exceptions=[WebDriverException]).until(shown))
    except TimeoutException:
        pytest.fail(f"the page does not show {wanted}: {browser.find_element(By.TAG_NAME, 'body').text}")
