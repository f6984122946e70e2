"""What the recipe ``best`` adds: extra photos, frozen blocks, soft labels, running means, mirror images."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve.errors import DataError, TrainingError
from trainer.data import layouts, prepared, synthetic
from trainer.data.counts import Counts, all_counts, parse
from trainer.data.dataset import DataSpec, load
from trainer.data.prepare import prepare
from trainer.training import features
from trainer.training.features import Stem, Tail
from trainer.training.loop.batches import soft_labels
from trainer.training.loop.progress import Epoch
from trainer.training.networks import create
from trainer.training.recipes import RECIPES
from trainer.training.run import run_evaluation, run_training
from trainer.training.train import fit

COUNTS = Counts()
SMALL = replace(RECIPES["best"], size_px=64, epochs=1, batch_size=16, record_folds=0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn bins with 1-5 objects, and with 6, 7 and 9."""
    return synthetic.draw_dataset(tmp_path_factory.mktemp("many"), 240, 3, (1, 2, 3, 4, 5, 6, 7, 9))


@pytest.fixture(scope="module")
def out(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared."""
    folder = tmp_path_factory.mktemp("prepared") / "out"
    prepare(many, folder, COUNTS, extra=True)
    return folder


@pytest.mark.parametrize(
    ("counts", "wide"), [("1-5", "0-8+"), ("0-5", "0-8+"), ("1-9", "0-10+"), ("1-5+", "0-5+"), ("1,3", "0-8+")]
)
def test_every_count_has_an_output_of_its_own(counts: str, wide: str) -> None:
    assert str(all_counts(parse(counts))) == wide
    assert set(parse(counts).values) <= set(all_counts(parse(counts)).values)


def test_photos_of_other_counts_are_learned_from_and_judge_nothing(many: Path) -> None:
    without, data = load(DataSpec(many), 32), load(DataSpec(many), 32, extra=True)
    assert data.extra is not None
    assert (data.train.fingerprint, data.test.fingerprint) == (without.train.fingerprint, without.test.fingerprint)
    assert data.fingerprint != without.fingerprint
    assert set(Counter(photo.count for photo in data.extra.photos)) == {6, 7, 8}
    assert [all_counts(COUNTS).values[label] for label in data.extra.labels] == [
        photo.count for photo in data.extra.photos
    ]
    judged = {photo.bin for part in (data.validation, data.test) for photo in part.photos}
    assert not judged & {photo.bin for photo in data.extra.photos}
    # what is left out is named
    left_out = [photo.id for photo in data.skipped if "shows a bin of validation or test" in photo.reason]
    assert len(left_out) + len(data.extra) == 90


def test_a_bin_that_judges_teaches_nothing(many: Path, tmp_path: Path) -> None:
    """A record of 7 objects two ids away from a test photo, with the same product, is the same bin after a pick."""
    data = load(DataSpec(many), 32, extra=True)
    test = data.test.photos[0]
    groups = tmp_path / "labels.csv"
    assert data.extra is not None
    victim = data.extra.photos[0]
    rows = [(photo.id, photo.bin) for part in (data.train, data.validation, data.test) for photo in part.photos]
    rows += [(photo.id, test.bin if photo.id == victim.id else photo.bin) for photo in data.extra.photos]
    groups.write_text("id,bin_group\n" + "".join(f"{name},{group}\n" for name, group in rows))
    for folder in ("bin-images", "metadata"):
        (tmp_path / folder).symlink_to(many / folder)
    regrouped = load(DataSpec(tmp_path), 32, extra=True)
    split = next(
        name
        for name in ("train", "validation", "test")
        if test.id in {photo.id for photo in getattr(regrouped, name).photos}
    )
    assert regrouped.extra is not None
    assert (victim.id in {photo.id for photo in regrouped.extra.photos}) == (split == "train")


def test_prepared_they_are_the_same(many: Path, out: Path) -> None:
    memory, disk = load(DataSpec(many), 32, extra=True), prepared.load_any(DataSpec(out), 32, extra=True)
    assert memory.extra is not None
    assert disk.extra is not None
    assert disk.fingerprint == memory.fingerprint
    assert [photo.id for photo in disk.extra.photos] == [photo.id for photo in memory.extra.photos]
    assert np.array_equal(disk.extra.pixels[np.arange(9)], memory.extra.pixels[np.arange(9)])
    # and brought up to date with the others
    assert layouts.is_prepared(out / prepared.EXTRA)
    prepare(many, out, COUNTS)
    assert prepared.load_any(DataSpec(out), 32, extra=True).fingerprint == disk.fingerprint


def test_data_that_was_prepared_without_them_is_refused(drawn: Path, tmp_path: Path) -> None:
    prepare(drawn, tmp_path / "out", COUNTS)
    with pytest.raises(DataError, match="--extra"):
        prepared.load_any(DataSpec(tmp_path / "out"), 32, extra=True)


def test_a_source_without_other_counts_trains_too(drawn: Path) -> None:
    data = load(DataSpec(drawn), 32, extra=True)
    assert data.extra is None


def test_frozen_blocks_see_what_they_see_in_the_whole_network() -> None:
    torch.manual_seed(0)
    counter = create("efficientnet-lite0", 9, 64, "pretrained", class_indices=(1, 2, 3, 4, 5), mirrored=True)
    counter.freeze_blocks(5)
    pixels = torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        stem = Stem(counter).eval()(pixels)
        whole, tail = counter.eval()(pixels), Tail(counter).eval()(stem)
        assert torch.allclose(counter(pixels), counter(pixels.flip(2)), atol=1e-5)
    assert stem.dtype == torch.float16
    assert whole.shape == (4, 5)
    assert torch.allclose(whole, tail, atol=0.02)
    learning = [name for name, weights in counter.named_parameters() if weights.requires_grad]
    assert not [name for name in learning if "_conv_stem" in name or "_blocks.4." in name]
    assert [name for name in learning if "_blocks.5." in name]
    assert not counter.train().body.network._bn0.training  # type: ignore[union-attr]


def test_compiled_they_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = create("efficientnet-lite0", 9, 64, "pretrained")
    counter.freeze_blocks(5)
    photos = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    plain = features.make_predictor(Stem(counter), photos, 7)(slice(0, 7))
    monkeypatch.setattr(features, "MIN_PHOTOS_TO_COMPILE", 1)
    for rows in (slice(0, 7), slice(2, 3)):
        compiled = features.make_predictor(Stem(counter), photos, 7)(rows)
        assert compiled.dtype == plain.dtype == np.float16
        assert np.abs(compiled.astype(np.float32) - plain[rows].astype(np.float32)).max() < 0.01
    # compiled for one photo, it takes any number of them too
    one = features.make_predictor(Stem(counter), photos[:1], 1)(slice(0, 1))
    assert one.shape == plain[:1].shape


def test_only_a_network_with_blocks_has_frozen_blocks() -> None:
    with pytest.raises(TrainingError, match="only efficientnet-lite0"):
        create("resnet18", 5).freeze_blocks(2)


def test_a_soft_label_is_wide_as_far_as_counts_are_near() -> None:
    labels = soft_labels(Counts((1, 2, 4)), 1.0)
    assert labels.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert (labels[0, 1] / labels[0, 0]).item() == pytest.approx(np.exp(-0.5))
    assert (labels[0, 2] / labels[0, 0]).item() == pytest.approx(np.exp(-4.5))
    assert torch.equal(soft_labels(COUNTS, 0.0), torch.eye(5))


def test_best_learns_and_answers_only_what_is_asked(out: Path, tmp_path: Path) -> None:
    trained = run_training(DataSpec(out), SMALL, tmp_path, None)
    evaluation = run_evaluation(trained).evaluation
    assert evaluation.classes == ("1", "2", "3", "4", "5")
    assert evaluation.photos == len(trained.data.test)
    assert len(list((out / "cache").glob("*blocks*"))) == 1


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_interrupted_and_resumed_it_ends_with_the_same_weights(out: Path, tmp_path: Path, mixup: float) -> None:
    recipe = replace(SMALL, epochs=2, mixup=mixup)
    data = prepared.load_any(DataSpec(out, limit=80), 64, extra=True)
    whole = fit(data, recipe)

    class Killed(Exception):
        """What ends the first start."""

    def kill(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(data, recipe, kill, checkpoints=tmp_path)
    resumed = fit(data, recipe, checkpoints=tmp_path)
    assert resumed.resumed_at == 2
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name
