"""What is imported, and what is not: processes start in the time that their imports take."""

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.test_settings import CLASSES

ROOT = Path(__file__).parents[2]


def test_boto3_is_not_loaded_before_the_first_link_comes() -> None:
    code = "import serve.handler, sys; assert 'boto3' not in sys.modules and 'botocore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_read_without_torch_and_mlflow() -> None:
    modules = [cls.__module__ for cls, _ in CLASSES.values()]
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"torch", "mlflow", "boto3", "pandas"} & set(json.loads(output)) == set()


def test_unit_tests_need_neither_torch_nor_mlflow() -> None:
    modules = [f"tests.unit.{path.stem}" for path in (ROOT / "tests" / "unit").glob("test_*.py")]
    code = f"import json, sys, tests.conftest, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"torch", "mlflow"} & set(json.loads(output)) == set()
