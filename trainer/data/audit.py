"""The label audit: which photos' records most likely disagree with what is in the bin.

A linear head on frozen features judges every photo without having seen it or its bin: training
photos out of fold, the others by a head that learned from the training photos, so that nothing of
validation or test reaches training. A photo's ``suspicion`` is the expected distance, in objects,
between its record and what it shows. How much of it is real is measured by planting errors.

    PREPARED/audits/<fp>.csv    every photo, the most doubted first
    PREPARED/audit.html         the contact sheet to look through; it writes a relabel file

Method: C. G. Northcutt, L. Jiang, I. Chuang, "Confident Learning", 2021, https://arxiv.org/abs/1911.00068
"""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

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

FOLDS = 5
PLANTED, TAIL = 0.1, 0.05
"""Share of the training records that are falsified to measure; share of photos that the tail holds."""


@dataclass(frozen=True)
class Doubt:
    """One photo: its recorded count, the most probable and the expected one, and how far off the record is.

    ``suspicion``: objects, 0 and above; ``issue``: whether cleanlab counts it as wrongly recorded.
    """

    id: str
    split: str
    recorded: int
    suggested: int
    expected: float
    suspicion: float
    issue: bool


@dataclass(frozen=True)
class Audit:
    """Every photo, the most doubted first, and shares (0-1) of the training photos.

    ``wrong_at_most``: how many records can be wrong. Of records that were falsified on purpose a
    share h lies above the suspicion that 5 % of the real ones exceed; were even all of those wrong,
    no more than 5 % / h could be. ``cleanlab``: its own estimate, which takes hard photos for wrong
    ones where the head is weak. ``found``: falsified records in the most doubted tenth.
    """

    doubts: tuple[Doubt, ...]
    wrong_at_most: float
    cleanlab: float
    found: float
    real: NDArray[np.float64]
    planted: NDArray[np.float64]


def audit(prepared: Prepared, features: NDArray[np.float32], seed: int = 0) -> Audit:
    """Audit all photos of ``prepared``. Raises DataError where a count has too few bins.

    ``features``: a row a photo, ``(N, F)``, such as ``layout_features`` of ``trainer/training/features.py``.
    """
    rows, values = prepared.rows, np.array(prepared.counts.values)
    labels = np.searchsorted(values, [row.count for row in rows])
    train = np.array([row.split == "train" for row in rows])
    bins = np.array([row.bin for row in rows])
    with tqdm(total=2 * FOLDS + 1, desc="judging the records", unit="fit") as bar:
        probabilities = np.empty((len(rows), len(values)))
        probabilities[train] = _out_of_fold(features[train], labels[train], bins[train], seed, bar)
        probabilities[~train] = _judge(features[train], labels[train], features[~train], len(values))
        bar.update()
        falsified, which = _falsify(labels[train], len(values), seed)
        again = _suspicion(_out_of_fold(features[train], falsified, bins[train], seed, bar), falsified, values)
    suspicion = _suspicion(probabilities, labels, values)
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    doubts = [
        Doubt(
            row.id,
            row.split,
            row.count,
            int(values[p.argmax()]),
            round(float(p @ values), 2),
            round(float(s), 3),
            bool(issue),
        )
        for row, p, s, issue in zip(rows, probabilities, suspicion, issues, strict=True)
    ]
    real, planted = again[~which], again[which]
    return Audit(
        tuple(sorted(doubts, key=lambda each: (-each.suspicion, each.id))),
        _wrong_at_most(real, planted),
        float(issues[train].mean()),
        float((planted > np.quantile(again, 1 - PLANTED)).mean()),
        real,
        planted,
    )


