"""When the watcher starts an execution: the decision, the drift alerts, and the new photos."""

import json
import os
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import DataError, SettingsError
from serve.settings import read
from trainer.data.dataset import DataSpec
from trainer.pipeline.new_photos import KnownPhotos, NewPhotos
from trainer.pipeline.triggers import (
    FIRST_WAIT_S,
    Limits,
    TriggerInputs,
    WatcherState,
    after_execution,
    after_poll,
    decide,
    read_drift,
    read_state,
    write_state,
)

NOW = 1_700_000_000.0
SERVING = TriggerInputs(has_champion=True, new_photos=0, known_photos=1000, drift=())
DRIFTING = replace(SERVING, drift=("drift of confidence",))
LIMITS = Limits(new_photos=200, new_share=0.1, cooldown_s=3600)


def test_an_execution_is_due_at_once_where_there_is_no_champion() -> None:
    assert decide(TriggerInputs(has_champion=False), WatcherState(), LIMITS, NOW).reasons == ("there is no champion",)
    assert decide(TriggerInputs(has_champion=False), WatcherState(ended_s=NOW - 1), LIMITS, NOW).start


@pytest.mark.parametrize(
    ("new", "known", "starts"), [(199, 1000, False), (200, 1000, True), (299, 3000, False), (300, 3000, True)]
)
def test_enough_new_photos_are_a_number_and_a_share(new: int, known: int, starts: bool) -> None:
    decision = decide(replace(SERVING, new_photos=new, known_photos=known), WatcherState(), LIMITS, NOW)
    assert decision.start is starts
    assert (f"{new} new labelled photos" in decision.reasons[0]) is starts


def test_a_threshold_of_zero_is_always_reached_but_not_both() -> None:
    one = replace(SERVING, new_photos=1)
    assert decide(one, WatcherState(), Limits(new_photos=1, new_share=0), NOW).start
    assert not decide(one, WatcherState(), Limits(new_photos=0, new_share=0.1), NOW).start
    assert decide(replace(one, new_photos=100), WatcherState(), Limits(new_photos=0, new_share=0.1), NOW).start
    assert not decide(replace(one, new_photos=10**6), WatcherState(), Limits(new_photos=0, new_share=0), NOW).start


def test_drift_starts_one_execution_an_episode() -> None:
    state = WatcherState()
    started = []
    for minute, drift in enumerate([(), ("drift of counts",), ("drift of counts",), (), ("drift of counts",)]):
        inputs, now_s = replace(SERVING, drift=drift), NOW + 7200 * minute
        state = after_poll(state, inputs)
        if decide(inputs, state, LIMITS, now_s).start:
            started.append(minute)
            state = after_execution(state, inputs, decided=True, promoted=False, now_s=now_s)
    assert started == [1, 4]


def test_without_a_fresh_report_an_episode_goes_on() -> None:
    answered = after_execution(WatcherState(), DRIFTING, decided=True, promoted=False, now_s=NOW)
    assert after_poll(answered, replace(SERVING, drift=None)) == answered
    assert not after_poll(answered, SERVING).drift_answered


def test_drift_starts_nothing_where_that_is_switched_off() -> None:
    assert decide(DRIFTING, WatcherState(), LIMITS, NOW).start
    assert not decide(DRIFTING, WatcherState(), Limits(drift=False), NOW).start


def test_flapping_drift_waits_for_the_cooldown() -> None:
    state = after_poll(after_execution(WatcherState(), DRIFTING, decided=True, promoted=True, now_s=NOW), SERVING)
    soon = decide(DRIFTING, state, LIMITS, NOW + 3599)
    assert not soon.start
    assert "3600 s" in soon.reasons[-1]
    assert decide(DRIFTING, state, LIMITS, NOW + 3600).start


def test_the_wait_doubles_after_each_failure_and_drift_stays_unanswered() -> None:
    state, waits = WatcherState(), []
    for _ in range(4):
        state = after_execution(state, DRIFTING, decided=False, promoted=False, now_s=NOW)
        waits.append(next(s for s in range(0, 10_000, 10) if decide(DRIFTING, state, LIMITS, NOW + s).start))
    assert waits == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert not state.drift_answered
    assert after_execution(state, DRIFTING, decided=True, promoted=False, now_s=NOW).failures == 0


def test_a_first_challenger_that_is_refused_counts_as_a_failure() -> None:
    nothing = TriggerInputs(has_champion=False)
    refused = after_execution(WatcherState(), nothing, decided=True, promoted=False, now_s=NOW)
    assert refused.failures == 1
    assert not decide(nothing, refused, LIMITS, NOW + FIRST_WAIT_S - 1).start
    assert after_execution(refused, nothing, decided=True, promoted=True, now_s=NOW).failures == 0


@given(
    inputs=st.builds(
        TriggerInputs,
        has_champion=st.booleans(),
        new_photos=st.integers(0, 10**6),
        known_photos=st.integers(0, 10**6),
        drift=st.sampled_from([None, (), ("drift of counts",)]),
    ),
    state=st.builds(
        WatcherState, ended_s=st.floats(0, 2 * NOW), failures=st.integers(0, 2000), drift_answered=st.booleans()
    ),
)
def test_it_is_never_stuck_and_always_says_why(inputs: TriggerInputs, state: WatcherState) -> None:
    decision = decide(inputs, state, LIMITS, NOW)
    assert decision.reasons
    if not inputs.has_champion:  # whatever happened before, and whatever the clock was: ten minutes later it starts
        assert decide(inputs, replace(state, ended_s=min(state.ended_s, NOW)), LIMITS, NOW + 600).start


