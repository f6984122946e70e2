"""What makes a training or an evaluation run again: the code that decides it, in every folder."""

import shutil
from pathlib import Path

import pytest

from tests.imports import closure
from trainer.pipeline.code_version import EVALUATION, ROOT, TRAINING, evaluation_code, files, training_code


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, free to be changed."""
    for folder in ("serve", "trainer"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "photos"))
    return tmp_path


def hashes_after(tree: Path, name: str) -> tuple[str, str]:
    """The hashes of training and evaluation once a comment was added to a file."""
    with (tree / name).open("a") as file:
        file.write("# a comment\n")
    training_code.cache_clear()
    evaluation_code.cache_clear()
    return training_code(tree), evaluation_code(tree)


def test_the_hashes_are_those_of_a_copy(tree: Path) -> None:
    assert (training_code(tree), evaluation_code(tree)) == (training_code(ROOT), evaluation_code(ROOT))


@pytest.mark.parametrize(
    "name", ["trainer/evaluation/gate.py", "trainer/pipeline/watcher.py", "trainer/aws/requests.py"]
)
def test_code_that_decides_neither_training_nor_evaluation_repeats_nothing(tree: Path, name: str) -> None:
    assert hashes_after(tree, name) == (training_code(ROOT), evaluation_code(ROOT))


@pytest.mark.parametrize("name", ["trainer/training/recipes.py", "trainer/training/networks.py"])
def test_code_that_decides_a_training_repeats_it(tree: Path, name: str) -> None:
    training, evaluation = hashes_after(tree, name)
    assert training != training_code(ROOT)
    assert evaluation == evaluation_code(ROOT)


@pytest.mark.parametrize("name", ["serve/photo.py", "trainer/data/split.py", "trainer/evaluation/calibration.py"])
def test_code_that_both_rest_on_repeats_both(tree: Path, name: str) -> None:
    training, evaluation = hashes_after(tree, name)
    assert training != training_code(ROOT)
    assert evaluation != evaluation_code(ROOT)


NAMES_ONLY = {ROOT / "trainer" / "artifacts.py", ROOT / "serve" / "settings" / "common.py"}
"""Names of files and of places, which change no model."""


def test_everything_that_training_and_export_import_is_hashed() -> None:
    needed = closure("trainer/training/train.py", "trainer/training/export.py", root=ROOT)
    assert needed - NAMES_ONLY <= set(files(ROOT, TRAINING))


def test_everything_that_an_evaluation_imports_is_hashed() -> None:
    assert closure("trainer/evaluation/evaluate.py", root=ROOT) - NAMES_ONLY <= set(files(ROOT, EVALUATION))
