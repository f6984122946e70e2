"""How often records with products raise the alarm on the test split, by what is wrong with them.

Of each test photo whose record has sizes, the archive judges the right record and wrong ones of every kind
(``trainer/data/bin_records/wrong_records.py``). Beside it stand the photo alone, and as a control the record alone: how
many wrong records can be told from right ones of the same quantity without any photo, at the same share of false
alarms.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve import verdict
from serve.archives.archive import ask, manifest_of, unpacked
from serve.evidence.record_model import RecordModel
from serve.manifest import RECORD_FILE, Manifest
from trainer.data.bin_records.records import with_sizes
from trainer.data.bin_records.wrong_records import Catalogue, ErrorKind, Pairs, make_pairs
from trainer.data.dataset import Part, digest
from trainer.evaluation.alarms import ALPHAS, CURVE
from trainer.evaluation.statistics import bootstrap_interval

MIN_PHOTOS = 30
"""With fewer test photos that have records with sizes, nothing is said."""
RIGHT = "right"
"""The name of records that are right, beside the kinds of error."""
Floats = NDArray[np.float64]
RecordFits = dict[str, tuple[float, ...]]
"""The p-values of one photo's records: of the right one, and by kind of error of the wrong ones."""


@dataclass(frozen=True, kw_only=True)
class RecordAlarms:
    """Alarm rates at ``alpha``, all shares 0-1, with 95 % intervals (bootstrap over bins).

    ``false_alarms``: of right records. By kind of error, of wrong records: ``caught`` with photo and products,
    ``by_photo`` by the photo and the quantity, ``by_record`` by the products without the photo.
    """

    alpha: float
    false_alarms: float
    false_alarms_interval: tuple[float, float]
    caught: dict[str, float]
    caught_interval: dict[str, tuple[float, float]]
    by_photo: dict[str, float]
    by_record: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        caught = {f"records_caught_{kind}": share for kind, share in self.caught.items()}
        return {"records_false_alarms": self.false_alarms, **caught}


@dataclass(frozen=True, kw_only=True)
class RecordCurves:
    """The rates of ``RecordAlarms`` at many alphas, one share (0-1) for each; ``right``: of right records."""

    alphas: tuple[float, ...]
    right: tuple[float, ...]
    caught: dict[str, tuple[float, ...]]
    by_photo: dict[str, tuple[float, ...]]
    by_record: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class RecordEvaluation:
    """What products are worth: the alarms, and counts given sizes beside those of the photo alone, of ``photos``.

    ``curves`` are missing in evaluations of early versions.
    """

    photos: int
    accuracy: float
    rmse: float
    photo_accuracy: float
    photo_rmse: float
    alarms: tuple[RecordAlarms, ...]
    curves: RecordCurves | None = None

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        counts = {
            "test_accuracy_with_products": self.accuracy,
            "test_accuracy_of_the_same_photos": self.photo_accuracy,
            "test_rmse_with_products": self.rmse,
            "test_rmse_of_the_same_photos": self.photo_rmse,
        }
        return counts | {
            f"{name}_at_{round(100 * item.alpha)}": value
            for item in self.alarms
            for name, value in item.metrics().items()
        }


@dataclass(frozen=True)
class JudgedRecords:
    """The p-values of records, by the photo's id, and what they come to, None for an archive without record model.

    ``fingerprint``: of the records, right and wrong; two models with the same one have judged the same records. Empty
    where there are too few.
    """

    evaluation: RecordEvaluation | None = None
    fits: Mapping[str, RecordFits] = field(default_factory=dict)
    fingerprint: str = ""


