"""When an execution is due: the decision, the drift that is reported, and the photos that have come."""

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
from trainer.data import synthetic
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.prepared import prepare
from trainer.pipeline.new_photos import NewPhotos, Seen
from trainer.pipeline.triggers import (
    FIRST_WAIT_S,
    Limits,
    TriggerInputs,
    WatcherState,
    drift_of,
    due,
    ended,
    limits_from,
    looked,
    read_past,
    write_past,
)

NOW = 1_700_000_000.0
SERVING = TriggerInputs(champion=True, new=0, known=1000, drift=())
DRIFTING = replace(SERVING, drift=("drift of confidence",))
LIMITS = Limits(new_photos=200, new_share=0.1, cooldown_s=3600)


def test_an_execution_is_due_at_once_where_there_is_no_champion() -> None:
    assert due(TriggerInputs(champion=False), WatcherState(), LIMITS, NOW).reasons == ("there is no champion",)
    assert due(TriggerInputs(champion=False), WatcherState(ended_s=NOW - 1), LIMITS, NOW).start


@pytest.mark.parametrize(
    ("new", "known", "starts"), [(199, 1000, False), (200, 1000, True), (299, 3000, False), (300, 3000, True)]
)
def test_enough_new_photos_are_a_number_and_a_share(new: int, known: int, starts: bool) -> None:
    found = due(replace(SERVING, new=new, known=known), WatcherState(), LIMITS, NOW)
    assert found.start is starts
    assert (f"{new} new labelled photos" in found.reasons[0]) is starts


def test_a_threshold_of_nothing_asks_for_nothing() -> None:
    one = replace(SERVING, new=1)
    assert due(one, WatcherState(), Limits(new_photos=1, new_share=0), NOW).start
    assert not due(one, WatcherState(), Limits(new_photos=0, new_share=0.1), NOW).start
    assert due(replace(one, new=100), WatcherState(), Limits(new_photos=0, new_share=0.1), NOW).start
    assert not due(replace(one, new=10**6), WatcherState(), Limits(new_photos=0, new_share=0), NOW).start


def test_drift_starts_one_execution_an_episode() -> None:
    past = WatcherState()
    started = []
    for minute, drift in enumerate([(), ("drift of counts",), ("drift of counts",), (), ("drift of counts",)]):
        view, now_s = replace(SERVING, drift=drift), NOW + 7200 * minute
        past = looked(past, view)
        if due(view, past, LIMITS, now_s).start:
            started.append(minute)
            past = ended(past, view, decided=True, promoted=False, now_s=now_s)
    assert started == [1, 4]


def test_without_a_fresh_report_an_episode_goes_on() -> None:
    answered = ended(WatcherState(), DRIFTING, decided=True, promoted=False, now_s=NOW)
    assert looked(answered, replace(SERVING, drift=None)) == answered
    assert not looked(answered, SERVING).drift_answered


def test_drift_can_be_told_to_start_nothing() -> None:
    assert due(DRIFTING, WatcherState(), LIMITS, NOW).start
    assert not due(DRIFTING, WatcherState(), replace(LIMITS, drift=False), NOW).start


def test_flapping_drift_waits_for_the_cooldown() -> None:
    past = looked(ended(WatcherState(), DRIFTING, decided=True, promoted=True, now_s=NOW), SERVING)
    soon = due(DRIFTING, past, LIMITS, NOW + 3599)
    assert (soon.start, soon.reasons[-1]) == (False, "but an execution after the last one waits 3600 s")
    assert due(DRIFTING, past, LIMITS, NOW + 3600).start


def test_the_wait_doubles_after_each_failure_and_drift_stays_unanswered() -> None:
    past, waits = WatcherState(), []
    for _ in range(4):
        past = ended(past, DRIFTING, decided=False, promoted=False, now_s=NOW)
        waits.append(next(s for s in range(0, 10_000, 10) if due(DRIFTING, past, LIMITS, NOW + s).start))
    assert waits == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert not past.drift_answered
    assert ended(past, DRIFTING, decided=True, promoted=False, now_s=NOW).failures == 0


def test_a_first_challenger_that_is_refused_counts_as_a_failure() -> None:
    nothing = TriggerInputs(champion=False)
    refused = ended(WatcherState(), nothing, decided=True, promoted=False, now_s=NOW)
    assert refused.failures == 1
    assert not due(nothing, refused, LIMITS, NOW + FIRST_WAIT_S - 1).start
    assert ended(refused, nothing, decided=True, promoted=True, now_s=NOW).failures == 0


@given(
    view=st.builds(
        TriggerInputs,
        champion=st.booleans(),
        new=st.integers(0, 10**6),
        known=st.integers(0, 10**6),
        drift=st.sampled_from([None, (), ("drift of counts",)]),
    ),
    past=st.builds(
        WatcherState, ended_s=st.floats(0, 2 * NOW), failures=st.integers(0, 2000), drift_answered=st.booleans()
    ),
)
def test_it_is_never_stuck_and_always_says_why(view: TriggerInputs, past: WatcherState) -> None:
    found = due(view, past, LIMITS, NOW)
    assert found.reasons
    if not view.champion:  # whatever happened before, and whatever the clock was: ten minutes later it starts
        assert due(view, replace(past, ended_s=min(past.ended_s, NOW)), LIMITS, NOW + 600).start


