"""The record model in an archive: a demo model of drawn bins judges records with products."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import verdict
from serve.archives.archive import ask, judges_records, manifest_of, stamp, unpacked
from serve.counter import Answer, CountedPhoto, Counter
from serve.errors import ArchiveError, FieldError, PhotoError
from serve.evidence import Evidence
from serve.evidence.record import MAX_QUANTITY, Product, Record, parse_either, parse_products, parse_record
from serve.evidence.record_model import Columns, RecordModel
from serve.manifest import (
    FP32_MODEL,
    MANIFEST_FILE,
    RECORD_FILE,
    Form,
    Manifest,
    check_listed,
    parse_manifest,
    read_manifest,
    sha256,
)
from serve.runtime import onnx_runner
from tests.record_models import model_of
from tests.records import RECORD
from trainer.data.bin_records.records import read_json, records_of, right_records
from trainer.data.bin_records.wrong_records import ErrorKind
from trainer.data.dataset import DataSpec
from trainer.evaluation.evaluate import evaluate
from trainer.evaluation.paired import have_same_records
from trainer.evaluation.record_alarms import RIGHT
from trainer.training.forms import all_outputs
from trainer.training.quantise import quantise
from trainer.training.recipes import RECIPES
from trainer.training.record_training import record_scores
from trainer.training.run import Trained, run_training

OLD = Path(__file__).parents[1] / "data" / "bin-counter-8ed89dd.mar"
ALPHA = 0.2
"""Few calibration photos are enough for it."""
OF_PHOTO = ("count", "expected_count", "probabilities", "fit")
UNSIZED = {"products": [{"quantity": 2}, {"quantity": 1, "length": 3, "width": 2, "height": 1, "size_unit": "cm"}]}


@pytest.fixture(scope="module")
def demo(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An archive with a record model, by the recipe of the demo."""
    out = tmp_path_factory.mktemp("demo")
    return run_training(DataSpec(many), RECIPES["demo"], out, None, checkpoints=out / "checkpoints")


@pytest.fixture(scope="module")
def folder(demo: Trained) -> Iterator[Path]:
    with unpacked(demo.archive) as path:
        yield path


@pytest.fixture(scope="module")
def counter(folder: Path) -> Counter:
    return Counter(folder)


def counted_photo(counter: Counter, path: Path) -> CountedPhoto:
    (counted,) = counter.count([counter.read(path.read_bytes())])
    assert not isinstance(counted, PhotoError)
    return counted


@pytest.fixture(scope="module")
def judged(demo: Trained, counter: Counter) -> list[tuple[CountedPhoto, Record]]:
    """Test photos with their right records, all of them with sizes."""
    photos = demo.data.test.photos
    right = right_records(photos, demo.data.counts)
    return [(counted_photo(counter, photos[row].path), record) for row, record in list(right.items())[:20]]


def test_no_checkpoint_is_left_of_the_folds(demo: Trained) -> None:
    assert list((demo.archive.parent / "checkpoints").iterdir()) == []


def test_the_demo_has_a_record_model_and_scores_for_it(demo: Trained, folder: Path) -> None:
    manifest = read_manifest(folder)
    assert RECORD_FILE in manifest.files
    assert tuple(manifest.record_scores) == manifest.names
    right = right_records(demo.data.validation.halves(0)[1].photos, demo.data.counts)
    assert sum(map(len, manifest.record_scores.values())) == len(right)
    assert all(len(scores) >= verdict.min_calibration_photos(ALPHA) for scores in manifest.record_scores.values())
    assert judges_records(demo.archive)
    model = RecordModel.read(folder / RECORD_FILE)
    assert model.columns.classes == model.columns.learned == manifest.classes


