"""Target tracking on recorded series: what is decided, and why."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from serve.errors import ServerError, SettingsError
from serve.rollout.autoscale import Autoscaler, Change, Decision, Sample, ScalingPolicy, busy_share, decide
from serve.rollout.torchserve_client import LoadedVersion, Work, parse_work
from serve.settings import read

POLICY = ScalingPolicy()
STEP_S = 3.0


def series(
    load: Callable[[float], float],
    duration_s: float,
    workers: int = 1,
    version: str = "1",
    start_s: float = 0.0,
    batch: int = 1,
) -> list[Sample]:
    """Samples every 3 s of a server whose clients ask for ``load(second)`` workers' time; 20 ms a batch."""
    samples, busy_s = [], 0.0
    for step in range(int(duration_s / STEP_S) + 1):
        batches = busy_s / 0.02
        samples.append(
            Sample(start_s + step * STEP_S, version, workers, Work(batches * batch, batches, busy_s * batch))
        )
        busy_s += min(load(step * STEP_S), workers) * STEP_S
    return samples


def decided(samples: list[Sample], last: Change | None = None, policy: ScalingPolicy = POLICY) -> Decision:
    return decide(samples, samples[-1].at_s, last, policy)


def test_a_steady_load_below_the_target_changes_nothing() -> None:
    decision = decided(series(lambda _: 0.3, 60))
    assert decision.workers == 1
    assert decision.busy == pytest.approx(0.3)


def test_a_saturated_worker_gets_a_second_one_and_two_saturated_ones_a_third() -> None:
    assert decided(series(lambda _: 9, 30)).workers == 2
    assert decided(series(lambda _: 9, 30, workers=2)).workers == 3
    assert decided(series(lambda _: 9, 30, workers=3)).workers == 3


def test_scales_out_to_the_ceiling_of_what_the_target_needs() -> None:
    assert decided(series(lambda _: 0.71, 30)).workers == 2
    assert decided(series(lambda _: 0.7, 30)).workers == 1
    assert decided(series(lambda _: 4, 30, workers=4), policy=ScalingPolicy(most=9)).workers == 6


def test_a_batch_of_eight_requests_keeps_its_worker_busy_once() -> None:
    assert decided(series(lambda _: 0.3, 30, batch=8)).busy == pytest.approx(0.3)


@dataclass
class Simulated:
    """A server whose workers are as busy as a load makes them, in time that the test moves on."""

    load: Callable[[float], float]
    workers: int = 1
    now_s: float = 0.0
    busy_s: float = 0.0
    versions: tuple[str, ...] = ("1",)
    resized: list[tuple[float, int]] = field(default_factory=list)
    actual: int = 1
    broken: bool = False

    def loaded(self) -> list[LoadedVersion]:
        return [
            LoadedVersion(version, version == "1", self.actual, self.actual, 0, "x.mar") for version in self.versions
        ]

    def work(self) -> Work:
        return Work(self.busy_s / 0.02, self.busy_s / 0.02, self.busy_s)

    def resize(self, version: str, workers: int) -> None:
        assert version == "1"
        if self.broken:
            raise ServerError("no")
        self.actual = workers
        self.resized.append((self.now_s, workers))

    def advance(self, seconds: float) -> None:
        self.busy_s += min(self.load(self.now_s), self.actual) * seconds
        self.now_s += seconds


def run(server: Simulated, duration_s: float, dry_run: bool = False, policy: ScalingPolicy = POLICY) -> list[Decision]:
    scaler = Autoscaler(server, server, server, policy, dry_run, clock=lambda: server.now_s)
    decisions = []
    for _ in range(int(duration_s / STEP_S)):
        decisions.append(scaler.step())
        server.advance(STEP_S)
    return decisions


def test_a_ramp_up_and_down_gets_one_two_three_and_goes_back_one_by_one() -> None:
    server = Simulated(lambda second: 2.6 - abs(second - 300) / 300 * 2.6)
    run(server, 700)
    assert [workers for _, workers in server.resized] == [2, 3, 2, 1]
    times = [at_s for at_s, _ in server.resized]
    assert all(later - earlier >= 30 for earlier, later in pairwise(times))