def evaluate_records(
    archive: Path, part: Part, photo_fits: Mapping[str, Sequence[float]], seed: int = 0
) -> JudgedRecords:
    """Judge right and wrong records of ``part``.

    ``photo_fits``: the p-values of the archive's counts, by the photo's id; they decide where it has no record model.
    Which records are judged depends on ``part``, on ``seed`` and on the counts that the archive knows, not on its
    answers: two archives that know the same counts judge the same records.
    """
    manifest = manifest_of(archive)
    pairs = judged_pairs(part, manifest.classes, seed)
    if pairs is None or not all(photo_fits.get(part.photos[row].id) for row in pairs.rows):
        return JudgedRecords()
    photos = [part.photos[row] for row in pairs.rows]
    ids = [photo.id for photo in photos]
    evaluation = None
    if manifest.record_scores:
        answers = _ask(archive, part, pairs, manifest)
        evaluation = summarise_records(pairs, answers, [photo.bin for photo in photos], seed)
        fits = answers.fit_at(verdict.ALPHA).tolist()
    else:  # what it would catch, to compare it with an archive that reads products
        places = [manifest.classes.index(record.quantity) for record in pairs.records]
        fits = [photo_fits[photo][place] for photo, place in zip(ids, places, strict=True)]
    return JudgedRecords(evaluation, fits_by_photo(pairs, fits, ids), records_fingerprint(pairs, ids))


def judged_pairs(part: Part, classes: Sequence[int], seed: int = 0) -> Pairs | None:
    """Right and wrong records of the photos of ``part``, of quantities in ``classes``; None where few have sizes."""
    right = {
        row: record for row, record in with_sizes(part.photos).items() if record.quantity == part.photos[row].count
    }
    if len(right) < MIN_PHOTOS:
        return None
    return make_pairs(right, Catalogue(list(right.values())), seed).within(classes)


@dataclass(frozen=True, kw_only=True)
class RecordAnswers:
    """What an archive says of N records, with products and by the photo alone ``(N, 2)``.

    ``fit``: p-values; ``count``, ``expected``: the most probable and the expected count. ``alone``: the share of right
    records of the same quantity that fit as badly without any photo, or worse, ``(N,)``. ``calibration``: the number of
    calibration photos with products for the recorded quantity, ``(N,)``.
    """

    fit: Floats
    count: Floats
    expected: Floats
    alone: Floats
    calibration: NDArray[np.int64]

    def fit_at(self, alpha: float) -> Floats:
        """The p-values that the verdict at ``alpha`` rests on: the photo's where calibration photos are too few."""
        enough = self.calibration >= verdict.min_calibration_photos(alpha)
        return np.where(enough, self.fit[:, 0], self.fit[:, 1])

    def alarms_at(self, alpha: float) -> NDArray[np.bool_]:
        """Whether each record raises the alarm with photo and products, by the photo, and by the record, ``(N, 3)``."""
        return np.column_stack([self.fit_at(alpha), self.fit[:, 1], self.alone]) <= alpha


def _ask(archive: Path, part: Part, pairs: Pairs, manifest: Manifest) -> RecordAnswers:
    """What the archive says, by its own code. Where it does not judge products, the photo alone decides."""
    rows = sorted(set(pairs.rows.tolist()))
    places = {row: np.flatnonzero(pairs.rows == row) for row in rows}
    supposed = [[pairs.records[place].to_products() for place in places[row]] for row in rows]
    answers = ask(archive, [part.photos[row].path for row in rows], supposed=supposed)
    columns = np.empty((3, len(pairs.rows), 2))
    for row, answer in zip(rows, tqdm(answers, "judging records", len(rows), unit="photo"), strict=True):
        for place, given in zip(places[row], answer["records"], strict=True):
            name = manifest.name_of(pairs.records[place].quantity)
            for side, source in enumerate((given or answer, answer)):
                columns[:, place, side] = source["fit"][name], source["count"], source["expected_count"]
    names = [manifest.name_of(record.quantity) for record in pairs.records]
    return RecordAnswers(
        fit=columns[0],
        count=columns[1],
        expected=columns[2],
        alone=_record_alone(archive, pairs),
        calibration=np.array([len(manifest.record_scores.get(name, ())) for name in names]),
    )