def test_each_form_has_record_scores_of_its_own(demo: Trained, folder: Path, tmp_path: Path) -> None:
    manifest, model = read_manifest(folder), RecordModel.read(folder / RECORD_FILE)
    calibration = demo.data.validation.halves(0)[1]
    scores = {item.form: item.calibration.record_scores for item in manifest.forms}
    assert len({json.dumps(values) for values in scores.values()}) == len(scores) >= 1
    assert manifest.record_scores == scores[manifest.forms[0].form]
    assert manifest.for_gpu().record_scores == scores[Form.FP32]
    for item in manifest.forms:
        assert manifest.calibrated(item.calibration).record_scores == scores[item.form]
        outputs = all_outputs(onnx_runner(folder / item.form.file, 1, item.form), calibration)
        computed = record_scores(model, outputs, calibration, demo.data.counts)
        for name, values in computed.items():
            assert scores[item.form][name] == pytest.approx(values, abs=1e-4)
    quantise(folder / FP32_MODEL, tmp_path / "int8.onnx", calibration.pixels[:16])
    outputs = all_outputs(onnx_runner(tmp_path / "int8.onnx"), calibration)
    int8 = record_scores(model, outputs, calibration, demo.data.counts)
    assert {name: len(values) for name, values in int8.items()} == {
        name: len(values) for name, values in scores[Form.FP32].items()
    }
    assert int8["1"] != pytest.approx(scores[Form.FP32]["1"], abs=2e-3)