def test_reads_the_drift_of_a_fresh_report_only() -> None:
    assert read_drift(b"", NOW) is None
    alerts = [{"name": "drift of counts"}, {"name": "latency"}]
    made_at = datetime.fromtimestamp(NOW, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    report = json.dumps({"made_at": made_at, "alerts": alerts}).encode()
    assert read_drift(report, NOW + 60) == ("drift of counts",)
    assert read_drift(report, NOW + 901) is None
    assert read_drift(b'{"made_at": "yester', NOW) is None


def test_the_state_outlives_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    state = WatcherState(NOW, 3, True, NOW)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    (tmp_path / "watch.json").write_text("{")
    assert read_state(tmp_path) == WatcherState()


def test_settings_come_from_the_environment_with_all_problems_at_once() -> None:
    assert read(Limits, {}) == Limits()
    environ = {"BINWATCH_NEW_PHOTOS": "5", "BINWATCH_NEW_SHARE": "0", "BINWATCH_RETRAIN_ON_DRIFT": "0"}
    assert read(Limits, environ) == Limits(new_photos=5, new_share=0.0, drift=False)
    with pytest.raises(SettingsError, match=r"BINWATCH_NEW_PHOTOS is 'many'.*BINWATCH_COOLDOWN_S is '-1'"):
        read(Limits, {"BINWATCH_NEW_PHOTOS": "many", "BINWATCH_COOLDOWN_S": "-1"})


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> Path:
    """Twenty of the drawn bins, copied a while ago."""
    out = tmp_path / "source"
    for folder in ("bin-images", "metadata"):
        (out / folder).mkdir(parents=True)
        for path in sorted((drawn / folder).iterdir())[:20]:
            shutil.copy(path, out / folder)
    return out


def add(source: Path, photo_id: str, quantity: object = 3) -> None:
    shutil.copy(next((source / "bin-images").iterdir()), source / "bin-images" / f"{photo_id}.jpg")
    (source / "metadata" / f"{photo_id}.json").write_text(json.dumps({"EXPECTED_QUANTITY": quantity}))


def test_counts_labelled_photos_of_the_counts_alone(source: Path) -> None:
    new_photos = NewPhotos(DataSpec(source), settled_s=0)
    known_ids = new_photos.poll(frozenset()).ids
    assert len(known_ids) == 20
    for photo_id, quantity in {"a": 3, "b": 17, "c": None, "d": 5}.items():
        add(source, photo_id, quantity)
    shutil.copy(source / "bin-images" / "a.jpg", source / "bin-images" / "e.jpg")  # no record
    (source / "metadata" / "f.json").write_text('{"EXPECTED_QUANTITY": 2}')  # no photo
    assert new_photos.poll(known_ids).ids - known_ids == {"a", "d"}


def test_photos_that_are_still_being_copied_do_not_count_yet(source: Path) -> None:
    new_photos = NewPhotos(DataSpec(source), settled_s=0.2)
    deadline = time.monotonic() + 20
    while new_photos.poll(frozenset()).settling:
        assert time.monotonic() < deadline
    known_ids = new_photos.poll(frozenset()).ids
    add(source, "late")
    os.utime(source / "bin-images" / "late.jpg", (1, 1))  # as a copy that keeps the times
    photos = new_photos.poll(known_ids)
    assert (photos.ids - known_ids, photos.settling) == (frozenset(), 1)
    while not new_photos.poll(known_ids).ids - known_ids:
        assert time.monotonic() < deadline
    assert new_photos.poll(known_ids).ids - known_ids == {"late"}


def test_a_poll_without_news_lists_nothing(source: Path) -> None:
    long_ago = time.time() - 3600
    for folder in ("bin-images", "metadata"):
        os.utime(source / folder, (long_ago, long_ago))
    new_photos = NewPhotos(DataSpec(source), settled_s=0)
    photos = new_photos.poll(frozenset())
    start = time.perf_counter()
    assert new_photos.poll(frozenset()) is photos
    assert time.perf_counter() - start < 0.05
    add(source, "new")
    assert "new" in new_photos.poll(photos.ids).ids


def test_folders_by_count_and_tables_are_polled_too(source: Path, tmp_path: Path) -> None:
    photo = next((source / "bin-images").iterdir())
    folders, table = tmp_path / "folders", tmp_path / "table.csv"
    for count in range(1, 6):
        (folders / str(count)).mkdir(parents=True)
        shutil.copy(photo, folders / str(count) / "x.jpg")
    new_photos = NewPhotos(DataSpec(folders), settled_s=0)
    known_ids = new_photos.poll(frozenset()).ids
    shutil.copy(photo, folders / "2" / "y.jpg")
    assert new_photos.poll(known_ids).ids - known_ids == {"2/y.jpg"}

    table.write_text("path,count\nfolders/1/x.jpg,1\nfolders/2/x.jpg,99\n")
    assert NewPhotos(DataSpec(table), settled_s=0).poll(frozenset()).ids == {"folders/1/x.jpg"}
    assert NewPhotos(DataSpec(table), settled_s=60).poll(frozenset()).ids == set()


def test_a_source_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is it still mounted"):
        NewPhotos(DataSpec(tmp_path / "gone")).poll(frozenset())


def test_the_photos_of_a_failed_execution_still_count_as_new(tmp_path: Path) -> None:
    known = KnownPhotos(tmp_path / "seen.json")
    known.propose(frozenset({"a"}))
    assert known.ids() == set()
    known.accept()
    assert known.ids() == KnownPhotos(tmp_path / "seen.json").ids() == {"a"}