def _record_alone(archive: Path, pairs: Pairs) -> Floats:
    with unpacked(archive) as folder:
        records = RecordModel.read(folder / RECORD_FILE)
    scores = -records.without_photo(pairs.records)
    shares = np.empty(len(scores))
    for quantity in np.unique(pairs.quantities):
        members = pairs.quantities == quantity
        of_right = np.sort(scores[members & pairs.right])
        shares[members] = (1 + len(of_right) - np.searchsorted(of_right, scores[members])) / (1 + len(of_right))
    return shares


def summarise_records(pairs: Pairs, answers: RecordAnswers, bins: Sequence[str], seed: int = 0) -> RecordEvaluation:
    """The evaluation that follows from the answers; ``bins``: of each record's photo."""
    right, quantities = pairs.right, pairs.quantities[pairs.right, None]
    accuracy, photo_accuracy = (answers.count[right] == quantities).mean(axis=0).tolist()
    rmse, photo_rmse = np.sqrt(np.square(answers.expected[right] - quantities).mean(axis=0)).tolist()
    groups = {kind.value: np.flatnonzero([item is kind for item in pairs.kinds]) for kind in ErrorKind}
    groups = {RIGHT: np.flatnonzero(right)} | {name: rows for name, rows in groups.items() if len(rows)}
    return RecordEvaluation(
        photos=len(quantities),
        accuracy=accuracy,
        photo_accuracy=photo_accuracy,
        rmse=rmse,
        photo_rmse=photo_rmse,
        alarms=tuple(_alarms(alpha, groups, answers, np.array(bins), seed) for alpha in ALPHAS),
        curves=_curves(groups, answers),
    )


def _alarms(
    alpha: float,
    groups: Mapping[str, NDArray[np.int64]],
    answers: RecordAnswers,
    bins: NDArray[np.str_],
    seed: int,
) -> RecordAlarms:
    """``groups``: the rows of the records by what is wrong with them."""
    raised = answers.alarms_at(alpha)
    shares = {name: raised[rows].mean(axis=0).tolist() for name, rows in groups.items()}
    intervals = {name: bootstrap_interval(raised[rows, 0], bins[rows].tolist(), seed) for name, rows in groups.items()}
    false_alarms, interval = shares.pop(RIGHT)[0], intervals.pop(RIGHT)
    return RecordAlarms(
        alpha=alpha,
        false_alarms=false_alarms,
        false_alarms_interval=interval,
        caught={name: share[0] for name, share in shares.items()},
        caught_interval=intervals,
        by_photo={name: share[1] for name, share in shares.items()},
        by_record={name: share[2] for name, share in shares.items()},
    )


def _curves(groups: Mapping[str, NDArray[np.int64]], answers: RecordAnswers) -> RecordCurves:
    raised = np.stack([answers.alarms_at(alpha) for alpha in CURVE])  # (A, N, 3)
    shares = {name: raised[:, rows].mean(axis=1).T.tolist() for name, rows in groups.items()}
    right = tuple(shares.pop(RIGHT)[0])
    caught, by_photo, by_record = ({name: tuple(rows[n]) for name, rows in shares.items()} for n in range(3))
    return RecordCurves(alphas=CURVE, right=right, caught=caught, by_photo=by_photo, by_record=by_record)


def fits_by_photo(pairs: Pairs, fits: Sequence[float], ids: Sequence[str]) -> dict[str, RecordFits]:
    """The p-values of the records, by the photo's id; ``ids``: of each record's photo."""
    by_photo = defaultdict[str, defaultdict[str, list[float]]](lambda: defaultdict(list))
    for photo, kind, fit in zip(ids, pairs.kinds, fits, strict=True):
        by_photo[photo][kind.value if kind else RIGHT].append(fit)
    return {photo: {name: tuple(values) for name, values in kinds.items()} for photo, kinds in by_photo.items()}


def records_fingerprint(pairs: Pairs, ids: Sequence[str]) -> str:
    """A digest of what is judged: photos, records, and what is wrong with them."""
    records = zip(ids, pairs.kinds, pairs.records, strict=True)
    return digest(f"{photo} {kind or RIGHT} {json.dumps(record.to_products())}" for photo, kind, record in records)