def test_reads_the_drift_of_a_fresh_report_only(tmp_path: Path) -> None:
    path = tmp_path / "monitoring.json"
    assert drift_of(path, NOW) is None
    alerts = [{"name": "drift of counts"}, {"name": "latency"}]
    made_at = datetime.fromtimestamp(NOW, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    path.write_text(json.dumps({"made_at": made_at, "alerts": alerts}))
    assert drift_of(path, NOW + 60) == ("drift of counts",)
    assert drift_of(path, NOW + 901) is None
    path.write_text('{"made_at": "yester')
    assert drift_of(path, NOW) is None


def test_the_past_outlives_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    past = WatcherState(NOW, 3, True, NOW)
    write_past(tmp_path, past)
    assert read_past(tmp_path) == past
    (tmp_path / "watch.json").write_text("{")
    assert read_past(tmp_path) == WatcherState()


def test_settings_come_from_the_environment_with_all_problems_at_once() -> None:
    assert limits_from({}) == Limits()
    given = {"BINWATCH_NEW_PHOTOS": "5", "BINWATCH_NEW_SHARE": "0", "BINWATCH_RETRAIN_ON_DRIFT": "0"}
    assert limits_from(given) == Limits(5, 0.0, False)
    with pytest.raises(SettingsError, match=r"BINWATCH_NEW_PHOTOS is 'many'.*BINWATCH_COOLDOWN_S is '-1'"):
        limits_from({"BINWATCH_NEW_PHOTOS": "many", "BINWATCH_COOLDOWN_S": "-1"})


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
    arrivals = NewPhotos(DataSpec(source), settled_s=0)
    seen = arrivals.look(frozenset()).ids
    assert len(seen) == 20
    for photo_id, quantity in {"a": 3, "b": 17, "c": None, "d": 5}.items():
        add(source, photo_id, quantity)
    shutil.copy(source / "bin-images" / "a.jpg", source / "bin-images" / "e.jpg")  # no record
    (source / "metadata" / "f.json").write_text('{"EXPECTED_QUANTITY": 2}')  # no photo
    assert arrivals.look(seen).ids - seen == {"a", "d"}


def test_photos_that_are_still_being_copied_do_not_count_yet(source: Path) -> None:
    arrivals = NewPhotos(DataSpec(source), settled_s=0.5)
    deadline = time.monotonic() + 20
    while arrivals.look(frozenset()).settling:
        assert time.monotonic() < deadline
    seen = arrivals.look(frozenset()).ids
    add(source, "late")
    os.utime(source / "bin-images" / "late.jpg", (1, 1))  # as a copy that keeps the times
    found = arrivals.look(seen)
    assert (found.ids - seen, found.settling) == (frozenset(), 1)
    while not arrivals.look(seen).ids - seen:
        assert time.monotonic() < deadline
    assert arrivals.look(seen).ids - seen == {"late"}


def test_a_look_without_news_lists_nothing(source: Path) -> None:
    long_ago = time.time() - 3600
    for folder in ("bin-images", "metadata"):
        os.utime(source / folder, (long_ago, long_ago))
    arrivals = NewPhotos(DataSpec(source), settled_s=0)
    found = arrivals.look(frozenset())
    start = time.perf_counter()
    assert arrivals.look(frozenset()) is found
    assert time.perf_counter() - start < 0.05
    add(source, "new")
    assert "new" in arrivals.look(found.ids).ids


def test_folders_by_count_tables_and_prepared_datasets_are_looked_at_too(source: Path, tmp_path: Path) -> None:
    photo = next((source / "bin-images").iterdir())
    folders, table = tmp_path / "folders", tmp_path / "table.csv"
    for count in range(1, 6):
        (folders / str(count)).mkdir(parents=True)
        shutil.copy(photo, folders / str(count) / "x.jpg")
    looks = NewPhotos(DataSpec(folders), settled_s=0)
    seen = looks.look(frozenset()).ids
    shutil.copy(photo, folders / "2" / "y.jpg")
    assert looks.look(seen).ids - seen == {"2/y.jpg"}

    table.write_text("path,count\nfolders/1/x.jpg,1\nfolders/2/x.jpg,99\n")
    assert NewPhotos(DataSpec(table), settled_s=0).look(frozenset()).ids == {"folders/1/x.jpg"}
    assert NewPhotos(DataSpec(table), settled_s=60).look(frozenset()).ids == set()

    bins = synthetic.draw_dataset(tmp_path / "bins", 60, seed=2)
    made = prepare(bins, tmp_path / "prepared", Counts())
    assert len(NewPhotos(DataSpec(made.folder)).look(frozenset()).ids) == len(made.rows)


def test_a_source_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is it still mounted"):
        NewPhotos(DataSpec(tmp_path / "gone")).look(frozenset())


def test_what_a_failed_execution_was_given_is_not_seen(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen.json")
    seen.propose(frozenset({"a"}))
    assert seen.ids() == set()
    seen.accept()
    assert seen.ids() == Seen(tmp_path / "seen.json").ids() == {"a"}
