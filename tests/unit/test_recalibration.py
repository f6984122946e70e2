"""Scores from recounts, the promise that they are checked by, and the gate's decision about them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.archives.archive import manifest_of, with_manifest
from serve.errors import ArchiveError
from serve.manifest import AcceptedForm, Calibration, Form, Manifest
from serve.recount.recount_entities import Outcome, Recount
from tests.small_archives import contents, packed, unpacked
from tests.unit.gating import COUNTS, side
from trainer.data.counts import Counts
from trainer.evaluation.explain import explain
from trainer.evaluation.gate import Decision, decision_from_json
from trainer.evaluation.guards import GuardVerdict
from trainer.evaluation.policy import GatePolicy
from trainer.evaluation.recalibration import (
    CountScores,
    FalseAlarms,
    Recalibration,
    RecountScore,
    count_false_alarms,
    luck_of_alarms,
    replace_scores,
    with_scores,
)
from trainer.evaluation.recalibration_gate import decide_recalibration
from trainer.pipeline.recalibration.promise import LastLook, check_promise, is_due, read_last_look, write_last_look
from trainer.pipeline.recalibration.random_recounts import RecountFolder, select_photos
from trainer.pipeline.recalibration.recalibrated_archive import NewScores, differences, recalibrated_manifest

POLICY = GatePolicy()
CHAMPION = side([True, False] * 50)
REPLACED = (CountScores(name="1", old=30, recounts=40, replaced=True),)
KEPT = FalseAlarms(records=200, old=40, new=11, p_value=0.4)


def recalibration(alarms: FalseAlarms | None = KEPT, differences: tuple[str, ...] = ()) -> Recalibration:
    return Recalibration(
        version="3", run_id="a run", recounts=40, differences=differences, photo=REPLACED, alarms=alarms
    )


def scores(name: str, values: list[float]) -> list[RecountScore]:
    return [RecountScore(name, value) for value in values]


def test_a_count_gets_new_scores_where_it_has_enough_recounts_and_keeps_its_old_ones_elsewhere() -> None:
    old = {"1": (0.1, 0.2), "2": (0.3,), "3": ()}
    recounts = scores("1", [0.9] * 18 + [0.5]) + scores("2", [0.4] * 18)
    new, counts = replace_scores(old, recounts, 19)
    assert new == {"1": (0.5, *[0.9] * 18), "2": (0.3,), "3": ()}
    assert [(count.name, count.old, count.recounts, count.replaced) for count in counts] == [
        ("1", 2, 19, True),
        ("2", 1, 18, False),
        ("3", 0, 0, False),
    ]


def test_only_counts_with_new_scores_are_judged() -> None:
    old, new = {"1": tuple([0.1] * 99), "2": tuple([0.1] * 99)}, {"1": tuple([0.9] * 99), "2": tuple([0.1] * 99)}
    counts = (
        CountScores(name="1", old=99, recounts=99, replaced=True),
        CountScores(name="2", old=99, recounts=3, replaced=False),
    )
    alarms = count_false_alarms(scores("1", [0.5, 0.95]) + scores("2", [0.5] * 5), old, new, counts, 0.05)
    assert alarms
    assert (alarms.records, alarms.old, alarms.new) == (2, 2, 1)
    assert count_false_alarms(scores("2", [0.5]), old, new, counts[1:], 0.05) is None


def test_the_test_of_the_promise_keeps_its_level_although_both_halves_are_samples() -> None:
    rng, alpha, rejected = np.random.default_rng(0), 0.05, 0
    counts = [CountScores(name=name, old=0, recounts=0, replaced=True) for name in ("1", "2")]
    for _ in range(300):
        calibration = {"1": tuple(rng.random(25)), "2": tuple(rng.random(60))}
        held_out = scores("1", rng.random(40).tolist()) + scores("2", rng.random(80).tolist())
        alarms = count_false_alarms(held_out, calibration, calibration, counts, alpha)
        assert alarms
        rejected += alarms.p_value <= 0.05
    assert 2 <= rejected <= 28  # of 300 at a level of 5 %


def test_luck_of_alarms_is_a_binomial_where_the_scores_are_many() -> None:
    many = luck_of_alarms(9, {"1": 100}, {"1": 10**7}, 0.05)
    assert many == pytest.approx(0.0631, abs=2e-4)
    assert luck_of_alarms(9, {"1": 100}, {"1": 19}, 0.05) > 2 * many
    assert luck_of_alarms(1, {"1": 100}, {"1": 10}, 0.05) == 0.0
    assert luck_of_alarms(0, {}, {}, 0.05) == 1.0


def decide(alarms: FalseAlarms | None = KEPT, differences: tuple[str, ...] = ()) -> Decision:
    return decide_recalibration(recalibration(alarms, differences), CHAMPION, POLICY)


def test_the_gate_approves_scores_that_keep_the_promise_without_more_accuracy() -> None:
    decision = decide()
    assert decision.promote
    assert decision.challenger_accuracy == decision.champion_accuracy == 0.5
    assert (decision.p_value, decision.first, decision.photos) == (0.4, False, 100)
    assert "5.5%" in decision.reasons[1]
    assert "20.0%" in decision.reasons[1]


@pytest.mark.parametrize(
    ("alarms", "changed", "reason"),
    [
        (replace(KEPT, p_value=0.001), (), "p = 0.001"),
        (replace(KEPT, old=10), (), "more than before"),
        (replace(KEPT, records=19), (), "19 held-out"),
        (KEPT, ("temperature",), "temperature"),
    ],
)
def test_the_gate_refuses(alarms: FalseAlarms, changed: tuple[str, ...], reason: str) -> None:
    decision = decide(alarms, changed)
    assert not decision.promote
    assert reason in " ".join(decision.reasons)


def test_what_nothing_was_judged_of_is_not_promoted() -> None:
    decision = decide(None)
    assert not decision.promote
    assert [guard.verdict for guard in decision.guards] == [
        GuardVerdict.PASSED,
        GuardVerdict.NOT_JUDGED,
        GuardVerdict.NOT_JUDGED,
    ]


def test_a_decision_survives_json_and_is_explained() -> None:
    decision = decide()
    text = json.dumps(decision.to_json())
    assert decision_from_json(text) == decision
    words = " ".join(explain(decision, "4", "3", "approved").split())
    assert "approved version 4" in words
    assert "network of version 3" in words
    assert "40 recounts, 30 scores before: replaced" in words
    assert {name for name in decision.metrics() if name.startswith("guard_")} == {"guard_false_alarms"}


def test_a_decision_of_before_has_no_recalibration() -> None:
    content = json.loads(json.dumps(decide().to_json()))
    del content["recalibration"]
    assert decision_from_json(json.dumps(content)).recalibration is None


def test_the_champion_s_evaluation_gets_the_p_values_of_the_new_scores_and_keeps_the_rest() -> None:
    new = dict.fromkeys(COUNTS.names, (0.0,) * 100)
    evaluated = with_scores(CHAMPION, new, 1.0, COUNTS)
    assert evaluated.evaluation.accuracy == CHAMPION.evaluation.accuracy
    assert evaluated.evaluation.alarms != CHAMPION.evaluation.alarms
    right, wrong = evaluated.predictions[0], evaluated.predictions[1]
    assert right.fit[right.recorded - 1] == 1.0
    assert wrong.fit[wrong.recorded - 1] == pytest.approx(1 / 101, abs=1e-4)


# -- the archive


def manifest(*forms: Form) -> Manifest:
    def calibration(shift: float) -> Calibration:
        return Calibration(1.5, {"1": (shift,), "2": (shift,)}, ((0.5, 0.5),), (0.1,), {"1": (shift,)})

    accepted = tuple(
        AcceptedForm(form=form, photos_per_s=10.0, accuracy=0.5, calibration=calibration(number / 10))
        for number, form in enumerate(forms)
    )
    first = calibration(0.0)
    return Manifest(
        classes=(1, 2),
        size_px=32,
        run_id="old",
        dataset_fingerprint="f",
        metrics={},
        golden=(),
        files={},
        licence="none",
        recipe={},
        temperature=1.5,
        scores=first.scores,
        record_scores=first.record_scores,
        forms=accepted,
        exact=None if forms and forms[0] is Form.FP32 else calibration(0.7),
    )


NEW = NewScores({"1": (0.5,), "2": (0.6,)}, {"1": (0.7,)})
OF_FP32 = NewScores({"1": (0.8,), "2": (0.9,)}, {"1": (1.0,)})


def test_every_form_and_the_gpu_s_program_get_scores_of_their_own_and_nothing_else_changes() -> None:
    old = manifest(Form.INT8, Form.FP32)
    new = recalibrated_manifest(old, "new", {Form.INT8: NEW, Form.FP32: OF_FP32})
    assert new.run_id == "new"
    assert (new.scores, new.record_scores) == (NEW.photo, NEW.records)
    assert [item.calibration.scores for item in new.forms] == [NEW.photo, OF_FP32.photo]
    assert new.exact
    assert (new.exact.scores, new.exact.record_scores) == (OF_FP32.photo, OF_FP32.records)
    assert new.exact.golden == ((0.5, 0.5),)
    assert differences(old, new) == ()


def test_a_form_that_cannot_be_computed_here_is_left_out_unless_it_serves() -> None:
    old = manifest(Form.FP32, Form.BF16)
    new = recalibrated_manifest(old, "new", {Form.FP32: NEW})
    assert [item.form for item in new.forms] == [Form.FP32]
    assert differences(old, new) == ()
    with pytest.raises(ArchiveError, match="fp32"):
        recalibrated_manifest(old, "new", {Form.BF16: NEW})
    with pytest.raises(ArchiveError, match="train again"):
        recalibrated_manifest(manifest(), "new", {})


def test_whatever_else_differs_is_named() -> None:
    old = manifest(Form.FP32)
    form = replace(old.forms[0], accuracy=0.6)
    assert differences(old, replace(old, temperature=2.0, files={"model.onnx": "other"})) == ("files", "temperature")
    assert differences(old, replace(old, forms=(form,))) == ("form fp32",)


def test_all_files_but_the_manifest_are_the_same_bit_by_bit(tmp_path: Path) -> None:
    archive = packed(tmp_path / "old.mar", contents())
    new = replace(manifest_of(archive), run_id="new", scores={"1": (0.5,)})
    with_manifest(archive, new, tmp_path / "new.mar")
    before, after = unpacked(archive), unpacked(tmp_path / "new.mar")
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"binwatch.json"}
    assert manifest_of(tmp_path / "new.mar") == new


def test_a_manifest_that_lists_other_files_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archive = packed(tmp_path / "old.mar", contents())
    old = manifest_of(archive)
    for files in ({**old.files, "model.onnx": "0" * 64}, {**old.files, "serve/more.py": "0" * 64}):
        with pytest.raises(ArchiveError):
            with_manifest(archive, replace(old, files=files), tmp_path / "new.mar")
    assert not (tmp_path / "new.mar").exists()


# -- which recounts


def recount(number: int, **fields: object) -> Recount:
    values: dict[str, object] = {
        "event_id": f"event-{number:03}",
        "seen_at": "2026-11-30T08:00:00Z",
        "settled_at": f"2026-11-30T09:{number // 60:02}:{number % 60:02}Z",
        "recorded_quantity": 2,
        "count": 2,
        "outcome": Outcome.COUNT,
        "random": True,
        "p_value": 0.5,
        "bin_id": f"bin-{number}",
        "model_version": "3",
        **fields,
    }
    return Recount(**values)  # type: ignore[arg-type]


def store(folder: Path, recount: Recount, photo: bytes | None = None) -> None:
    for name in ("metadata", "bin-images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "bin-images" / f"{recount.event_id}.jpg").write_bytes(photo or recount.event_id.encode())
    (folder / "metadata" / f"{recount.event_id}.json").write_text(json.dumps(recount.to_metadata()))


def test_only_counts_of_the_random_share_are_read_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    recounts = RecountFolder(tmp_path)
    assert recounts.poll() == []
    store(tmp_path, recount(2))
    store(tmp_path, recount(1))
    store(tmp_path, recount(3, random=False))
    (tmp_path / "metadata" / "event-004.json").write_text("{")
    assert [item.event_id for item in recounts.poll()] == ["event-001", "event-002"]
    (tmp_path / "metadata" / "event-001.json").unlink()  # undone
    assert [item.event_id for item in recounts.poll()] == ["event-002"]


def test_photos_that_the_model_learned_from_and_those_of_their_bins_cannot_calibrate(tmp_path: Path) -> None:
    recounts = [
        recount(1, bin_id="A"),
        recount(2, bin_id="A"),
        recount(3, bin_id="B"),
        recount(4, bin_id="C"),
        recount(5, bin_id=""),
        recount(6, bin_id="", count=9),
    ]
    for item in recounts:
        store(tmp_path, item, b"the same" if item.event_id in ("event-001", "event-004") else None)
    selection = select_photos(recounts, tmp_path, Counts(), {"event-001"})
    assert [photo.event_id for photo in selection.photos] == ["event-003", "event-005"]
    assert selection.left_out == {
        "the model has learned from their photo or bin": 3,
        "the model does not know their count": 1,
    }


def test_contradictions_repeated_bins_and_missing_photos_are_named(tmp_path: Path) -> None:
    recounts = [
        recount(1, count=1),
        recount(2),
        recount(3, bin_id="A"),
        recount(4, bin_id="A"),
        recount(5),
    ]
    for item in recounts:
        store(tmp_path, item, b"the same" if item.event_id in ("event-001", "event-002") else None)
    (tmp_path / "bin-images" / "event-005.jpg").unlink()
    selection = select_photos(recounts, tmp_path, Counts(), ())
    assert [photo.event_id for photo in selection.photos] == ["event-003"]
    assert sorted(selection.left_out.values()) == [1, 1, 2]


def test_products_count_only_where_the_record_was_right(tmp_path: Path) -> None:
    products = ({"id": "X", "quantity": 2, "length": 10, "width": 5, "height": 2, "size_unit": "cm"},)
    recounts = [recount(1, products=products), recount(2, products=products, count=1), recount(3)]
    for item in recounts:
        store(tmp_path, item)
    right, wrong, bare = select_photos(recounts, tmp_path, Counts(), ()).photos
    assert right.record
    assert right.record["EXPECTED_QUANTITY"] == 2
    assert (wrong.record, bare.record, wrong.name) == (None, None, "1")


def test_a_bin_stays_in_its_half_whatever_else_is_recounted(tmp_path: Path) -> None:
    recounts = [recount(number) for number in range(200)]
    for item in recounts:
        store(tmp_path, item)
    halves = {photo.bin: photo.calibrates for photo in select_photos(recounts, tmp_path, Counts(), ()).photos}
    assert 70 <= sum(halves.values()) <= 130
    fewer = select_photos(recounts[::3], tmp_path, Counts(), ()).photos
    assert all(photo.calibrates is halves[photo.bin] for photo in fewer)


# -- when it starts by itself


def answered(alarms: int, records: int) -> list[Recount]:
    return [
        recount(number, alarm=number < alarms, p_value=0.01 if number < alarms else 0.5) for number in range(records)
    ]


@pytest.mark.parametrize(("alarms", "broken"), [(0, False), (10, False), (17, False), (20, True), (60, True)])
def test_the_promise_is_broken_where_luck_does_not_explain_the_alarms(alarms: int, broken: bool) -> None:
    check = check_promise(answered(alarms, 200), 0.05)
    assert (check.records, check.alarms, check.is_broken) == (200, alarms, broken)


def test_alarms_on_wrong_records_and_those_of_a_scale_say_nothing_about_the_promise() -> None:
    wrong = [recount(number, count=3, alarm=True, p_value=0.01) for number in range(50)]
    by_weight = [recount(number, alarm=True, p_value=0.6) for number in range(50, 100)]
    check = check_promise([*wrong, *by_weight], 0.05)
    assert (check.records, check.alarms, check.is_broken) == (50, 0, False)


def test_a_look_is_due_each_time_that_enough_recounts_have_come(tmp_path: Path) -> None:
    assert not is_due(199, "3", LastLook(), 200)
    assert is_due(200, "3", LastLook(), 200)
    assert not is_due(399, "3", LastLook(version="3", recounts=200), 200)
    assert is_due(400, "3", LastLook(version="3", recounts=200), 200)
    assert is_due(200, "4", LastLook(version="3", recounts=200), 200)
    assert not is_due(10**6, "3", LastLook(), 0)
    assert read_last_look(tmp_path) == LastLook()
    write_last_look(tmp_path, LastLook(version="3", recounts=200))
    assert read_last_look(tmp_path) == LastLook(version="3", recounts=200)
    (tmp_path / "recalibration.json").write_text("damaged")
    assert read_last_look(tmp_path) == LastLook()