def _out_of_fold(
    features: NDArray[Any], labels: NDArray[Any], bins: NDArray[Any], seed: int, bar: "tqdm[None]"
) -> NDArray[np.float64]:
    """Probabilities ``(N, C)`` of each photo from a head that has seen neither it nor its bin."""
    classes = len(np.unique(labels))
    fewest = min(len(np.unique(bins[labels == label])) for label in range(labels.max() + 1))
    if fewest < FOLDS:
        raise DataError(
            f"a count has photos of only {fewest} bins in training; the audit needs {FOLDS} of each count: "
            "add photos or narrow COUNTS"
        )
    found = np.empty((len(labels), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for known, unseen in folds.split(features, labels, bins):
        found[unseen] = _judge(features[known], labels[known], features[unseen], classes)
        bar.update()
    return found


def _judge(features: NDArray[Any], labels: NDArray[Any], unseen: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """Fit a linear head and ask it; probabilities ``(N, C)``, 0 for a count that it has not met."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000, tol=1e-3))
    head.fit(features, labels)
    found = np.zeros((len(unseen), classes))
    found[:, head.classes_] = head.predict_proba(unseen)
    return found


def _suspicion(probabilities: NDArray[Any], labels: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    distances = np.abs(values[None, :] - values[labels][:, None])
    return np.asarray((probabilities * distances).sum(1), dtype=np.float64)


def _falsify(labels: NDArray[Any], classes: int, seed: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Replace PLANTED of ``labels`` by another at random; says which."""
    rng = np.random.default_rng(seed)
    which = rng.random(len(labels)) < PLANTED
    return np.where(which, (labels + rng.integers(1, classes, len(labels))) % classes, labels), which


def _wrong_at_most(real: NDArray[Any], planted: NDArray[Any]) -> float:
    beyond = float((planted > np.quantile(real, 1 - TAIL)).mean()) if len(planted) else 0.0
    return min(1.0, TAIL / beyond) if beyond else 1.0


def write_audit(prepared: Prepared, found: Audit, show: int) -> None:
    """Write the table, and the contact sheet of the ``show`` most doubted photos."""
    table = audit_table(prepared)
    table.parent.mkdir(exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Doubt)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in found.doubts)
    write_text(table, text.getvalue())
    write_text(prepared.folder / AUDIT, _sheet(prepared, found, found.doubts[:show]))


def summary(found: Audit) -> str:
    """The figures, in words."""
    return (
        f"At most about {found.wrong_at_most:.0%} of the training records are wrong (cleanlab counts "
        f"{found.cleanlab:.0%}, hard photos among them); of records falsified on purpose {found.found:.0%} were in the "
        "most doubted tenth"
    )


def _sheet(prepared: Prepared, found: Audit, doubts: Sequence[Doubt]) -> str:
    paths = {row.id: prepared.root / row.path for row in prepared.rows}
    cards = "".join(
        _card(number, each, embed_photo(paths[each.id], f"photo {each.id}")) for number, each in enumerate(doubts, 1)
    )
    lead = (
        f"{summary(found)}. The {len(doubts)} most doubted of {len(found.doubts)} photos follow, the most doubted "
        "first. Write what you see where the record is wrong, or leave the photo out, and save: training with "
        "--relabel-file relabel.csv uses it. Photos of validation and test are shown, but never changed."
    )
    body = (
        f"{picture(_histogram(found), 'How far records seem to be off: as they are, and falsified on purpose')}"
        f'<p><button onclick="save()">Save relabel.csv</button></p><div class="cards">{cards}</div>{_SCRIPT}'
    )
    return page(f"Label audit {prepared.fingerprint[:12]}", html.escape(lead), body)


def _card(number: int, each: Doubt, image: str) -> str:
    name = html.escape(each.id, quote=True)
    form = (
        f'<label>I see <input type="number" min="0" max="10000" data-id="{name}"></label> '
        f'<label><input type="checkbox" data-id="{name}"> leave out</label>'
        if each.split == "train"
        else each.split
    )
    return (
        f'<figure class="card">{image}<figcaption>{number}. {name}<br>record <b>{each.recorded}</b>, '
        f"looks like <b>{each.suggested}</b> ({each.expected:.1f})<br>{form}</figcaption></figure>"
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


def _histogram(found: Audit) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, max(found.real.max(), found.planted.max(initial=0.0)), 40)
    for values, name in ((found.real, "as recorded"), (found.planted, "falsified on purpose")):
        axes.hist(values, bins=edges.tolist(), density=True, alpha=0.6, label=name)
    axes.set(xlabel="suspicion (objects)", ylabel="density")
    axes.legend()
    return figure
