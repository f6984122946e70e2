"""The record model is trained on answers out of fold, and the networks learn the measures of records, too."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serve.evidence.record_model import MEASURES, Columns, RecordModel, measures, size_features
from serve.runtime import Outputs
from tests.models import TINY
from trainer.data.abid import Photo
from trainer.data.bin_records.records import records_of, right_records, with_sizes
from trainer.data.bin_records.wrong_records import Catalogue, ErrorKind, Pairs, make_pairs
from trainer.data.counts import Counts, all_counts
from trainer.data.dataset import Dataset, DataSpec, Part, Rows, load
from trainer.data.synthetic.stocking import stock_bins
from trainer.training import checkpoint
from trainer.training.loop.batches import Batch, batches, soft_labels, with_measures
from trainer.training.loop.epochs import Training
from trainer.training.loop.folds import Fold, HeldOut, joined
from trainer.training.loop.precision import ChosenPrecision
from trainer.training.loop.step import TrainingStep, measures_loss
from trainer.training.networks import create
from trainer.training.recipes import RECIPES
from trainer.training.record_training import (
    MEMBERS,
    MIN_CHOOSING,
    MIN_RECORDS,
    Schedule,
    _fit_count,
    _fit_ensemble,
    fit_record_model,
    helps,
    record_scores,
)
from trainer.training.run import FittedModel, load_and_fit, record_model_of
from trainer.training.scoring import predict_outputs
from trainer.training.train import fit

ROOT = Path(__file__).parents[2]
COUNTS = Counts()
COLUMNS = Columns(learned=COUNTS.values, classes=COUNTS.values)
OUTPUTS = len(COUNTS.values) + MEASURES
HEAD = (np.eye(OUTPUTS), np.zeros(OUTPUTS))
"""A head that hands its features on: they are the outputs."""
LOG_VOLUME = 0
"""The measure that is the logarithm of the volume of all units."""
TAUGHT = replace(TINY, auxiliary=1.0)


def written_bins(folder: Path, number: int, seed: int) -> tuple[Photo, ...]:
    """The records of drawn bins, without their pictures."""
    (folder / "metadata").mkdir(parents=True)
    bins = list(stock_bins(number, seed, COUNTS.values))
    for item in bins:
        (folder / "metadata" / f"{item.id}.json").write_text(json.dumps(item.record()))
    return tuple(Photo(item.id, len(item.items), folder / "bin-images" / f"{item.id}.jpg", item.id) for item in bins)


def noisy_outputs(photos: tuple[Photo, ...], seed: int) -> HeldOut:
    """What a mediocre network gives for these photos: counts and measures with errors."""
    rng, records = np.random.default_rng(seed), records_of(photos)
    counts = np.array([photo.count for photo in photos]) + rng.normal(scale=0.8, size=len(photos))
    logits = -((np.array(COUNTS.values) - counts[:, None]) ** 2)
    known = np.array([measures(records[photo.id]) for photo in photos])
    taught = np.nan_to_num(known) + rng.normal(scale=0.5, size=known.shape)
    return HeldOut(photos, np.concatenate([logits, taught], axis=1).astype(np.float32))


def part_of(photos: tuple[Photo, ...]) -> Part:
    labels = np.array([COUNTS.values.index(photo.count) for photo in photos])
    return Part(photos, Rows(np.zeros((len(photos), 1, 1, 3), np.uint8), np.arange(len(photos))), labels, "")


@pytest.fixture(scope="module")
def data(drawn: Path) -> Dataset:
    return load(DataSpec(drawn, limit=100), 32)


# folds


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_photo_is_held_out_once_and_no_bin_is_on_both_sides(data: Dataset, folds: int) -> None:
    held_out: list[str] = []
    for number in range(folds):
        train, inside = Fold(number, folds, 0).divide(data.train)
        assert {photo.bin for photo in train.photos}.isdisjoint(photo.bin for photo in inside.photos)
        assert len(train) + len(inside) == len(data.train)
        assert len(inside) > 0
        held_out += [photo.id for photo in inside.photos]
    assert sorted(held_out) == sorted(photo.id for photo in data.train.photos)
    assert len({photo.bin for photo in data.train.photos}) < len(data.train), "some bins have several photos"


def test_a_fold_has_the_pixels_labels_and_measures_of_its_photos(data: Dataset) -> None:
    taught = with_measures(data.train)
    places = {photo.id: row for row, photo in enumerate(taught.photos)}
    for side in Fold(1, 2, 0).divide(taught):
        rows = np.array([places[photo.id] for photo in side.photos])
        assert (side.labels == taught.labels[rows]).all()
        assert (side.pixels[:] == taught.pixels[rows]).all()
        assert side.measures is not None
        assert taught.measures is not None
        assert np.array_equal(side.measures, taught.measures[rows], equal_nan=True)


def test_the_seed_decides_which_bins_are_in_a_fold(data: Dataset) -> None:
    ids = [[photo.id for photo in Fold(0, 2, seed).divide(data.train)[1].photos] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_fold_is_not_learned_from_and_is_answered(data: Dataset) -> None:
    fold = Fold(0, 2, 0)
    result = fit(data, TAUGHT, fold=fold)
    inside = fold.divide(data.train)[1]
    assert result.held_out is not None
    assert result.held_out.photos == inside.photos
    assert result.held_out.outputs.shape == (len(inside), OUTPUTS)
    assert (result.held_out.outputs == predict_outputs(result.model, inside).numpy()).all()
    hidden = data.train.pixels.whole[:].copy()
    hidden[inside.pixels.index] = 0
    pixels = Rows(hidden, data.train.pixels.index)
    blind = fit(replace(data, train=replace(data.train, pixels=pixels)), TAUGHT, fold=fold)
    for name, weights in result.model.state_dict().items():
        assert torch.equal(weights, blind.model.state_dict()[name]), name
    assert fit(data, TINY).held_out is None


def test_joined_folds_keep_photos_beside_their_outputs(data: Dataset) -> None:
    parts = [
        HeldOut(data.train.photos[rows], np.full((10, 2), value, np.float32))
        for rows, value in ((slice(0, 10), 0), (slice(10, 20), 1))
    ]
    together = joined(parts)
    assert together.photos == data.train.photos[:20]
    assert together.outputs[:, 0].tolist() == [0.0] * 10 + [1.0] * 10


# measures


def test_a_network_learns_the_measures_of_records(drawn: Path) -> None:
    data = load(DataSpec(drawn), 48)
    result = fit(data, replace(RECIPES["demo"], epochs=8))
    outputs = predict_outputs(result.model, data.test).numpy()
    assert outputs.shape == (len(data.test), OUTPUTS)
    volumes = np.array([measures(record)[LOG_VOLUME] for record in with_sizes(data.test.photos).values()])
    predicted = outputs[list(with_sizes(data.test.photos)), len(COUNTS.values) + LOG_VOLUME]
    correlation = float(np.corrcoef(volumes, predicted)[0, 1])
    print(f"correlation of {len(volumes)} predicted and true log volumes: {correlation:.2f}")
    assert correlation > 0.3


def test_unknown_measures_cost_nothing_and_teach_nothing() -> None:
    torch.manual_seed(0)
    predicted, known = torch.randn(4, MEASURES, requires_grad=True), torch.randn(4, MEASURES)
    partly = known.clone()
    partly[1], partly[2, 3] = torch.nan, torch.nan
    loss = measures_loss(predicted, partly)
    losses = nn.functional.smooth_l1_loss(predicted, known, reduction="none")
    expected = losses.sum() - losses[1].sum() - losses[2, 3]
    assert loss.item() == pytest.approx(expected.item() / MEASURES, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert not gradient[partly.isnan()].any()
    assert gradient[~partly.isnan()].all()
    assert measures_loss(predicted, torch.full((4, MEASURES), torch.nan)).item() == 0


def step_loss(batch: Batch, **changes: float) -> float:
    torch.manual_seed(0)
    recipe = replace(TAUGHT, **changes)  # type: ignore[arg-type]
    model = create("small", OUTPUTS, 32, class_indices=tuple(range(5)))
    step = TrainingStep(model, recipe, soft_labels(COUNTS, 0.0), 1, torch.device("cpu"))
    step.use(ChosenPrecision("float32", ""))
    step.network.train()
    loss, logits = step.forward(batch, (1, 1))
    assert logits.shape == (len(batch.labels), len(COUNTS.values))
    return float(loss.item())


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_without_known_measures_the_loss_is_that_of_the_counts(data: Dataset, mixup: float) -> None:
    batch = next(batches(with_measures(data.train), TAUGHT, 1))
    unknown = batch._replace(measures=torch.full_like(batch.measures, torch.nan))
    assert step_loss(unknown, mixup=mixup) == step_loss(unknown, mixup=mixup, auxiliary=100.0)
    assert step_loss(batch, mixup=mixup) > step_loss(unknown, mixup=mixup)


def test_photos_without_a_record_have_unknown_measures(drawn: Path, tmp_path: Path) -> None:
    photos = load(DataSpec(drawn, limit=40), 32).train.photos
    elsewhere = tuple(replace(photo, path=tmp_path / photo.path.name) for photo in photos[:5])
    taught = with_measures(part_of((*elsewhere, *photos[5:]))).measures
    assert taught is not None
    assert taught.shape == (len(photos), MEASURES)
    assert taught.dtype == np.float32
    assert np.isnan(taught[:5]).all()
    assert not np.isnan(taught[5:, LOG_VOLUME]).all()
    empty = with_measures(part_of(()))
    assert empty.measures is not None
    assert empty.measures.shape == (0, MEASURES)


def test_without_the_auxiliary_loss_the_head_has_an_output_for_each_count(data: Dataset) -> None:
    assert fit(data, TINY).model.head.out_features == len(COUNTS.values)
    assert fit(data, TAUGHT).model.head.out_features == OUTPUTS
    assert next(batches(data.train, TINY, 1)).measures.shape == (TINY.batch_size, 0)


# the record model


@pytest.fixture(scope="module")
def bins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HeldOut]:
    """Records with what a mediocre network gives for them: some to learn from, others to choose by and to judge."""
    folder = tmp_path_factory.mktemp("records")
    numbers = {"learn": 260, "choose": 200, "judge": 300}
    return {
        name: noisy_outputs(written_bins(folder / name, number, seed), seed)
        for seed, (name, number) in enumerate(numbers.items())
    }


@pytest.fixture(scope="module")
def model(bins: dict[str, HeldOut]) -> RecordModel:
    fitted = fit_record_model(bins["learn"], COLUMNS, COUNTS, HEAD, 0)
    assert fitted is not None
    return fitted


def pairs_of(answered: HeldOut) -> Pairs:
    right = right_records(answered.photos, COUNTS)
    return make_pairs(right, Catalogue(list(right.values())), 7)


def caught(pairs: Pairs, scores: NDArray[np.float64], kind: ErrorKind) -> float:
    """The share of wrong records that fit worse than 90 % of right records of the same quantity."""
    shares = []
    for quantity in COUNTS.values:
        same = pairs.quantities == quantity
        of_kind = np.array([item is kind for item in pairs.kinds])
        limit = np.quantile(scores[same & pairs.right], 0.9)
        shares += (scores[same & of_kind] > limit).tolist()
    return float(np.mean(shares))


def test_wrong_records_fit_worse_than_right_ones(model: RecordModel, bins: dict[str, HeldOut]) -> None:
    photos, pairs = COLUMNS.photo_features(bins["judge"].outputs.astype(np.float64)), pairs_of(bins["judge"])
    both = model.nonconformity(photos[pairs.rows], pairs.records)
    by_count = COLUMNS.count_nonconformity(photos[pairs.rows], pairs.quantities)
    alone = -model.without_photo(pairs.records)
    shares = {
        kind.value: [round(caught(pairs, scores, kind), 2) for scores in (both, by_count, alone)] for kind in ErrorKind
    }
    print(f"caught at 10 % false alarms with products, by the count, and by the record alone: {shares}")
    for with_products, without, by_record in shares.values():
        assert with_products > without - 0.03
        assert with_products > by_record + 0.05
    means = np.mean(list(shares.values()), axis=0)
    assert means[0] > means[1] + 0.1
    assert shares[ErrorKind.OFF_BY_TWO][0] > 0.6


def test_the_record_alone_hardly_tells_what_is_missing_or_exchanged(
    model: RecordModel, bins: dict[str, HeldOut]
) -> None:
    """What a record gains is drawn from records of the same quantity."""
    pairs = pairs_of(bins["judge"])
    alone = -model.without_photo(pairs.records)
    for kind in (ErrorKind.MISSING, ErrorKind.EXCHANGED):
        assert caught(pairs, alone, kind) < 0.25


def test_sizes_make_counting_better(model: RecordModel, bins: dict[str, HeldOut]) -> None:
    photos, right = COLUMNS.photo_features(bins["judge"].outputs.astype(np.float64)), pairs_of(bins["judge"]).right
    pairs = pairs_of(bins["judge"])
    rows, records = pairs.rows[right], [item for item, kind in zip(pairs.records, pairs.kinds, strict=True) if not kind]
    quantities = np.array([record.quantity for record in records])
    with_products = model.count_probabilities(photos[rows], records)
    alone = np.exp(photos[rows, : len(COUNTS.values)])
    values = np.array(COUNTS.values)
    errors = [np.sqrt(np.mean((shares @ values - quantities) ** 2)) for shares in (with_products, alone)]
    print(f"RMSE with products {errors[0]:.2f}, alone {errors[1]:.2f}")
    assert errors[0] < errors[1]


def test_it_helps_where_it_tells_more_than_the_count(model: RecordModel, bins: dict[str, HeldOut]) -> None:
    rng = np.random.default_rng(0)
    weights = tuple(rng.normal(size=weight.shape) for weight in model.agreement.weights)
    random = replace(model, agreement=replace(model.agreement, weights=weights))
    assert helps(model, bins["choose"], COUNTS, 0)
    assert not helps(random, bins["choose"], COUNTS, 0)
    few = HeldOut(bins["choose"].photos[: MIN_CHOOSING - 1], bins["choose"].outputs[: MIN_CHOOSING - 1])
    assert not helps(model, few, COUNTS, 0)


def test_too_few_records_make_no_model(bins: dict[str, HeldOut], tmp_path: Path) -> None:
    photos, outputs = bins["learn"].photos, bins["learn"].outputs
    few = HeldOut(photos[: MIN_RECORDS - 1], outputs[: MIN_RECORDS - 1])
    assert fit_record_model(few, COLUMNS, COUNTS, HEAD, 0) is None
    elsewhere = HeldOut(tuple(replace(photo, path=tmp_path / photo.path.name) for photo in photos), outputs)
    assert fit_record_model(elsewhere, COLUMNS, COUNTS, HEAD, 0) is None
    corrected = HeldOut(tuple(replace(photo, count=photo.count % 5 + 1) for photo in photos), outputs)
    assert fit_record_model(corrected, COLUMNS, COUNTS, HEAD, 0) is None


def test_a_record_is_right_where_it_says_the_count_of_the_photo(bins: dict[str, HeldOut]) -> None:
    photos = bins["judge"].photos
    right = right_records(photos, COUNTS)
    assert right == with_sizes(photos)
    row = next(row for row in right if photos[row].count == 4)
    corrected = tuple(replace(photo, count=3) if photo is photos[row] else photo for photo in photos)
    assert right_records(corrected, COUNTS).keys() == right.keys() - {row}
    # 3 stands for 3 and above
    open_top = Counts((1, 2, 3), open_top=True)
    counted = tuple(replace(photo, count=min(photo.count, 3)) for photo in photos)
    assert right_records(counted, open_top).keys() == right.keys()
    assert all(all_counts(COUNTS).count_of(record.quantity) == photos[row].count for row, record in right.items())


def test_each_count_has_the_scores_of_its_right_records_ascending(model: RecordModel, bins: dict[str, HeldOut]) -> None:
    judge = bins["judge"]
    part, outputs = part_of(judge.photos), Outputs(judge.outputs[:, :5].astype(np.float64), judge.outputs)
    scores = record_scores(model, outputs, part, COUNTS)
    right = right_records(judge.photos, COUNTS)
    assert tuple(scores) == COUNTS.names
    for name, values in scores.items():
        rows = [row for row in right if judge.photos[row].count == int(name)]
        features = model.photo_features(judge.outputs[rows])
        expected = np.sort(model.nonconformity(features, [right[row] for row in rows]))
        assert values == pytest.approx(expected, abs=1e-5)
        assert list(values) == sorted(values)
    # a corrected label takes its photo out, and adds it nowhere
    row = next(iter(right))
    photo = judge.photos[row]
    wrong = photo.count % 5 + 1
    photos = tuple(replace(photo, count=wrong) if place == row else item for place, item in enumerate(judge.photos))
    corrected = record_scores(model, outputs, part_of(photos), COUNTS)
    assert len(corrected[str(photo.count)]) == len(scores[str(photo.count)]) - 1
    assert corrected[str(wrong)] == scores[str(wrong)]


def test_calibration_photos_without_records_give_no_scores(model: RecordModel, tmp_path: Path) -> None:
    photos = tuple(Photo(str(number), 1, tmp_path / f"{number}.jpg", str(number)) for number in range(3))
    outputs = Outputs(np.zeros((3, 5)), np.zeros((3, OUTPUTS), np.float32))
    assert record_scores(model, outputs, part_of(photos), COUNTS) == {}


def test_the_same_seed_fits_the_same_ensemble_and_leaves_other_random_numbers_alone() -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(80, 6)), torch.from_numpy(rng.integers(0, 2, 80)).float()

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets[rows])

    schedule, state = Schedule(width=8, epochs=2, batch_size=32, min_steps=5), torch.get_rng_state()
    first, second, reseeded = (_fit_ensemble(inputs, 1, loss, schedule, seed).arrays("a") for seed in (0, 0, 9))
    assert torch.equal(torch.get_rng_state(), state)
    assert all((first[name] == second[name]).all() for name in first)
    assert not (first["a.weight0"] == reseeded["a.weight0"]).any()
    assert len({first["a.weight0"][member].tobytes() for member in range(MEMBERS)}) == MEMBERS, "its members differ"


def test_an_input_that_is_always_the_same_is_not_scaled_up() -> None:
    """A record can have what none of those learned from has, such as a product of another size."""
    inputs = np.random.default_rng(0).normal(size=(80, 2))
    inputs[:, 1] = -1 / 1.4

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return outputs.square().mean()

    ensemble = _fit_ensemble(inputs, 1, loss, Schedule(width=8, epochs=1, batch_size=32, min_steps=2), 0)
    assert ensemble.spread[1] >= 0.01
    assert ensemble.spread[0] == pytest.approx(inputs[:, 0].std(), rel=1e-3)


def test_the_open_top_count_is_learned_from_all_that_it_stands_for(bins: dict[str, HeldOut]) -> None:
    """Photos of 4 and 5 objects count as 3, which stands for 3 and above."""
    counts = Counts((1, 2, 3), open_top=True)
    photos = tuple(replace(photo, count=min(photo.count, 3)) for photo in bins["learn"].photos)
    outputs = bins["learn"].outputs[:, [0, 1, 2, *range(5, OUTPUTS)]]
    columns = Columns(learned=counts.values, classes=counts.values)
    features, right = columns.photo_features(outputs.astype(np.float64)), right_records(photos, counts)
    ensemble = _fit_count(features, right, counts, counts.values, 0)
    rows = [row for row, record in right.items() if record.quantity == 5]
    sizes = np.array([size_features(right[row]) for row in rows])
    logits = ensemble(np.concatenate([features[rows], sizes], axis=1))
    assert logits.shape == (len(rows), 3)
    assert (logits.argmax(axis=1) == 2).mean() > 0.9


# the training job


FOLDED = replace(TAUGHT, epochs=2, record_folds=2)


@pytest.fixture(scope="module")
def spec(many: Path) -> DataSpec:
    """As many drawn bins as a record model needs."""
    return DataSpec(many, limit=340)


@pytest.fixture(scope="module")
def uninterrupted(spec: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    return load_and_fit(spec, FOLDED, tmp_path_factory.mktemp("whole"), None, folds=True)


def test_a_training_answers_all_its_photos_by_networks_of_the_other_fold(uninterrupted: FittedModel) -> None:
    held_out = uninterrupted.held_out
    assert held_out is not None
    train = uninterrupted.data.train
    assert sorted(photo.id for photo in held_out.photos) == sorted(photo.id for photo in train.photos)
    assert held_out.outputs.shape == (len(train), OUTPUTS)
    rows = np.array([[photo.id for photo in train.photos].index(photo.id) for photo in held_out.photos])
    own = predict_outputs(uninterrupted.result.model, train.rows(rows)).numpy()
    assert not np.isclose(own, held_out.outputs).all(axis=1).any()


def test_a_training_interrupted_in_its_second_fold_resumes_there(
    spec: DataSpec, uninterrupted: FittedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train_batch = Training._train_batch

    def terminate(self: Any, *arguments: Any) -> None:
        train_batch(self, *arguments)
        trained.append(self.recipe.name)
        if trained.count(f"{FOLDED.name}, fold 2 of 2") == 5:  # of eight batches in two epochs
            os.kill(os.getpid(), signal.SIGTERM)

    inputs, folder = (spec, FOLDED, tmp_path / "out", None), tmp_path / "checkpoints"
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_batch", terminate)
        with pytest.raises(SystemExit) as exit_info:
            load_and_fit(*inputs, checkpoints=folder, folds=True)
    assert exit_info.value.code == 143
    names = {str(path.relative_to(folder)) for path in folder.rglob(checkpoint.NAME)}
    assert names == {checkpoint.NAME, *(f"fold-{number}/{checkpoint.NAME}" for number in (0, 1))}
    interrupted = len(trained)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_batch", terminate)
        resumed = load_and_fit(*inputs, checkpoints=folder, folds=True)
    assert set(trained[interrupted:]) == {f"{FOLDED.name}, fold 2 of 2"}
    assert 0 < len(trained) - interrupted < 5
    assert resumed.held_out is not None
    assert uninterrupted.held_out is not None
    assert resumed.held_out.photos == uninterrupted.held_out.photos
    assert (resumed.held_out.outputs == uninterrupted.held_out.outputs).all()
    for name, weights in uninterrupted.result.model.state_dict().items():
        assert torch.equal(weights, resumed.result.model.state_dict()[name]), name


def test_a_trial_trains_no_folds(spec: DataSpec, tmp_path: Path) -> None:
    """A trial of a search exports nothing."""
    fitted = load_and_fit(spec, replace(FOLDED, epochs=1), tmp_path, None, checkpoints=tmp_path / "checkpoints")
    assert fitted.held_out is None
    assert record_model_of(fitted, FOLDED) is None
    assert [path.name for path in (tmp_path / "checkpoints").rglob("*")] == [checkpoint.NAME]


def test_photos_with_too_few_records_train_no_folds(drawn: Path, tmp_path: Path) -> None:
    fitted = load_and_fit(
        DataSpec(drawn, limit=100), FOLDED, tmp_path, None, checkpoints=tmp_path / "checkpoints", folds=True
    )
    assert fitted.held_out is None
    assert [path.name for path in (tmp_path / "checkpoints").rglob("*")] == [checkpoint.NAME]


PROCESS = """
import hashlib, os, sys
from dataclasses import replace
from pathlib import Path
from tests.training.test_record_training import FOLDED
from trainer.data.dataset import DataSpec
from trainer.training import distributed
from trainer.training.run import load_and_fit

with distributed.process_group(os.environ):
    recipe = replace(FOLDED, epochs=1)
    fitted = load_and_fit(DataSpec(Path(sys.argv[1]), limit=340), recipe, Path(sys.argv[2]), None, folds=True)
    outputs = fitted.held_out.outputs
    digest, photos = hashlib.sha256(outputs.tobytes()).hexdigest(), len(fitted.held_out.photos)
    sys.stdout.write(f"{digest} {photos} {outputs.sum()}\\n")  # print writes piece by piece, between those of the other
"""


def test_two_processes_answer_the_folds_alike(spec: DataSpec, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (tmp_path / "job.py").write_text(PROCESS)
    command = [*launcher, str(tmp_path / "job.py"), str(spec.source), str(tmp_path / "out")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    first, second = (line.split() for line in process.stdout.splitlines())
    assert first == second
    assert int(first[1]) == len(load(spec, 8).train)
