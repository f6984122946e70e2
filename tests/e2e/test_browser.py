"""What people look at, opened in a real browser."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait
from urllib3 import Retry

from serve.embedded import free_port
from tests.conftest import TINY
from trainer.dataset import DataSpec
from trainer.job import learn
from trainer.tracking import Tracking

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]
SHOWN_S = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Debian's Chromium in a container, which sees this machine's ports as they are."""
    image, port = "binwatch-browser", free_port()
    folder = Path(__file__).with_name("browser")
    subprocess.run(["docker", "build", "--quiet", "--tag", image, folder], check=True, capture_output=True)
    command = ["docker", "run", "--rm", "--detach", "--network", "host", image, f"--port={port}"]
    container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        driver = connect(port)
        yield driver
        driver.quit()
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)


def connect(port: int) -> WebDriver:
    options = webdriver.ChromeOptions()
    # the container is the sandbox; its /dev/shm is small; MLflow draws what is in view
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,4000"):
        options.add_argument(word)

    with requests.Session() as session:  # until it answers
        session.mount("http://", HTTPAdapter(max_retries=Retry(20, backoff_factor=0.2, backoff_max=2)))
        session.get(f"http://127.0.0.1:{port}/status", timeout=5).raise_for_status()
    return webdriver.Remote(f"http://127.0.0.1:{port}", options=options)


def text_with(browser: WebDriver, *wanted: str) -> str:
    """The page's text, once it shows all that is wanted."""

    def shown(driver: WebDriver) -> str | None:
        found = driver.find_element(By.TAG_NAME, "body").text
        return found if all(each in found for each in wanted) else None

    try:
        return str(WebDriverWait(browser, SHOWN_S, ignored_exceptions=[WebDriverException]).until(shown))
    except TimeoutException:
        pytest.fail(f"the page does not show {wanted}: {browser.find_element(By.TAG_NAME, 'body').text}")


def test_mlflow_compares_three_runs_with_their_curves_and_parameters(
    browser: WebDriver, mlflow_url: str, drawn: Path, tmp_path: Path
) -> None:
    ids = []
    for rate in (0.001, 0.002, 0.004):
        with Tracking(mlflow_url).run(f"rate {rate}") as run:
            learn(DataSpec(drawn, limit=100), replace(TINY, epochs=2, learning_rate=rate), tmp_path, run)
        ids.append(run.id)
    about = requests.get(f"{mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": ids[0]}, timeout=30).json()
    experiment = about["run"]["info"]["experiment_id"]

    browser.get(f"{mlflow_url}/#/compare-runs?runs={json.dumps(ids)}&experiments={json.dumps([experiment])}")
    page = text_with(browser, "Comparing 3 Runs", "rate 0.001", "rate 0.002", "rate 0.004")
    rows = dict(line.split(" ", 1) for line in page.splitlines() if " " in line)
    assert rows["learning_rate"] == "0.001 0.002 0.004"
    assert rows["architecture"] == "resnet18 resnet18 resnet18"

    # the same runs as curves over the epochs
    browser.get(f"{mlflow_url}/#/experiments/{experiment}/runs?compareRunsMode=CHART")
    text_with(browser, "validation_loss", "train_loss", "rate 0.001", "rate 0.004")
    curves = "path.js-line"

    def drawn_curves(driver: WebDriver) -> bool:
        return len([each for each in driver.find_elements(By.CSS_SELECTOR, curves) if each.get_attribute("d")]) >= 3

    WebDriverWait(browser, SHOWN_S).until(drawn_curves)
