"""Records of photos, and what the records of drawn bins say about the pictures."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.evidence.record import Record
from trainer import options
from trainer.data import synthetic
from trainer.data.abid import Photo, read_inventory
from trainer.data.bin_records.records import records_of
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec, load
from trainer.data.layouts import read_source
from trainer.data.prepare import prepare
from trainer.data.prepared import load_any
from trainer.data.synthetic.catalogue import Catalogue, DrawnProduct
from trainer.data.synthetic.stocking import PX_PER_CM, VARIATION, Bin, stock_bins

COUNTS = (1, 2, 3, 4, 5)
LB_KG = 0.45359237


def records(folder: Path) -> tuple[list[Photo], dict[str, Record]]:
    photos = list(read_inventory(folder, Counts()).photos)
    return photos, records_of(photos)


def sides_cm(product: DrawnProduct) -> list[float] | None:
    """The sides in the record, the longest first."""
    entries = [product.entry[side] for side in ("length", "width", "height")]
    return [2.54 * entry["value"] for entry in entries] if all(entries) else None  # type: ignore[index]


@pytest.fixture
def bins(drawn: Path, tmp_path: Path) -> Path:
    """Drawn bins that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "bins"))


def test_each_drawn_photo_has_a_record_of_its_count(drawn: Path) -> None:
    photos, by_id = records(drawn)
    assert {photo.id: photo.count for photo in photos} == {key: record.quantity for key, record in by_id.items()}
    products = [product for record in by_id.values() for product in record.listed]
    assert 0.9 < sum(product.sides_cm is not None for product in products) / len(products) < 1
    assert 0.9 < sum(product.weight_kg is not None for product in products) / len(products) < 1
    assert 0.1 < sum(product.quantity > 1 for product in products) / len(products) < 0.5


def test_a_prepared_dataset_has_the_same_records(drawn: Path, tmp_path: Path) -> None:
    prepare(drawn, tmp_path / "out", Counts())
    loaded, prepared = load(DataSpec(drawn), 32), load_any(DataSpec(tmp_path / "out"), 32)
    assert records_of(loaded.test.photos) == records_of(prepared.test.photos) != {}


def test_a_record_that_cannot_be_parsed_is_absent(bins: Path) -> None:
    photos = list(read_inventory(bins, Counts()).photos)
    first, second, third, *rest = photos
    (bins / "metadata" / f"{first.id}.json").write_text("{")
    (bins / "metadata" / f"{second.id}.json").unlink()
    path = bins / "metadata" / f"{third.id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "EXPECTED_QUANTITY": 77}))
    assert records_of(photos).keys() == {photo.id for photo in rest}


def test_photos_of_other_layouts_have_no_records(drawn: Path, tmp_path: Path) -> None:
    for photo in read_inventory(drawn, Counts()).photos[:20]:
        (tmp_path / "photos" / str(photo.count)).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo.path, tmp_path / "photos" / str(photo.count) / photo.path.name)
    lines = [f"{photo.path.relative_to(drawn)},{photo.count}" for photo in read_inventory(drawn, Counts()).photos]
    table = drawn.parent / "table.csv"
    table.write_text("\n".join(["path,count", *(f"{drawn.name}/{line}" for line in lines)]))
    for source in (tmp_path / "photos", table):
        photos = read_source(source, Counts(), require_each=False).photos
        assert len(photos) >= 20
        assert records_of(photos) == {}


def test_the_real_records_list_products_with_sizes_and_weights(abid: Path) -> None:
    photos, by_id = records(abid)
    assert len(by_id) > 0.99 * len(photos)
    assert all(by_id[photo.id].quantity == photo.count for photo in photos if photo.id in by_id)
    products = [product for record in by_id.values() for product in record.listed]
    assert sum(product.sides_cm is not None for product in products) > 0.98 * len(products)
    assert sum(product.weight_kg is not None for product in products) > 0.95 * len(products)


def drawn_bins() -> Iterator[Bin]:
    return stock_bins(300, 1, COUNTS)


