"""What the benchmark of training takes for the same learning."""

import pytest

from serve.errors import TrainingError
from tests.benchmarks.bench_training import Losses, check_curve

PEER: Losses = [(1.70, 1.62), (1.20, 1.90), (0.40, 4.75)]


def test_the_validation_loss_of_a_network_that_memorises_is_noise() -> None:
    check_curve([(1.70, 1.65), (1.25, 2.60), (0.41, 4.31)], PEER)


def test_later_epochs_may_differ_more_than_the_first() -> None:
    check_curve([(1.85, 0.0), (1.42, 0.0), (0.58, 0.0)], PEER)
    with pytest.raises(TrainingError, match=r"epoch 1 .*1\.890 and 1\.700"):
        check_curve([(1.89, 0.0), *PEER[1:]], PEER)
    with pytest.raises(TrainingError, match=r"epoch 3 .*0\.620 and 0\.400"):
        check_curve([*PEER[:2], (0.62, 0.0)], PEER)


def test_a_loss_that_is_no_number_and_a_missing_epoch_are_refused() -> None:
    with pytest.raises(TrainingError):
        check_curve([(float("nan"), 0.0), *PEER[1:]], PEER)
    with pytest.raises(ValueError, match="zip"):
        check_curve(PEER[:2], PEER)
