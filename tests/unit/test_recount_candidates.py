import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from scipy import stats

from serve.gateway.metrics import Metrics
from serve.gateway.parsing import JSON, ModelRequest
from serve.gateway.records.record_fields import Fields
from serve.gateway.recounts.candidates import photo_of, to_candidate
from serve.recount.base_rate import probability_wrong
from serve.recount.recount_entities import Candidate, Outcome, Recount, settle
from serve.recount.recount_progress import MeasuredShare, progress_of
from tests.records import PRODUCTS, RECORD

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
EVENT = "11111111-2222-4333-8444-555555555555"
ANSWER: dict[str, object] = {
    "event_id": EVENT,
    "count": 2,
    "expected_count": 2.1,
    "fit": {"1": 0.1, "2": 1.0, "3+": 0.01},
    "calibration_photos": 199,
    "probability": 0.2,
    "verdict": "mismatch",
    "reason": "r",
    "evidence": "photo",
    "expected_quantity": 3,
    "model_version": "9",
}
PHOTO = ModelRequest(b"photo", "image/jpeg", Fields(expected_quantity=3, station="dock 1"))


def candidate_of(
    request: ModelRequest = PHOTO, share: float = 0, bin_id: str = "A-1", **changes: object
) -> Candidate | None:
    answer: Mapping[str, object] = {**ANSWER, **changes}
    return to_candidate(request, answer, bin_id=bin_id, random_share=share, base_rate=0.02, now=NOW)


def test_a_mismatch_is_a_candidate_with_all_that_the_answer_says() -> None:
    candidate = candidate_of()
    assert candidate is not None
    assert candidate.probability_wrong == pytest.approx(probability_wrong(0.01, 199, 0.02), abs=1e-6)
    assert candidate == Candidate(
        event_id=EVENT,
        bin_id="A-1",
        station="dock 1",
        seen_at="2026-11-30T12:00:00.000Z",
        recorded_quantity=3,
        p_value=0.01,
        calibration_photos=199,
        probability_recorded=0.2,
        probability_wrong=candidate.probability_wrong,
        alarm=True,
        model_version="9",
        predicted_count=2,
        expected_count=2.1,
        verdict="mismatch",
        reason="r",
        evidence="photo",
    )


@pytest.mark.parametrize(
    ("count", "probabilities", "confidence", "is_open"),
    [(2, {"1": 0.3, "2+": 0.7}, 0.7, True), (2, {"2": 0.4, "3+": 0.6}, 0.4, False), (2, None, None, False)],
)
def test_a_candidate_has_the_confidence_of_its_count(
    count: int, probabilities: object, confidence: object, is_open: bool
) -> None:
    candidate = candidate_of(count=count, probabilities=probabilities)
    assert candidate is not None
    assert (candidate.predicted_count, candidate.confidence, candidate.predicted_open) == (count, confidence, is_open)


@pytest.mark.parametrize(("counted", "is_right"), [(2, [False, False]), (3, [True, True]), (7, [False, True])])
def test_an_open_count_is_right_for_all_larger_ones(counted: int, is_right: list[bool]) -> None:
    candidate = candidate_of(count=3)
    assert candidate is not None
    recounts = [
        settle(replace(candidate, predicted_open=is_open), Outcome.COUNT, counted, "", NOW) for is_open in (False, True)
    ]
    assert [recount.answer_was_right for recount in recounts] == is_right


@pytest.mark.parametrize("verdict", ["match", "unsure"])
def test_the_random_share_is_a_candidate_with_every_verdict_and_nothing_else_is(verdict: str) -> None:
    assert candidate_of(verdict=verdict) is None
    candidate = candidate_of(verdict=verdict, share=1)
    assert candidate is not None
    assert (candidate.random, candidate.alarm) == (True, False)


@pytest.mark.parametrize(
    "changes", [{"event_id": None}, {"event_id": "../a"}, {"event_id": 3}, {"expected_quantity": None}]
)
def test_an_answer_without_an_event_or_a_record_is_none(changes: dict[str, Any]) -> None:
    assert candidate_of(share=1, **changes) is None


