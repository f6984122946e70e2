"""Puts the alarms of a check, and the random share, into the queue of recounts, as the gateway does with its own."""

from serve.bin_check.bin_photos import BinPhotos
from serve.bin_check.bin_records import BinRecords
from serve.bin_check.checked_bin import CheckedBin
from serve.bin_check.recount_list import RecountList
from serve.capture_record import is_sampled
from serve.errors import RequestError
from serve.recount.queue_store import RecountStore
from serve.recount.recount_entities import Candidate
from serve.verdict import VerdictKind


def file_candidates(
    recount_list: RecountList, records: BinRecords, photos: BinPhotos, store: RecountStore, random_share: float
) -> int:
    """Offer the bins to the queue; returns how many stay. Those that are settled or wait there already are left out.

    ``random_share``: of all bins (0-1), whatever their verdicts; which ones is decided by their event ids.
    """
    known = {item.event_id for item in (*store.pending(), *store.settled())}
    number = 0
    for entry in recount_list.entries:
        item = entry.item
        alarm, random = item.verdict == VerdictKind.MISMATCH, is_sampled(item.event_id, random_share)
        if item.event_id in known or not (alarm or random):
            continue
        try:
            products, photo = records.read(item.bin_id).record.to_products(), photos.read(item.photo)
        except RequestError:  # it was removed after it was checked
            continue
        candidate = _candidate(item, products, entry.probability_wrong, alarm, random)
        number += store.offer(candidate, photo)
    return number


def _candidate(
    item: CheckedBin, products: list[dict[str, object]], probability_wrong: float | None, alarm: bool, random: bool
) -> Candidate:
    return Candidate(
        event_id=item.event_id,
        seen_at=item.moment,
        recorded_quantity=item.recorded,
        bin_id=item.bin_id,
        products=tuple(products),
        p_value=item.p_value,
        calibration_photos=item.calibration_photos,
        probability_recorded=item.probability,
        probability_wrong=probability_wrong,
        alarm=alarm,
        random=random,
        model_version=item.model,
        predicted_count=item.seen,
        predicted_open=item.seen_open,
        expected_count=item.expected_count,
        verdict=item.verdict,
        reason=item.reason,
        evidence=item.evidence,
    )