def test_an_object_is_drawn_as_large_as_its_product(drawn: Path) -> None:
    items = [item for drawn_bin in drawn_bins() for item in drawn_bin.items]
    for item in items:
        assert item.width == pytest.approx(PX_PER_CM * item.product.width_cm, rel=1.01 * VARIATION)
        assert item.height == pytest.approx(PX_PER_CM * item.product.height_cm, rel=1.01 * VARIATION)
        sides = sides_cm(item.product)
        for shown in (item.product.width_cm, item.product.height_cm):
            assert sides is None or any(side == pytest.approx(shown, abs=0.01) for side in sides)
    by_id = records(drawn)[1]
    for drawn_bin in drawn_bins():
        listed = {product.id: product for product in by_id[drawn_bin.id].listed}
        assert sum(product.quantity for product in listed.values()) == len(drawn_bin.items)
        assert listed.keys() == {item.product.id for item in drawn_bin.items}


def test_units_of_a_product_look_alike_and_products_do_not() -> None:
    products = Catalogue(1).products
    assert len({product.id for product in products}) == len(products)
    looks = {(product.kind, product.colour, product.width_cm, product.height_cm) for product in products}
    assert len(looks) == len(products)


def test_a_seed_keeps_its_bins() -> None:
    """A dataset that was prepared from drawn bins, and all seeds in tests, count on it."""
    first = [(drawn_bin.id, len(drawn_bin.items)) for drawn_bin in stock_bins(100, 0, COUNTS)][:6]
    assert first == [("00003", 4), ("00006", 4), ("00009", 2), ("00012", 3), ("00013", 4), ("00016", 4)]


def test_a_bin_keeps_its_products_after_a_change() -> None:
    before, pairs = Bin("", (), 0), 0
    for after in drawn_bins():
        if before.id and int(after.id) - int(before.id) == 1:
            pairs += 1
            ids = [{item.product.id for item in drawn_bin.items} for drawn_bin in (before, after)]
            assert ids[0] <= ids[1] or ids[1] <= ids[0]
            assert abs(len(before.items) - len(after.items)) == 1
        before = after
    assert pairs > 20


def test_the_catalogue_has_gaps_and_a_few_absurd_weights() -> None:
    products = [product for seed in range(10) for product in Catalogue(seed).products]
    without_sizes = sum(sides_cm(product) is None for product in products)
    weights = [product.entry["weight"] for product in products]
    densities = [
        1000 * LB_KG * weight["value"] / volume  # type: ignore[index]
        for product, weight in zip(products, weights, strict=True)
        if weight and (volume := _volume(product))
    ]
    absurd = sum(not 0.05 < density < 2 for density in densities)
    assert 0.015 < without_sizes / len(products) < 0.05
    assert 0.015 < weights.count(None) / len(products) < 0.05
    assert 0.003 < absurd / len(densities) < 0.02


def _volume(product: DrawnProduct) -> float | None:
    sides = sides_cm(product)
    return sides[0] * sides[1] * sides[2] if sides else None


def test_other_seeds_have_other_products() -> None:
    first, second = ({product.id for product in Catalogue(seed).products} for seed in (0, 1))
    assert len(first & second) < 5


def test_without_data_bins_are_drawn_once_for_each_version_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "DRAWN_PHOTOS", 10)
    spec = options.data_spec({}, tmp_path / "drawn")
    stamps = {path: path.stat().st_mtime_ns for path in spec.source.rglob("*.jpg")}
    assert (len(stamps), spec.source.name) == (10, f"drawn-{synthetic.version()}")
    assert options.data_spec({}, tmp_path / "drawn") == spec
    assert {path: path.stat().st_mtime_ns for path in spec.source.rglob("*.jpg")} == stamps
    spec.source.rename(tmp_path / "drawn-01234567")  # the name that other code would have given it
    assert options.data_spec({}, tmp_path / "drawn") == spec
    assert len(list(spec.source.rglob("*.jpg"))) == 10
