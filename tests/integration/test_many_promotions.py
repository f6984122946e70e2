"""Repeated promotions under constant load, as `python scripts/bench.py swap` measures them: two of them here, twenty in
`make proof`. The latency is the benchmark's: while other tests run, it says nothing."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.bench_swap import MEMORY_GROWTH, compare_windows, measure_swaps
from tests.conftest import rounds
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

pytestmark = pytest.mark.alone


def test_promotions_under_constant_load(registry: Registry, trained: Trained, tmp_path: Path) -> None:
    times = rounds(2, 20)
    measured = measure_swaps(registry, trained, tmp_path, times, rest_s=rounds(4, 8))
    print(compare_windows(measured).runs)
    assert {(answer.status, answer.failure) for answer in measured.answers} == {(200, "")}
    assert {json.loads(answer.body)["model_version"] for answer in measured.answers} == set(measured.versions)
    assert len(measured.versions) == times + 1
    assert measured.memory[-1] < MEMORY_GROWTH * measured.memory[0]
