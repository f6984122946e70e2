"""What the demo trains."""

from dataclasses import replace
from pathlib import Path

from trainer.data.dataset import DataSpec
from trainer.pipeline.programs import plans
from trainer.training.recipes import RECIPES


def test_the_demo_trains_a_little_then_on_little_then_in_full() -> None:
    spec, recipe = DataSpec(Path("photos"), seed=3), RECIPES["tiny"]
    first, starved, full = plans(spec, recipe)
    assert first == (spec, replace(recipe, epochs=recipe.epochs // 4))
    assert starved == (replace(spec, train_share=0.1), recipe)
    assert full == (spec, recipe)


def test_a_demo_of_one_epoch_trains_one() -> None:
    recipe = replace(RECIPES["tiny"], epochs=1)
    assert [plan.epochs for _, plan in plans(DataSpec(Path("photos")), recipe)] == [1, 1, 1]
