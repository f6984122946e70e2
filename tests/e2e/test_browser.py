"""What people look at, opened in a real browser."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from serve.local.servers import mlflow_server
from tests.e2e.conftest import SHOWN_S, text_with
from tests.models import TINY
from trainer.data.dataset import DataSpec
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import load_and_fit

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("docker")]


@pytest.fixture
def mlflow_url(tmp_path: Path) -> Iterator[str]:
    """An MLflow without workspaces: a browser is shown the default one, not that of a test's process."""
    with mlflow_server(tmp_path / "mlflow") as url:
        yield url


def test_mlflow_compares_three_runs_with_their_curves_and_parameters(
    browser: WebDriver, mlflow_url: str, drawn: Path, tmp_path: Path
) -> None:
    ids = []
    for rate in (0.001, 0.002, 0.004):
        with Registry(mlflow_url).run(f"rate {rate}") as run:
            load_and_fit(DataSpec(drawn, limit=100), replace(TINY, epochs=2, learning_rate=rate), tmp_path, run)
        ids.append(run.id)
    about = requests.get(f"{mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": ids[0]}, timeout=30).json()
    experiment = about["run"]["info"]["experiment_id"]

    browser.get(f"{mlflow_url}/#/compare-runs?runs={json.dumps(ids)}&experiments={json.dumps([experiment])}")
    page = text_with(browser, "Comparing 3 Runs", "rate 0.001", "rate 0.002", "rate 0.004")
    rows = dict(line.split(" ", 1) for line in page.splitlines() if " " in line)
    assert rows["learning_rate"] == "0.001 0.002 0.004"
    assert rows["architecture"] == "small small small"

    # the same runs as curves over the epochs
    browser.get(f"{mlflow_url}/#/experiments/{experiment}/runs?compareRunsMode=CHART")
    text_with(browser, "validation_loss", "train_loss", "rate 0.001", "rate 0.004")
    curves = "path.js-line"

    def drawn_curves(driver: WebDriver) -> bool:
        return len([each for each in driver.find_elements(By.CSS_SELECTOR, curves) if each.get_attribute("d")]) >= 3

    WebDriverWait(browser, SHOWN_S).until(drawn_curves)
