"""The label audit: finding photos whose recorded count probably disagrees with the image.

A linear head on frozen features predicts every photo without having been fitted on it or its bin: training photos out
of fold, photos of validation and test by a head that was fitted on the training photos, so that nothing leaks from
them into training. The ``suspicion`` of a photo is the expected distance, in objects, between its record and what it
shows. How well suspicion finds wrong records is measured by falsifying some records on purpose.

    PREPARED/audits/<fp>.csv    all photos, the most suspicious first
    PREPARED/audit.html         the contact sheet of the most suspicious photos, which saves a relabel file

Method: C. G. Northcutt, L. Jiang, I. Chuang, "Confident Learning", 2021, https://arxiv.org/abs/1911.00068
"""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from cleanlab.filter import find_label_issues
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from serve.errors import DataError
from serve.files import write_text
from trainer.data.inspection import embed_photo, page, picture
from trainer.data.prepared import AUDIT, Prepared, audit_table
from trainer.data.split import Split

FOLDS = 5
FALSIFIED_SHARE, TAIL_SHARE = 0.1, 0.05
"""The share of the training records that are falsified, and the share of photos in the tail of the suspicions."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
"""Indices into the counts."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """One photo: its recorded, its most probable and its expected count.

    ``suspicion``: objects, 0 and above; ``issue``: whether cleanlab considers the record wrong.
    """

    id: str
    split: str
    recorded: int
    suggested: int
    expected: float
    suspicion: float
    issue: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All photos, the most suspicious first, and shares (0-1) of the training photos.

    ``wrong_at_most``: an upper estimate of the wrong records. If a share h of the falsified records lies above the
    suspicion that 5 % of the real ones exceed, no more than 5 % / h of the real ones are wrong, even if all of those
    5 % are. ``cleanlab``: its own estimate, which is too high if the head is weak. ``recall``: the share of the
    falsified records in the most suspicious tenth. ``real_suspicions``, ``falsified_suspicions``: ``(N,)``, objects.
    """

    doubts: tuple[Doubt, ...]
    wrong_at_most: float
    cleanlab: float
    recall: float
    real_suspicions: Floats
    falsified_suspicions: Floats


def audit(prepared: Prepared, features: NDArray[np.float32], seed: int = 0) -> Audit:
    """Audit all photos of ``prepared``. Raises DataError if a count has too few bins.

    ``features``: a row per photo, ``(N, F)``, such as ``layout_features`` of ``trainer/training/features.py``.
    """
    rows, values = prepared.rows, np.array(prepared.counts.values)
    labels = np.searchsorted(values, [row.count for row in rows])
    train = np.array([row.split == Split.TRAIN for row in rows])
    bins = np.array([row.bin for row in rows])
    with tqdm(total=2 * FOLDS + 1, desc="auditing the records", unit="fit") as bar:
        probabilities = np.empty((len(rows), len(values)))
        probabilities[train] = _out_of_fold(features[train], labels[train], bins[train], seed, bar)
        probabilities[~train] = _fit_and_predict(features[train], labels[train], features[~train], len(values))
        bar.update()
        noisy_labels, is_falsified = _falsify(labels[train], len(values), seed)
        noisy_probabilities = _out_of_fold(features[train], noisy_labels, bins[train], seed, bar)
    suspicions = _suspicions(probabilities, labels, values)
    noisy_suspicions = _suspicions(noisy_probabilities, noisy_labels, values)
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    doubts = [
        Doubt(
            id=row.id,
            split=row.split,
            recorded=row.count,
            suggested=int(values[p.argmax()]),
            expected=round(float(p @ values), 2),
            suspicion=round(float(suspicion), 3),
            issue=bool(issue),
        )
        for row, p, suspicion, issue in zip(rows, probabilities, suspicions, issues, strict=True)
    ]
    real, falsified = noisy_suspicions[~is_falsified], noisy_suspicions[is_falsified]
    return Audit(
        doubts=tuple(sorted(doubts, key=lambda doubt: (-doubt.suspicion, doubt.id))),
        wrong_at_most=_wrong_at_most(real, falsified),
        cleanlab=float(issues[train].mean()),
        recall=float((falsified > np.quantile(noisy_suspicions, 1 - FALSIFIED_SHARE)).mean()),
        real_suspicions=real,
        falsified_suspicions=falsified,
    )