def test_with_sizes_photo_and_products_decide(
    counter: Counter, folder: Path, judged: list[tuple[CountedPhoto, Record]]
) -> None:
    model = RecordModel.read(folder / RECORD_FILE)
    for counted, record in judged:
        answer = counter.with_verdict(counted, record.quantity, ALPHA, record)
        name = str(record.quantity)
        assert (answer["evidence"], answer["expected_quantity"]) == (Evidence.PHOTO_PRODUCTS, record.quantity)
        assert answer["photo"] == {key: counted.answer[key] for key in OF_PHOTO}
        assert counted.outputs.features is not None
        photo = model.photo_features(counted.outputs.features[None])
        score = float(model.nonconformity(photo, [record])[0])
        fit = verdict.p_value(score, counter.manifest.record_scores[name])
        assert answer["fit"] == {**counted.answer["fit"], name: round(fit, 4)}
        (probabilities,) = model.count_probabilities(photo, [record])
        assert list(answer["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert answer["count"] == counter.manifest.classes[int(probabilities.argmax())]
        assert answer["probability"] == answer["probabilities"][name]
        assert (answer["verdict"] == "mismatch") == (fit <= ALPHA)
        assert f"about {answer['expected_count']:.0f} object" in answer["reason"]
        assert record.summary in answer["reason"]
        json.dumps(answer, allow_nan=False)


def test_the_quantities_of_a_record_change_its_fit_and_not_the_count(
    counter: Counter, judged: list[tuple[CountedPhoto, Record]]
) -> None:
    counted, record = next(pair for pair in judged if pair[1].quantity == 1)
    (product,) = record.listed
    answers = [
        counter.with_products(counted, Record(number, (replace(product, quantity=number),)), ALPHA)
        for number in (1, 2, 5)
    ]
    first, *others = [answer for answer in answers if answer is not None]
    assert len(others) == 2
    for answer in others:
        assert {key: answer[key] for key in OF_PHOTO[:3]} == {key: first[key] for key in OF_PHOTO[:3]}
    fits = [answer["fit"][name] for answer, name in zip((first, *others), "125", strict=True)]
    assert fits[0] > fits[2]


@pytest.mark.parametrize("reason", ["no products", "no sizes", "unknown quantity", "few calibration photos"])
def test_where_products_cannot_decide_the_photo_alone_does(
    counter: Counter, judged: list[tuple[CountedPhoto, Record]], reason: str
) -> None:
    counted, right = judged[0]
    (first, *rest), alpha = right.listed, ALPHA
    record = {
        "no products": Record(right.quantity),
        "no sizes": Record(right.quantity, (replace(first, sides_cm=None), *rest)),
        "unknown quantity": Record(60, (replace(first, quantity=60),)),
        "few calibration photos": right,
    }[reason]
    if reason == "few calibration photos":
        alpha = 0.01
    assert counter.with_products(counted, record, alpha) is None
    answer = counter.with_verdict(counted, record.quantity, alpha, record)
    alone = counter.with_verdict(counted, record.quantity, alpha)
    assert answer["evidence"] == Evidence.PHOTO
    assert "photo" not in answer
    assert answer.pop("notes", []) == list(record.notes)
    assert answer == alone
    assert answer["fit"] == counted.answer["fit"]


def test_a_gpu_judges_records_as_fp32_does(folder: Path, demo: Trained) -> None:
    counter = Counter(folder, device="cpu:0")
    manifest = read_manifest(folder)
    scores = next(item.calibration.record_scores for item in manifest.forms if item.form is Form.FP32)
    assert counter.manifest.record_scores == scores
    photo = demo.data.test.photos[0]
    record = records_of([photo])[photo.id]
    answer = counter.with_verdict(counted_photo(counter, photo.path), record.quantity, ALPHA, record)
    assert (answer["evidence"] == Evidence.PHOTO_PRODUCTS) == record.has_sizes


def asked(folder: Path, lines: list[str], **environ: str) -> "subprocess.CompletedProcess[str]":
    """The archive's own process."""
    return subprocess.run(
        [sys.executable, "-m", "serve.counter", "1"],
        cwd=folder,
        env={"PATH": "", "PYTHONDONTWRITEBYTECODE": "1", **environ},
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_process_of_an_archive_judges_a_record_or_several_or_none(
    folder: Path, demo: Trained, tmp_path: Path
) -> None:
    right = right_records(demo.data.test.photos, demo.data.counts)
    row, record = next(iter(right.items()))
    photo = demo.data.test.photos[row]
    path, content = str(photo.path), read_json(photo)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    several = [content, record.to_products(), *UNSIZED.values(), {"EXPECTED_QUANTITY": 3}]
    lines = [
        path,
        json.dumps({"path": path}),
        json.dumps({"path": path, "record": content}),
        json.dumps({"path": path, "record": record.to_products()}),
        json.dumps({"path": path, "records": several}),
        json.dumps({"path": path, "records": []}),
        json.dumps({"path": path, "record": {"EXPECTED_QUANTITY": -1}}),
        json.dumps({"path": path, "records": [content, {"EXPECTED_QUANTITY": -1}]}),
        json.dumps({"path": str(tmp_path / "broken.jpg"), "records": several}),
    ]
    process = asked(folder, lines, BINWATCH_ALPHA=str(ALPHA))
    assert process.returncode == 0, process.stderr
    plain, bare, verified, listed, supposed, none, *refused = map(json.loads, process.stdout.splitlines())
    assert plain == bare
    assert "verdict" not in plain
    assert (verified["evidence"], verified["alpha"]) == ("photo+products", ALPHA)
    assert {**listed, "notes": []} == {**verified, "notes": []}
    assert {key: supposed[key] for key in plain} == plain
    first, second, *without_sizes = supposed["records"]
    assert first == second == {key: verified[key] for key in first}
    assert without_sizes == [None, None]
    assert none == {**plain, "records": []}
    assert [list(answer) for answer in refused] == [["error"]] * 3
    assert "-1" in refused[0]["error"]
    assert "-1" in refused[1]["error"]


def test_a_wrong_alpha_stops_the_process_where_there_is_a_verdict_to_reach(folder: Path, demo: Trained) -> None:
    path = str(demo.data.test.photos[0].path)
    assert asked(folder, [path], BINWATCH_ALPHA="7").returncode == 0
    process = asked(folder, [json.dumps({"path": path, "record": RECORD})], BINWATCH_ALPHA="7")
    assert process.returncode != 0
    assert "BINWATCH_ALPHA" in process.stderr


def test_a_packed_archive_is_asked_about_records(demo: Trained) -> None:
    photos = [demo.data.test.photos[row] for row in right_records(demo.data.test.photos, demo.data.counts)]
    paths = [photo.path for photo in photos[:2]]
    answers = list(ask(demo.archive, paths, records={paths[1]: read_json(photos[1])}))
    assert ["verdict" in answer for answer in answers] == [False, True]
    supposed = list(ask(demo.archive, paths, supposed=[[read_json(photo)] for photo in photos[:2]]))
    assert [len(answer["records"]) for answer in supposed] == [1, 1]
    with pytest.raises(ArchiveError, match=OLD.name):
        list(ask(OLD, paths, supposed=[[], []]))


def test_the_evaluation_says_what_products_are_worth(demo: Trained) -> None:
    evaluation = evaluate(demo.archive, demo.data.test).evaluation.records
    assert evaluation is not None
    right = right_records(demo.data.test.photos, demo.data.counts)
    assert evaluation.photos == len(right)
    for item in evaluation.alarms:
        assert set(item.caught) == set(item.by_photo) == set(item.by_record) == set(ErrorKind)
        shares = [item.false_alarms, *item.caught.values(), *item.by_photo.values(), *item.by_record.values()]
        assert all(0 <= share <= 1 for share in shares)
        low, high = item.false_alarms_interval
        assert low <= item.false_alarms <= high
    loose = max(evaluation.alarms, key=lambda item: item.alpha)
    print(f"alpha {loose.alpha}: false alarms {loose.false_alarms:.2f}, caught {loose.caught}, photo {loose.by_photo}")
    assert np.mean(list(loose.caught.values())) > loose.false_alarms
    assert loose.caught[ErrorKind.OFF_BY_TWO] > loose.false_alarms
    metrics = evaluation.metrics()
    assert {"test_accuracy_with_products", "records_false_alarms_at_5", "records_caught_exchanged_at_5"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())


def test_an_archive_without_record_model_judges_the_same_records_by_their_quantities(demo: Trained) -> None:
    by_photo, by_products = evaluate(OLD, demo.data.test), evaluate(demo.archive, demo.data.test)
    assert by_photo.evaluation.records is None
    assert have_same_records(by_photo, by_products)
    for answer in by_photo.predictions:
        assert set(answer.record_fits.get(RIGHT, ())) <= {answer.fit[answer.recorded - 1]}
    few = demo.data.test.rows(np.arange(20))
    judged = evaluate(demo.archive, few)
    assert (judged.evaluation.records, judged.evaluation.records_fingerprint) == (None, "")
    assert not any(answer.record_fits for answer in judged.predictions)


def test_an_old_archive_has_no_record_scores() -> None:
    manifest = manifest_of(OLD)
    assert (manifest.record_scores, RECORD_FILE in manifest.files) == ({}, False)
    assert not judges_records(OLD)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """The unpacked archive, for a test to damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.to_json())


@pytest.mark.parametrize("damage", ["missing", "changed", "unlisted"])
def test_a_record_model_that_is_not_the_listed_one_is_refused(own: Path, damage: str) -> None:
    path, manifest = own / RECORD_FILE, read_manifest(own)
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\0\1")
    else:
        files = {name: digest for name, digest in manifest.files.items() if name != RECORD_FILE}
        write_manifest(own, replace(manifest, files=files))
    with pytest.raises(ArchiveError, match=RECORD_FILE):
        Counter(own)


@pytest.mark.parametrize("content", ["nothing", "other counts", "text"])
def test_a_listed_file_that_is_no_record_model_for_these_counts_is_refused(own: Path, content: str) -> None:
    path, manifest = own / RECORD_FILE, read_manifest(own)
    if content == "other counts":
        model_of(Columns(learned=(0, 1, 2), classes=(1, 2))).write(path)
    else:
        path.write_bytes(b"" if content == "nothing" else b"weights")
    write_manifest(own, replace(manifest, files={**manifest.files, RECORD_FILE: sha256(path)}))
    with pytest.raises(ArchiveError, match=RECORD_FILE):
        Counter(own)


@pytest.mark.parametrize("scores", [{"1": ["many"]}, {"1": [None]}, {"1": 3}, [1.0], "1"])
def test_scores_that_are_no_numbers_are_damage(folder: Path, scores: object) -> None:
    content = json.loads((folder / MANIFEST_FILE).read_text())
    with pytest.raises(ArchiveError, match=MANIFEST_FILE):
        parse_manifest(json.dumps({**content, "record_scores": scores}).encode())


def test_a_manifest_is_read_as_it_was_written(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert parse_manifest(manifest.to_json().encode()) == manifest
    check_listed(manifest)
    assert RECORD_FILE in manifest.named_files
    assert RECORD_FILE not in replace(manifest, record_scores={}).named_files


def test_without_scores_its_record_model_is_not_read(own: Path) -> None:
    manifest = read_manifest(own)
    forms = tuple(replace(item, calibration=replace(item.calibration, record_scores={})) for item in manifest.forms)
    files = {name: digest for name, digest in manifest.files.items() if name != RECORD_FILE}
    write_manifest(own, replace(manifest, record_scores={}, forms=forms, files=files))
    (own / RECORD_FILE).unlink()
    counter = Counter(own)
    counted = counted_photo(counter, own / manifest.golden[0].file)
    assert counter.with_products(counted, parse_record(RECORD), 1.0) is None


def test_the_archive_passes_verification(demo: Trained, tmp_path: Path) -> None:
    stamp(demo.archive, tmp_path / "stamped.mar", "3")
    assert manifest_of(tmp_path / "stamped.mar") == manifest_of(demo.archive)


def hostile_products(rng: random.Random) -> list[dict[str, Any]]:
    """Products whose numbers are at the edges of what can be, or beyond them."""
    sides = (0.05, 0.06, 1.0, 30.0, 299.9, 300.0, 1e-320, 0.0, -1.0, 301.0, 1e308, float("nan"), 10**400, None)
    quantities = (0, 1, 1, 2, 5, 60, 1000, MAX_QUANTITY, MAX_QUANTITY + 1, -1, 2.0, 1e30, float("inf"), "3", None)
    weights = (0.0005, 0.1, 200.0, 0.0, 1e9, -3.0, None)
    likely = rng.random() < 0.7

    def product() -> dict[str, Any]:
        length, width, height = (rng.choice(sides[:6] if likely else sides) for _ in range(3))
        quantity = rng.choice(quantities[:7] if likely else quantities)
        weight = {"weight": rng.choice(weights), "weight_unit": "kg"} if rng.random() < 0.8 else {}
        return {
            "quantity": quantity,
            "length": length,
            "width": width,
            "height": height,
            "size_unit": rng.choice(("cm", "cm", "in", "m")),
            **weight,
        }

    return [product() for _ in range(rng.choice((1, 1, 2, 3, 7, 200)))]


def test_hostile_products_are_refused_or_have_an_answer(
    counter: Counter, judged: list[tuple[CountedPhoto, Record]]
) -> None:
    rng, kinds = random.Random(0), dict.fromkeys([*Evidence, "refused"], 0)
    for number in range(300):
        try:
            record = parse_products(hostile_products(rng))
        except FieldError:
            kinds["refused"] += 1
            continue
        counted, alpha = judged[number % len(judged)][0], rng.choice((1e-4, 0.05, ALPHA, 1.0))
        answer = counter.with_verdict(counted, record.quantity, alpha, record)
        assert_possible(answer, record, counter.manifest)
        kinds[answer["evidence"]] += 1
    print(kinds)
    assert kinds["refused"] > 20
    assert kinds[Evidence.PHOTO] > 20
    # the same products, few enough of them for a count that the model knows
    for quantity in counter.manifest.classes:
        for side in (0.05, 300.0):
            product = Product(quantity=quantity, sides_cm=(side, side, side), weight_kg=200.0)
            record = Record(quantity, (product,))
            answer = counter.with_verdict(judged[0][0], quantity, 1.0, record)
            assert answer["evidence"] == Evidence.PHOTO_PRODUCTS
            assert_possible(answer, record, counter.manifest)


def assert_possible(answer: Answer, record: Record, manifest: Manifest) -> None:
    json.dumps(answer, allow_nan=False)
    assert answer["verdict"] in tuple(verdict.VerdictKind)
    assert answer["count"] in manifest.classes
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert all(0 < fit <= 1 for fit in answer["fit"].values())
    assert answer["expected_quantity"] == record.quantity
    assert len(answer["reason"]) < 1000


def test_records_that_a_client_sends_in_either_form_are_judged_alike(
    counter: Counter, judged: list[tuple[CountedPhoto, Record]]
) -> None:
    counted, record = judged[0]
    again = parse_either(json.loads(json.dumps(record.to_products())))
    answers = [counter.with_verdict(counted, record.quantity, ALPHA, item) for item in (record, again)]
    assert answers[0]["fit"] == answers[1]["fit"]
    assert answers[0]["reason"] == answers[1]["reason"]
