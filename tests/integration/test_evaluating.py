"""The costs that an evaluation measures beside the answers."""

from dataclasses import replace

from trainer.evaluation.evaluate import evaluate, measure_latency, predict
from trainer.training.run import Trained


def test_an_evaluation_knows_what_an_answer_takes_however_few_photos_there_are(trained: Trained) -> None:
    few = replace(trained.data.test, photos=trained.data.test.photos[:3])
    evaluated = evaluate(trained.archive, few)
    assert evaluated.predictions == predict(trained.archive, few.photos)
    assert evaluated.latency_ms is not None
    assert 0.1 < evaluated.latency_ms < 2000
    assert evaluated.archive_bytes == trained.archive.stat().st_size
    assert evaluated.costs() == {
        "test_latency_ms": evaluated.latency_ms,
        "archive_mb": evaluated.archive_bytes / 1e6,
    }
    latency_ms = measure_latency(trained.archive, few)
    assert latency_ms is not None
    assert 0.1 < latency_ms < 2000
