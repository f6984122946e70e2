"""The gate and the trainer together: a model starved of training photos is refused, whatever the seed."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import rounds
from trainer.data import synthetic
from trainer.data.dataset import DataSpec
from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.gate import decide
from trainer.training.recipes import RECIPES
from trainer.training.run import run_evaluation, run_training


@pytest.fixture(scope="module")
def bins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.draw_dataset(tmp_path_factory.mktemp("bins"), 500, seed=5)


@pytest.mark.parametrize("seed", range(rounds(1, 10)))
def test_refuses_a_challenger_with_a_tenth_of_the_training_photos(bins: Path, tmp_path: Path, seed: int) -> None:
    recipe = replace(RECIPES["tiny"], seed=seed)

    def train(share: float) -> Evaluated:
        spec = DataSpec(bins, seed=seed, train_share=share)
        return run_evaluation(run_training(spec, recipe, tmp_path / str(share), None))

    champion, challenger = train(1.0), train(0.1)
    assert decide(champion, None).promote
    decision = decide(challenger, champion)
    print(f"seed {seed}: {decision.champion_accuracy:.1%} with all, {decision.challenger_accuracy:.1%} with a tenth")
    assert not decision.promote