@pytest.mark.parametrize(
    ("quantity", "fit", "p_value"),
    [
        (2, {"1": 0.1, "2": 0.5}, 0.5),
        (9, {"1": 0.1, "2+": 0.5}, 0.5),
        (9, {"1": 0.1, "2": 0.5}, None),
        (0, {"1": 0.1, "2+": 0.5}, None),
        (2, None, None),
    ],
)
def test_the_p_value_is_that_of_the_recorded_count(quantity: int, fit: object, p_value: float | None) -> None:
    candidate = candidate_of(expected_quantity=quantity, fit=fit, calibration_photos=None)
    assert candidate is not None
    assert candidate.p_value == p_value
    assert (candidate.probability_wrong is None) == (p_value is None)


def test_products_come_from_either_form_of_a_record() -> None:
    for fields in (Fields(record=RECORD), Fields(products=[*PRODUCTS])):
        candidate = candidate_of(ModelRequest(b"", "image/png", fields))
        assert candidate is not None
        assert [product["quantity"] for product in candidate.products] == [item["quantity"] for item in PRODUCTS]
    assert candidate_of(ModelRequest(b"", "image/png", Fields(record={"BIN_FCSKU_DATA": 3}))) is not None


def test_a_photo_is_taken_from_its_form_and_a_link_is_kept() -> None:
    inline = ModelRequest(json.dumps({"image": base64.b64encode(b"photo").decode()}).encode(), JSON)
    link = ModelRequest(b'{"uri": "s3://bins/1.jpg"}', JSON)
    assert [photo_of(request) for request in (PHOTO, inline, link)] == [b"photo", b"photo", b""]
    assert photo_of(ModelRequest(b'{"image": "a"}', JSON)) == b""
    candidate = candidate_of(link)
    assert candidate is not None
    assert candidate.link == "s3://bins/1.jpg"


def recount(number: int, count: int | None, **fields: object) -> Recount:
    values = {
        "event_id": f"event-{number}",
        "seen_at": "2026-11-30T12:00:00Z",
        "recorded_quantity": 3,
        "predicted_count": 2,
        "probability_wrong": 0.5,
        **fields,
    }
    outcome = Outcome.CANNOT_TELL if count is None else Outcome.COUNT
    return settle(Candidate(**values), outcome, count, "anna", NOW)  # type: ignore[arg-type]


def test_progress_counts_what_was_found_and_measures_the_random_share_alone() -> None:
    settled = [
        recount(1, 2),
        recount(2, 3, probability_wrong=None),
        recount(3, 3, random=True, station="dock 1"),
        recount(4, 2, random=True, station="dock 1"),
        recount(5, None, random=True),
    ]
    waiting = [
        Candidate(event_id=str(number), seen_at=f"2026-11-{29 + number}T00:00Z", recorded_quantity=1, station="dock 2")
        for number in (0, 1)
    ]
    progress = progress_of(waiting, settled)
    assert (progress.wrong, progress.expected_wrong, progress.expected_of) == (2, 1.5, 3)
    assert progress.outcomes == {"count": 4, "cannot_tell": 1, "bad_photo": 0}
    assert (progress.wrong_share.share, progress.accuracy.share, progress.accuracy.total) == (0.5, 0.5, 2)
    assert progress.base_rate == pytest.approx(2 / 52, abs=1e-4)
    assert (progress.stations, progress.days) == ({"dock 2": 2}, {"2026-11-29": 1, "2026-11-30": 1})
    selected = progress_of(waiting, settled, station="dock 1", day="2026-11-30")
    assert (selected.pending, selected.wrong, selected.stations) == (0, 1, {"dock 2": 2})
    assert progress_of(waiting, settled, day="2026-11-29").pending == 1
    assert progress_of([], []).accuracy == MeasuredShare(None, None, None, 0)


@pytest.mark.parametrize(("right", "total"), [(0, 1), (0, 10), (3, 40), (50, 100), (40, 40)])
def test_a_measured_share_has_wilsons_interval(right: int, total: int) -> None:
    interval = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    share = MeasuredShare.of([number < right for number in range(total)])
    assert (share.low, share.high) == pytest.approx((interval.low, interval.high), abs=1e-4)


def test_a_path_is_counted_under_its_route() -> None:
    routes = ("/recounts", "/recounts/next", "/recounts/{event_id}", "/recounts/{event_id}/photo", "/records/{bin_id}")
    metrics = Metrics(frozenset(routes))
    for path in ("/recounts", "/recounts/next", "/recounts/a", "/recounts/a/photo", "/records/7", "/nothing"):
        with metrics.request(path) as response:
            response.status = 200
    text = metrics.text().decode()
    for route in (*routes, "other"):
        assert f'binwatch_gateway_requests_total{{route="{route}",status="200"}} 1.0' in text