def test_a_burst_is_answered_after_one_window_and_another_one_after_the_cool_down() -> None:
    server = Simulated(lambda second: 9 if second >= 60 else 0.1)
    run(server, 150)
    (first, two), (second, three) = server.resized
    assert (two, three) == (2, 3)
    assert 60 + 0.7 * 30 <= first <= 60 + 30 + STEP_S
    assert first + 30 <= second <= first + 30 + STEP_S


def test_a_burst_shorter_than_the_target_share_of_the_window_changes_nothing() -> None:
    server = Simulated(lambda second: 1 if second % 60 < 18 else 0)
    run(server, 600)
    assert server.resized == []


@pytest.mark.parametrize("load", [0.63, 0.69, 0.71, 1.3, 1.39, 1.41, 2.0])
def test_a_constant_load_is_never_scaled_to_and_fro(load: float) -> None:
    for start in (1, 2, 3):
        server = Simulated(lambda _: load, actual=start)
        run(server, 900)
        ways = [later > earlier for earlier, later in pairwise([start, *(count for _, count in server.resized)])]
        assert len(set(ways)) <= 1


def test_a_load_that_flaps_faster_than_the_window_is_tracked_by_its_mean() -> None:
    server = Simulated(lambda second: 2 if int(second / 6) % 2 else 0, actual=2)
    run(server, 600)
    assert len(server.resized) <= 1
    assert server.actual >= 2


def test_without_a_whole_window_of_measurements_nothing_changes() -> None:
    assert decided(series(lambda _: 9, 27)).workers == 1
    assert "27 s of 30 s" in decided(series(lambda _: 9, 27)).reason
    assert decide([], 0, None, POLICY) == Decision(0, "there is no fresh measurement")


def test_an_old_measurement_decides_nothing() -> None:
    samples = series(lambda _: 9, 60)
    assert decide(samples, samples[-1].at_s + 31, None, POLICY).workers == 1


def test_a_gap_in_the_measurements_is_bridged_and_a_long_one_is_not() -> None:
    samples = series(lambda _: 9, 90)
    assert decided([*samples[:20], *samples[26:]]).workers == 2
    assert decided([samples[0], samples[-1]]).workers == 1


def test_counters_that_started_again_are_not_compared_with_those_before() -> None:
    before = series(lambda _: 0.1, 60)
    after = series(lambda _: 9, 15, start_s=63)
    assert "15 s of 30 s" in decided(before + after).reason
    assert decided(before + series(lambda _: 9, 30, start_s=63)).workers == 2


def test_another_version_or_another_number_of_workers_starts_the_window_again() -> None:
    samples = series(lambda _: 9, 60)
    for changed in (replace(samples[-1], version="2"), replace(samples[-1], workers=2)):
        later = replace(changed, at_s=samples[-1].at_s + 3)
        assert decided([*samples, later]).workers == later.workers


def test_a_number_of_workers_set_by_hand_is_brought_back_into_the_bounds() -> None:
    assert decided(series(lambda _: 9, 3, workers=1), policy=ScalingPolicy(least=2)).workers == 2
    assert decided(series(lambda _: 9, 30, workers=5)).workers == 4
    assert decided(series(lambda _: 1.9, 30, workers=3)).workers == 3


def test_cooling_down_after_scaling_in_does_not_hold_up_scaling_out() -> None:
    busy, idle = series(lambda _: 9, 30), series(lambda _: 0, 30, workers=2)
    slow = ScalingPolicy(out_cooldown_s=60, in_cooldown_s=60)
    assert decided(busy, Change(0, out=False), slow).workers == 2
    assert decided(busy, Change(0, out=True), slow).workers == 1
    assert decided(idle, Change(0, out=False), slow).workers == 2
    assert decided(idle, Change(0, out=True), slow).workers == 2
    assert decided(idle, Change(-31, out=False), slow).workers == 1


def test_a_second_version_is_left_to_the_promotion() -> None:
    server = Simulated(lambda _: 9, versions=("1", "2"))
    assert "2 versions" in run(server, 90)[-1].reason
    assert server.resized == []


def test_versions_loaded_later_start_with_as_many_workers() -> None:
    server = Simulated(lambda _: 9)
    run(server, 40)
    assert server.workers == server.actual == 2


def test_a_dry_run_says_what_it_would_do_and_does_nothing() -> None:
    server = Simulated(lambda _: 9)
    assert run(server, 120, dry_run=True)[-1].workers == 2
    assert (server.resized, server.workers) == ([], 1)