def _out_of_fold(
    features: NDArray[np.float32], labels: Labels, bins: NDArray[np.str_], seed: int, bar: "tqdm[None]"
) -> Floats:
    """Probabilities ``(N, C)`` for each photo, from a head that was fitted on neither it nor its bin."""
    classes = len(np.unique(labels))
    fewest = min(len(np.unique(bins[labels == label])) for label in range(labels.max() + 1))
    if fewest < FOLDS:
        raise DataError(
            f"a count has training photos of only {fewest} bins; the audit needs {FOLDS} of each count: "
            "add photos or narrow COUNTS"
        )
    probabilities = np.empty((len(labels), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, held_out in folds.split(features, labels, bins):
        probabilities[held_out] = _fit_and_predict(features[fitted], labels[fitted], features[held_out], classes)
        bar.update()
    return probabilities


def _fit_and_predict(
    features: NDArray[np.float32], labels: Labels, held_out: NDArray[np.float32], classes: int
) -> Floats:
    """Fit a linear head and predict ``held_out``: probabilities ``(N, C)``, 0 for a count without a label."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000, tol=1e-3))
    head.fit(features, labels)
    probabilities = np.zeros((len(held_out), classes))
    probabilities[:, head.classes_] = head.predict_proba(held_out)
    return probabilities


def _suspicions(probabilities: Floats, labels: Labels, values: NDArray[np.int64]) -> Floats:
    distances = np.abs(values[None, :] - values[labels][:, None])
    return np.asarray((probabilities * distances).sum(1), dtype=np.float64)


def _falsify(labels: Labels, classes: int, seed: int) -> tuple[Labels, NDArray[np.bool_]]:
    """Replace FALSIFIED_SHARE of ``labels`` by another label at random; returns them, and which ones."""
    rng = np.random.default_rng(seed)
    is_falsified = rng.random(len(labels)) < FALSIFIED_SHARE
    return np.where(is_falsified, (labels + rng.integers(1, classes, len(labels))) % classes, labels), is_falsified


def _wrong_at_most(real: Floats, falsified: Floats) -> float:
    in_tail = float((falsified > np.quantile(real, 1 - TAIL_SHARE)).mean()) if len(falsified) else 0.0
    return min(1.0, TAIL_SHARE / in_tail) if in_tail else 1.0


def write_audit(prepared: Prepared, result: Audit, show: int) -> None:
    """Write the table, and the contact sheet of the ``show`` most suspicious photos."""
    table = audit_table(prepared)
    table.parent.mkdir(exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Doubt)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(doubt) for doubt in result.doubts)
    write_text(table, text.getvalue())
    write_text(prepared.folder / AUDIT, _contact_sheet(prepared, result, result.doubts[:show]))


def summary(result: Audit) -> str:
    """The result as a sentence."""
    return (
        f"At most about {result.wrong_at_most:.0%} of the training records are wrong (cleanlab estimates "
        f"{result.cleanlab:.0%}, which includes hard photos); of the records that were falsified on purpose, "
        f"{result.recall:.0%} are in the most suspicious tenth"
    )


def _contact_sheet(prepared: Prepared, result: Audit, doubts: Sequence[Doubt]) -> str:
    paths = {row.id: prepared.path_of(row) for row in prepared.rows}
    cards = "".join(
        _card(number, doubt, embed_photo(paths[doubt.id], f"photo {doubt.id}"))
        for number, doubt in enumerate(doubts, 1)
    )
    lead = (
        f"{summary(result)}. Below are the {len(doubts)} most suspicious of {len(result.doubts)} photos, the most "
        "suspicious first. Where the record is wrong, enter the count that you see, or leave the photo out, and save: "
        "training with --relabel-file relabel.csv uses the file. Photos of validation and test are shown, but never "
        "changed."
    )
    body = (
        f"{picture(_histogram(result), 'Suspicion of the records as they are, and of falsified ones')}"
        f'<p><button onclick="save()">Save relabel.csv</button></p><div class="cards">{cards}</div>{_SCRIPT}'
    )
    return page(f"Label audit {prepared.fingerprint[:12]}", html.escape(lead), body)


def _card(number: int, doubt: Doubt, image: str) -> str:
    name = html.escape(doubt.id, quote=True)
    form = (
        f'<label>I see <input type="number" min="0" max="10000" data-id="{name}"></label> '
        f'<label><input type="checkbox" data-id="{name}"> leave out</label>'
        if doubt.split == Split.TRAIN
        else doubt.split
    )
    return (
        f'<figure class="card">{image}<figcaption>{number}. {name}<br>record <b>{doubt.recorded}</b>, '
        f"looks like <b>{doubt.suggested}</b> ({doubt.expected:.1f})<br>{form}</figcaption></figure>"
    )


_SCRIPT = """<script>
function save() {
  const rows = [["id", "count"]];
  for (const field of document.querySelectorAll("input[type=number]")) {
    const out = document.querySelector(`input[type=checkbox][data-id="${CSS.escape(field.dataset.id)}"]`).checked;
    if (out || field.value !== "") rows.push([field.dataset.id, out ? "" : field.value]);
  }
  const text = rows.map(row => row.map(cell => `"${cell.replaceAll('"', '""')}"`).join(",")).join("\\n") + "\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = "relabel.csv";
  link.click();
}
</script>"""


def _histogram(result: Audit) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    real, falsified = result.real_suspicions, result.falsified_suspicions
    edges = np.linspace(0, max(real.max(), falsified.max(initial=0.0)), 40)
    for suspicions, name in ((real, "as recorded"), (falsified, "falsified on purpose")):
        axes.hist(suspicions, bins=edges.tolist(), density=True, alpha=0.6, label=name)
    axes.set(xlabel="suspicion (objects)", ylabel="density")
    axes.legend()
    return figure
