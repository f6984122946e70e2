"""What an evaluation measures of an archive beside its answers."""

from dataclasses import replace

from trainer.evaluation.evaluate import evaluate, milliseconds, predict
from trainer.training.run import Trained


def test_an_evaluation_knows_what_an_answer_takes_however_few_photos_there_are(trained: Trained) -> None:
    few = replace(trained.data.test, photos=trained.data.test.photos[:3])
    found = evaluate(trained.archive, few)
    assert found.predictions == predict(trained.archive, few.photos)
    assert found.latency_ms is not None
    assert 0.1 < found.latency_ms < 2000
    assert found.archive_bytes == trained.archive.stat().st_size
    assert found.costs() == {"test_latency_ms": found.latency_ms, "archive_mb": found.archive_bytes / 1e6}
    again = milliseconds(trained.archive, few)
    assert again is not None
    assert 0.1 < again < 2000