def test_a_change_that_failed_is_tried_again_after_the_cool_down() -> None:
    server = Simulated(lambda _: 9, broken=True)
    scaler = Autoscaler(server, server, server, POLICY, clock=lambda: server.now_s)
    failed = []
    for _ in range(40):
        try:
            scaler.step()
        except ServerError:
            failed.append(server.now_s)
        server.advance(STEP_S)
    assert len(failed) > 1
    assert all(later - earlier >= 30 for earlier, later in pairwise(failed))


def test_two_samples_without_an_answer_between_them_are_idle() -> None:
    one = Sample(0, "1", 2, Work(5, 5, 1.0))
    assert busy_share(one, replace(one, at_s=30)) == 0


def test_never_more_workers_than_cores_unless_told() -> None:
    assert read(ScalingPolicy, {}).fitted_to(cores=2) == ScalingPolicy(most=2)
    assert read(ScalingPolicy, {}).fitted_to(cores=16) == ScalingPolicy(most=3)
    assert read(ScalingPolicy, {"BINWATCH_MAX_WORKERS": "4"}).fitted_to(cores=2).most == 4
    assert read(ScalingPolicy, {"BINWATCH_MIN_WORKERS": "3"}).fitted_to(cores=2).most == 3


def test_all_problems_of_the_settings_are_named_at_once() -> None:
    environ = {"BINWATCH_MIN_WORKERS": "two", "BINWATCH_TARGET_UTILISATION": "70", "BINWATCH_SCALE_IN_COOLDOWN_S": "-1"}
    with pytest.raises(SettingsError) as caught:
        read(ScalingPolicy, environ)
    assert all(name in str(caught.value) for name in environ)
    with pytest.raises(SettingsError, match="BINWATCH_MAX_WORKERS is '2'; give BINWATCH_MIN_WORKERS, 3, or more"):
        read(ScalingPolicy, {"BINWATCH_MIN_WORKERS": "3", "BINWATCH_MAX_WORKERS": "2"})


PAGE = """# TYPE PredictionTime histogram
PredictionTime_bucket{ModelName="bin-counter",Level="Model",Hostname="a",le="+Inf",} 9.0
PredictionTime_count{ModelName="bin-counter",Level="Model",Hostname="a",} 9.0
PredictionTime_count{ModelName="another",Level="Model",Hostname="a",} 7.0
# TYPE ts_queue_latency_microseconds histogram
ts_queue_latency_microseconds_sum{model_name="bin-counter",model_version="default",hostname="a",} 1.5E6
# TYPE ts_inference_latency_microseconds histogram
ts_inference_latency_microseconds_count{model_name="bin-counter",model_version="default",hostname="a",} 10.0
ts_inference_latency_microseconds_count{model_name="bin-counter",model_version="1",hostname="a",} 2.0
ts_inference_latency_microseconds_sum{model_name="bin-counter",model_version="default",hostname="a",} 3.0E6
ts_inference_latency_microseconds_sum{model_name="bin-counter",model_version="1",hostname="a",} 1.0E6
"""


def test_reads_what_torchserve_counts_over_all_versions_of_our_model() -> None:
    assert parse_work(PAGE) == Work(answered=12, batches=9, held_s=2.5)
    only_types = "".join(line + "\n" for line in PAGE.splitlines() if line.startswith("#"))
    assert parse_work(only_types) == Work(0, 0, 0)


def test_a_server_that_counts_nothing_is_told_from_one_that_did_nothing() -> None:
    with pytest.raises(ServerError, match="metrics_mode=prometheus"):
        parse_work("# TYPE Requests2XX counter\n")


def test_the_policy_is_the_reports() -> None:
    assert (POLICY.least, POLICY.most, POLICY.target) == (1, 3, 0.7)
    assert (POLICY.window_s, POLICY.out_cooldown_s, POLICY.in_cooldown_s) == (30, 30, 30)


def test_torchserve_counts_what_the_autoscaler_reads() -> None:
    text = (Path(__file__).parents[2] / "serve" / "torchserve" / "metrics.yaml").read_text()
    histograms = text.split("histogram:")[1:]
    assert "ts_inference_latency_microseconds" in histograms[0]
    assert "ts_queue_latency_microseconds" in histograms[0]
    assert "PredictionTime" in histograms[1]
