import csv
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from serve.errors import DataError
from tests.conftest import rounds
from tests.models import TINY
from trainer.data import dataset, prepared, synthetic
from trainer.data.audit import Audit, audit, write_audit
from trainer.data.counts import Counts
from trainer.data.dataset import Dataset, DataSpec
from trainer.data.prepare import prepare
from trainer.training import features
from trainer.training.features import layout_features
from trainer.training.train import fit

BINS = rounds(1000, 2000)


@dataclass(frozen=True)
class Audited:
    data: prepared.Prepared
    result: Audit
    wrong: frozenset[str]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """Drawn bins, a tenth of whose records were replaced by another count at random."""
    bins = synthetic.draw_dataset(tmp_path_factory.mktemp("bins"), BINS, seed=7)
    (bins / "file_list.json").unlink()
    rng = random.Random(7)
    records = sorted((bins / "metadata").iterdir())
    wrong = rng.sample(records, len(records) // 10)
    for path in wrong:
        record = json.loads(path.read_text())
        record["EXPECTED_QUANTITY"] = rng.choice([c for c in range(1, 6) if c != record["EXPECTED_QUANTITY"]])
        path.write_text(json.dumps(record))
    data = prepare(bins, tmp_path_factory.mktemp("out"), Counts())
    result = audit(data, layout_features(data))
    write_audit(data, result, show=20)
    yield Audited(data, result, frozenset(path.stem for path in wrong))
    shutil.rmtree(data.folder)


def load(audited: Audited, **changes: object) -> Dataset:
    return prepared.load_any(DataSpec(audited.data.folder, **changes), 32)  # type: ignore[arg-type]


def counts(part: object) -> dict[str, int]:
    return {photo.id: photo.count for photo in part.photos}  # type: ignore[attr-defined]


def test_finds_most_of_the_wrong_records(audited: Audited) -> None:
    top = [doubt.id for doubt in audited.result.doubts[: BINS // 10]]
    share = len(audited.wrong.intersection(top)) / len(top)
    print(f"{share:.1%} of the {len(top)} wrong records are in the most suspicious tenth")
    assert share >= 0.6


def test_estimates_how_many_records_are_wrong(audited: Audited) -> None:
    train = {row.id for row in audited.data.rows if row.split == "train"}
    share = len(train & audited.wrong) / len(train)
    print(
        f"wrong {share:.1%}, estimated at most {audited.result.wrong_at_most:.1%}, "
        f"cleanlab {audited.result.cleanlab:.1%}"
    )
    assert 0.7 * share < audited.result.wrong_at_most < 2 * share
    assert 0.4 < audited.result.recall <= 1


def test_every_photo_is_judged_once_and_the_table_says_so(audited: Audited) -> None:
    with prepared.audit_table(audited.data).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert sorted(row["id"] for row in rows) == sorted(row.id for row in audited.data.rows)
    suspicion = [float(row["suspicion"]) for row in rows]
    assert suspicion == sorted(suspicion, reverse=True)
    assert prepared.read_suspects(audited.data) == tuple(row["id"] for row in rows)


def test_dropping_suspects_touches_training_alone(audited: Audited) -> None:
    whole, less = load(audited), load(audited, drop_suspects=0.05)
    dropped = counts(whole.train).keys() - counts(less.train).keys()
    assert len(dropped) == len(whole.train) // 20
    suspects = [photo_id for photo_id in prepared.read_suspects(audited.data) if photo_id in counts(whole.train)]
    assert dropped == set(suspects[: len(dropped)])
    assert {photo.id for photo in less.skipped} >= dropped
    for name in ("validation", "test"):
        assert getattr(whole, name).fingerprint == getattr(less, name).fingerprint
    assert whole.fingerprint != less.fingerprint


def test_relabelling_touches_training_alone(audited: Audited, tmp_path: Path) -> None:
    whole = load(audited)
    changed, left_out, outside = (photo.id for photo in whole.train.photos[:3])
    held_out = whole.test.photos[0].id
    path = tmp_path / "relabel.csv"
    new = 1 + counts(whole.train)[changed] % 5
    path.write_text(f'id,count\n"{changed}",{new}\n{left_out},\n{outside},9\n{held_out},5\nnobody,3\n')
    data = load(audited, relabel_file=path)
    assert counts(data.train) == {
        **{photo_id: count for photo_id, count in counts(whole.train).items() if photo_id not in (left_out, outside)},
        changed: new,
    }
    assert data.train.labels[0] == new - 1
    assert {photo.id: photo.reason for photo in data.skipped} == {
        left_out: "the relabel file leaves it out",
        outside: "the new count 9 is outside COUNTS",
    }
    assert counts(data.test) == counts(whole.test)
    assert data.fingerprint != whole.fingerprint
    assert data.test.fingerprint == whole.test.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,count\n1,2\n", "'photo,count'"),
        ("id,count\n00001,-1\n", "00001 .*'-1'"),
        (None, "relabel.csv"),
    ],
)
def test_a_wrong_relabel_file_is_one_clear_error(drawn: Path, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "relabel.csv"
    if text:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        prepared.load_any(DataSpec(drawn, relabel_file=path), 32)


def test_suspects_need_an_audit(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prepare_data\.py"):
        prepared.load_any(DataSpec(drawn, drop_suspects=0.1), 32)
    prepare(drawn, tmp_path / "out", Counts())
    with pytest.raises(DataError, match=r"audit_labels\.py"):
        prepared.load_any(DataSpec(tmp_path / "out", drop_suspects=0.1), 32)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_suspects_outside_its_range_is_refused(audited: Audited, share: float) -> None:
    with pytest.raises(DataError, match=str(share)):
        load(audited, drop_suspects=share)


def test_a_model_learns_from_what_is_left(audited: Audited) -> None:
    fitted = fit(load(audited, limit=150, drop_suspects=0.1), TINY)
    assert np.isfinite(fitted.epochs[0].validation_loss)


def test_too_few_bins_of_a_count_are_named(tmp_path: Path) -> None:
    bins = synthetic.draw_dataset(tmp_path / "bins", 24, seed=1, counts=(1, 2, 3))
    data = prepare(bins, tmp_path / "out", Counts((1, 2, 3)))
    with pytest.raises(DataError, match=r"\d bins.* 5 "):
        audit(data, layout_features(data))


def test_the_contact_sheet_offers_training_photos_for_correction(audited: Audited) -> None:
    text = (audited.data.folder / prepared.AUDIT).read_text()
    shown = audited.result.doubts[:20]
    assert text.count("<img") == 1 + len(shown)
    assert text.count('type="number"') == sum(doubt.split == "train" for doubt in shown) > 0
    assert "http" not in text
    assert "<script src" not in text


def test_features_do_not_depend_on_the_batch(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare(drawn, tmp_path / "out", Counts())
    first = np.array(features.layout_features(data, 64))
    shutil.rmtree(tmp_path / "out" / "cache")
    monkeypatch.setattr(features, "BATCH", 7)
    assert np.allclose(first, features.layout_features(data, 64), atol=1e-4)


def test_a_count_that_is_missing_from_the_training_photos_is_refused(drawn: Path, tmp_path: Path) -> None:
    path = tmp_path / "relabel.csv"
    fives = [photo.id for photo in dataset.load(DataSpec(drawn), 32).train.photos if photo.count == 5]
    path.write_text("id,count\n" + "".join(f"{photo_id},4\n" for photo_id in fives))
    with pytest.raises(DataError, match=r" 5 objects; \d+ training photos"):
        prepared.load_any(DataSpec(drawn, relabel_file=path), 32)
