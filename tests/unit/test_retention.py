"""What is pruned: never what serves or may serve."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import SettingsError
from serve.settings import read
from trainer.pipeline import disposal
from trainer.pipeline.disposal import Kind
from trainer.pipeline.retention import DAY_S, Candidate, choose, needed_runs, run_candidates
from trainer.pipeline.trainer_settings import RetentionPolicy
from trainer.registry.entities import CHAMPION, PREVIOUS, RunInfo, Status, Version

NOW = 1_700_000_000.0
POLICY = RetentionPolicy(versions=2, days=30, capture_days=7, cache_days=3)


def run(run_id: str, age_days: float = 0, status: str = "FINISHED", parent: str = "", **tags: str) -> RunInfo:
    at_s = NOW - age_days * DAY_S
    tags = {key.replace("__", "."): value for key, value in tags.items()}
    return RunInfo(id=run_id, name="train", status=status, parent=parent, started_s=at_s, ended_s=at_s, tags=tags)


def version(number: int, status: str = "refused") -> Version:
    return Version(number=str(number), run_id=f"run{number}", status=status, reason="", compared_with="")


def test_the_newest_versions_keep_their_archives_and_the_others_lose_them() -> None:
    versions = [version(number) for number in (1, 2, 3, 4)]
    candidates = run_candidates(versions, {}, [run(f"run{number}") for number in (1, 2, 3, 4)])
    removals = choose(candidates, POLICY, NOW)
    assert [(removal.candidate.kind, removal.candidate.name) for removal in removals] == [
        (Kind.ARCHIVE, "run1"),
        (Kind.ARCHIVE, "run2"),
    ]
    assert removals[0].reason == "3 versions are newer, 2 are kept"


def test_old_artifacts_go_with_their_age_as_the_reason() -> None:
    (archive, artifacts) = choose(run_candidates([], {}, [run("old", 31), run("new", 29)]), POLICY, NOW)
    assert (archive.candidate.kind, artifacts.candidate.kind) == (Kind.ARCHIVE, Kind.ARTIFACTS)
    assert {archive.candidate.name, artifacts.candidate.name} == {"old"}
    assert artifacts.reason == "it is 31.0 days old, 30 are kept"


def test_each_kind_has_its_own_age() -> None:
    kinds = (Kind.CAPTURE, Kind.CACHE, Kind.ARCHIVE)
    recent = [Candidate(kind=kind, name=kind, at_s=NOW - 5 * DAY_S) for kind in kinds]
    assert [removal.candidate.kind for removal in choose(recent, POLICY, NOW)] == [Kind.CACHE]
    for_ever = RetentionPolicy(versions=0, days=0, capture_days=0, cache_days=0)
    assert choose([Candidate(kind=kind, name=kind, at_s=0) for kind in kinds], for_ever, NOW) == []


def test_champion_previous_challengers_and_unfinished_executions_are_needed() -> None:
    versions = [version(1, "promoted"), version(2, "promoted"), version(3, Status.APPROVED), version(4, ""), version(5)]
    runs = [
        *(run(f"run{number}", 400) for number in range(1, 6)),
        run("execution", 400, "RUNNING"),
        run("step", 400, parent="execution", cached_from="cached"),
        run("cached", 400),
        run("other", 400),
        run("waits", 400, "KILLED", binwatch__token="t"),
        run("waiting-step", 400, parent="waits"),
    ]
    reasons = needed_runs(versions, {CHAMPION: "2", PREVIOUS: "1"}, runs, "t")
    assert reasons == {
        "run1": "it is previous",
        "run2": "it is champion",
        "run3": "it is a challenger",
        "run4": "it is a challenger",
        "execution": "it is unfinished",
        "step": "it is unfinished",
        "cached": "an unfinished execution uses it",
        "waits": "it is unfinished",
        "waiting-step": "it is unfinished",
    }
    removals = choose(run_candidates(versions, {CHAMPION: "2", PREVIOUS: "1"}, runs, "t"), POLICY, NOW)
    assert {removal.candidate.name for removal in removals} == {"run5", "other"}


STATUSES = st.sampled_from(["", "approved", "promoted", "refused", "rejected", "rolled-back"])


@given(
    statuses=st.lists(STATUSES, min_size=1, max_size=12),
    ages=st.lists(st.floats(0, 4000), min_size=12, max_size=12),
    running=st.lists(st.booleans(), min_size=12, max_size=12),
    shared=st.booleans(),
    policy=st.builds(RetentionPolicy, versions=st.integers(0, 15), days=st.just(0) | st.floats(1, 400)),
    data=st.data(),
)
def test_no_policy_touches_what_serves_or_may_serve(
    statuses: list[str],
    ages: list[float],
    running: list[bool],
    shared: bool,
    policy: RetentionPolicy,
    data: st.DataObject,
) -> None:
    numbers = range(1, len(statuses) + 1)
    versions = [
        Version(number=str(n), run_id=f"run{(n + 1) // 2 if shared else n}", status=status, reason="", compared_with="")
        for n, status in zip(numbers, statuses, strict=True)
    ]
    runs = [run(f"run{n}", ages[n - 1], "RUNNING" if running[n - 1] else "FINISHED") for n in numbers]
    aliases = {
        name: str(data.draw(st.sampled_from(numbers))) for name in (CHAMPION, PREVIOUS) if data.draw(st.booleans())
    }
    removed = {removal.candidate.name for removal in choose(run_candidates(versions, aliases, runs), policy, NOW)}
    needed = {version.run_id for version in versions if version.number in aliases.values()}
    needed |= {version.run_id for version in versions if version.status in ("", "approved")}
    needed |= {run.id for run in runs if run.status == "RUNNING"}
    assert not removed & needed
    if policy.versions:  # and the archives beyond its number are removed
        newest = {version.run_id for version in versions[-policy.versions :]}
        old = {version.run_id for version in versions[: -policy.versions]} - newest
        assert old - needed <= removed


def test_a_pruned_run_is_no_candidate_again() -> None:
    candidates = run_candidates([], {}, [run("a", 99, binwatch__pruned="archive")])
    assert [candidate.kind for candidate in candidates] == [Kind.ARTIFACTS]
    assert run_candidates([], {}, [run("a", 99, binwatch__pruned="archive, artifacts")]) == []


def test_hours_of_capture_are_removed_with_their_folders(tmp_path: Path) -> None:
    for name in (
        "bin-counter/AllTraffic/2023/11/14/21/a.jsonl",
        "bin-counter/AllTraffic/2023/11/14/22/b.jsonl",
        "ground-truth/2023/11/14/21/c.jsonl",
        "ground-truth/readme.jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345\n")
    capture = disposal.Capture(str(tmp_path))
    hours = dict(capture.hours())
    first = "bin-counter/AllTraffic/2023/11/14/21"
    assert hours == {
        first: NOW - 800,
        "bin-counter/AllTraffic/2023/11/14/22": NOW + 2800,
        "ground-truth/2023/11/14/21": NOW - 800,
    }
    assert capture.remove(first, dry_run=True) == 6
    assert (tmp_path / first).is_dir()
    assert capture.remove(first, dry_run=False) == 6
    assert sorted(path.name for path in (tmp_path / first).parent.iterdir()) == ["22"]
    assert capture.remove("ground-truth/2023/11/14/21", dry_run=False) == 6
    assert sorted(path.name for path in (tmp_path / "ground-truth").iterdir()) == ["readme.jsonl"]


def test_caches_and_checkpoints_age_from_their_last_use(tmp_path: Path) -> None:
    cache = tmp_path / "prepared" / "abc" / "cache" / "64px-1.npy"
    checkpoint = tmp_path / "checkpoints" / "def" / "checkpoint.pt"
    for path in (cache, checkpoint):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1234")
    used_s = time.time() - 5 * DAY_S
    os.utime(cache, (used_s, used_s - 100 * DAY_S))
    last_use_s = {kind: at_s for kind, _, at_s in disposal.reproducible_files(tmp_path)}
    assert last_use_s.keys() == {"cache", "checkpoint"}
    assert last_use_s[Kind.CACHE] == pytest.approx(used_s)
    (tmp_path / "underway.json").write_text("{}")
    assert [kind for kind, _, _ in disposal.reproducible_files(tmp_path)] == ["cache"]
    assert (disposal.remove_file(checkpoint, dry_run=True), checkpoint.exists()) == (4, True)
    assert (disposal.remove_file(checkpoint, dry_run=False), checkpoint.parent.exists()) == (4, False)
    assert disposal.remove_file(checkpoint, dry_run=False) == 0


def test_policies_come_from_the_environment_with_all_problems_at_once() -> None:
    assert read(RetentionPolicy, {}) == RetentionPolicy()
    environ = {"BINWATCH_KEEP_VERSIONS": "3", "BINWATCH_KEEP_DAYS": "0"}
    assert read(RetentionPolicy, environ) == RetentionPolicy(versions=3, days=0)
    with pytest.raises(SettingsError, match=r"BINWATCH_KEEP_VERSIONS is '-1'.*BINWATCH_KEEP_CAPTURE_DAYS is '0.5'"):
        read(RetentionPolicy, {"BINWATCH_KEEP_VERSIONS": "-1", "BINWATCH_KEEP_CAPTURE_DAYS": "0.5"})
