import pytest

from tests.benchmarks.bench_swap import AT_REST, Swaps, Window, compare_windows
from tests.integration.load import Answer


def measured(swap_s: float = 0.012, status: int = 200, memory: tuple[int, int] = (100, 109)) -> Swaps:
    """A rest from 0 to 10 s with a latency of 10 ms, then a promotion."""
    rest = [Answer(number / 10, 0.01, 200, "", b"") for number in range(100)]
    swap = [Answer(10 + number / 10, swap_s, status, "", b"") for number in range(100)]
    windows = {"rests": [Window(0, 10)], "swaps": [Window(10, 20)]}
    return Swaps(versions=("1", "2"), capacity=25, answers=[*rest, *swap], memory=memory, **windows)


def test_the_ratio_is_that_of_the_99th_percentiles() -> None:
    result = compare_windows(measured())
    assert (result.ratio, result.peers, result.holds) == (1.2, {AT_REST: 1.2}, True)
    assert result.runs["all rests, all swaps: p99 ms"] == [10, 12]
    assert result.runs["requests, failed"] == [200, 0]
    assert result.runs["requests/s, capacity"] == [10, 25]


@pytest.mark.parametrize(
    "worse", [measured(swap_s=0.0121), measured(status=503), measured(memory=(100, 111))], ids=["p99", "503", "memory"]
)
def test_it_does_not_hold_where_clients_or_memory_notice(worse: Swaps) -> None:
    result = compare_windows(worse)
    assert not result.holds
    assert list(result.checks.values()).count(False) == 1
