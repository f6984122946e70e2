"""The population stability index, its threshold, and what raises an alert."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from serve.errors import SettingsError
from serve.monitoring import drift
from serve.monitoring.drift import RecentStatistics
from serve.monitoring.monitor_settings import Thresholds
from serve.settings import read
from serve.settings.common import AlertSettings

LIMITS = Thresholds()
QUIET = RecentStatistics(
    requests=1000,
    answers=1000,
    verdicts=1000,
    confidence_mean=0.6,
    mismatch_share=0.1,
    error_share=0.0,
    latency_p99_ms=100.0,
)
EMPTY = RecentStatistics(
    requests=0,
    answers=0,
    verdicts=0,
    confidence_mean=None,
    mismatch_share=None,
    error_share=None,
    latency_p99_ms=None,
)


def deciles(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    return [float(value) for value in np.quantile(values, np.linspace(0, 1, 11))]


def drawn(seed: int, number: int, shift: float = 0.0) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.random.default_rng(seed).normal(110, 25, number) + shift


def test_the_index_is_zero_for_the_same_shares_and_is_the_sum_that_defines_it() -> None:
    assert drift.psi([0.2, 0.8], [0.2, 0.8], (1e9, 1e9)) == pytest.approx(0, abs=1e-9)
    expected = (0.5 - 0.2) * math.log(0.5 / 0.2) + (0.5 - 0.8) * math.log(0.5 / 0.8)
    assert drift.psi([0.5, 0.5], [0.2, 0.8], (1e9, 1e9)) == pytest.approx(expected, rel=1e-6)


def test_an_empty_bin_gives_a_finite_index() -> None:
    index = drift.psi([0.0, 1.0], [0.5, 0.5], (200, 200))
    smooth = [(0.5 / 201, 200.5 / 201), (100.5 / 201, 100.5 / 201)]
    assert index == pytest.approx(sum((p - q) * math.log(p / q) for p, q in zip(*smooth, strict=True)))


def test_bins_lie_between_the_references_deciles_and_are_open_at_the_ends() -> None:
    edges = [float(number) for number in range(11)]
    now, before = drift.shares_by_decile(np.array([-9.0, 0.5, 1.0, 1.5, 99.0]), edges)
    assert before == pytest.approx([0.1] * 10)
    assert now == pytest.approx([0.6, 0.2, 0, 0, 0, 0, 0, 0, 0, 0.2])


@pytest.mark.parametrize(
    ("edges", "shares"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 9, 9, 9, 9], [0.1] * 6 + [0.4]),
        ([0] * 5 + [1, 2, 3, 4, 5, 6], [0.4] + [0.1] * 6),
        ([7] * 11, [1.0]),
    ],
)
def test_equal_deciles_make_one_bin(edges: Sequence[float], shares: list[float]) -> None:
    assert drift.shares_by_decile(np.array([1.0]), edges)[1] == pytest.approx(shares)


def test_values_like_the_references_fall_into_equal_bins_also_with_ties() -> None:
    values = np.minimum(np.random.default_rng(1).exponential(0.5, 100_000), 1.0)
    now, before = drift.shares_by_decile(values, deciles(values))
    assert now == pytest.approx(before, abs=1e-4)
    assert drift.psi(now, before, (len(values), len(values))) < 1e-4


@pytest.mark.parametrize("bins", [2, 5, 10, 31])
def test_the_threshold_of_small_samples_is_the_quantile_of_chi_square(bins: int) -> None:
    quantile = stats.chi2.ppf(0.999, bins - 1)
    assert drift.psi_threshold(bins, (20, 50), 0.2) == pytest.approx(quantile * (1 / 20 + 1 / 50))


def test_one_bin_has_the_least_threshold() -> None:
    assert drift.psi_threshold(1, (20, 50), 0.2) == 0.2


def test_half_the_brightness_is_noticed_and_so_are_other_counts() -> None:
    for seed in range(20):
        reference = {"brightness": deciles(drawn(seed, 300)), "counts": {"1": 0.3, "2": 0.7}, "photos": {}}
        drifts = drift.compare({"1": 120, "2": 80}, {"brightness": drawn(99 + seed, 200) / 2}, reference, LIMITS)
        assert [(index.name, index.alert) for index in drifts] == [("counts", True), ("brightness", True)]


def test_few_records_raise_no_alert_however_different_they_are() -> None:
    reference = {"brightness": deciles(drawn(1, 300))}
    (brightness,) = drift.compare({}, {"brightness": drawn(2, 199) / 2}, reference, LIMITS)
    assert brightness.psi is not None
    assert brightness.psi > 1
    assert not brightness.alert


def test_a_small_reference_raises_the_threshold() -> None:
    assert drift.psi_threshold(10, (1000, 1000), 0.2) == 0.2
    assert drift.psi_threshold(10, (1000, 50), 0.2) == pytest.approx(27.9 * (1 / 1000 + 1 / 50), rel=0.01)


def test_nothing_to_compare_is_no_drift() -> None:
    (brightness,) = drift.compare({}, {"brightness": np.empty(0)}, {"brightness": [1.0] * 11}, LIMITS)
    assert (brightness.psi, brightness.alert) == (None, False)
    assert drift.compare({"1": 3}, {"sharpness": np.ones(5)}, {}, LIMITS) == ()


def test_a_count_that_the_reference_never_saw_has_a_bin() -> None:
    assert drift.shares_by_name({"9": 5, "1": 5}, {"1": 1.0, "2": 0.0}) == ([0.5, 0.5], [1.0, 0.0])


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"mismatch_share": 0.26}, "mismatches"),
        ({"error_share": 0.051}, "errors"),
        ({"latency_p99_ms": 1001.0}, "latency"),
        ({"confidence_mean": 0.45}, "confidence"),
    ],
)
def test_alerts_name_what_passed_its_threshold(changed: dict[str, float], name: str) -> None:
    recent = replace(QUIET, **changed)  # type: ignore[arg-type]
    (alert,) = drift.active_alerts((), recent, 0.6, LIMITS)
    assert alert.name == name
    assert alert.value > alert.threshold
    few = replace(recent, requests=199, answers=199, verdicts=199)
    assert drift.active_alerts((), few, 0.6, LIMITS) == ()


def test_nothing_out_of_the_ordinary_raises_nothing() -> None:
    assert drift.active_alerts((), QUIET, 0.6, LIMITS) == ()
    assert drift.active_alerts((), EMPTY, None, LIMITS) == ()


def test_the_references_mean_confidence_comes_from_its_deciles() -> None:
    values = np.random.default_rng(0).beta(4, 3, 50_000)
    assert drift.reference_confidence({"confidence": deciles(values)}) == pytest.approx(values.mean(), abs=0.01)
    assert drift.reference_confidence({}) is None


def test_thresholds_come_from_the_environment_and_all_problems_are_named_at_once() -> None:
    environ = {"BINWATCH_ALERT_PSI": "0.1", "BINWATCH_ALERT_MIN_RECORDS": "50"}
    assert read(Thresholds, environ) == Thresholds(psi=0.1, min_records=50)
    assert read(Thresholds, {}) == LIMITS
    wrong = {"BINWATCH_ALERT_PSI": "much", "BINWATCH_ALERT_ERROR_SHARE": "-1", "BINWATCH_ALERT_MIN_RECORDS": "nan"}
    with pytest.raises(SettingsError) as caught:
        read(Thresholds, wrong)
    assert all(name in str(caught.value) for name in wrong)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "host/x", "http://"])
def test_a_webhook_is_http_or_https(url: str) -> None:
    with pytest.raises(SettingsError, match="BINWATCH_ALERT_WEBHOOK"):
        read(AlertSettings, {"BINWATCH_ALERT_WEBHOOK": url})
    assert read(AlertSettings, {"BINWATCH_ALERT_WEBHOOK": "https://host/x"}).alert_webhook == "https://host/x"
    assert read(AlertSettings, {}).alert_webhook is None
