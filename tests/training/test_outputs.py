"""What the exported network gives beside the logits: features, maps, and the test for photos that show no bin."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from serve.answers import Predictor
from serve.archives.archive import manifest_of, stamp, unpacked
from serve.counter import Counter, torch_runner
from serve.errors import ArchiveError
from serve.evidence.fields import parse_fields
from serve.evidence.novelty import FeatureSpace, typical
from serve.links import PhotoStore
from serve.manifest import FP32_MODEL, GPU_PROGRAM, MANIFEST_FILE, NOVELTY_FILE, Form, check_listed, read_manifest
from serve.payload import PhotoInput
from serve.runtime import onnx_runner
from tests.models import TINY
from trainer.training.export import write_archive
from trainer.training.networks import Counter as Network
from trainer.training.networks import create
from trainer.training.quantise import quantise
from trainer.training.run import Trained

OLD = Path(__file__).parents[1] / "data" / "bin-counter-8ed89dd.mar"
SIZE_PX = 64


def pixels(photos: int, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (photos, size_px, size_px, 3), dtype=np.uint8)


def network(architecture: str, mirrored: bool = False, class_indices: tuple[int, ...] = ()) -> Network:
    torch.manual_seed(0)
    return create(architecture, 6, SIZE_PX, class_indices=class_indices, mirrored=mirrored).eval()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("architecture", ["tiny", "resnet18", "efficientnet-lite0", "alexnet"])
def test_the_logits_are_those_of_the_network_to_the_bit(architecture: str, mirrored: bool) -> None:
    model, batch = network(architecture, mirrored, (1, 2, 4)), torch.tensor(pixels(3))
    with torch.inference_mode():
        outputs, expected = model.outputs(batch), model(batch)
    assert torch.equal(outputs["logits"], expected)
    assert next(iter(outputs)) == "logits"
    assert outputs["features"].shape == (3, model.head.in_features)
    assert ("maps" in outputs) == (architecture != "alexnet")


@pytest.mark.parametrize("architecture", ["tiny", "resnet18", "efficientnet-lite0"])
def test_the_mean_of_a_map_is_the_logit_without_its_bias(architecture: str) -> None:
    model = network(architecture, class_indices=(0, 3, 5))
    with torch.inference_mode():
        outputs = model.outputs(torch.tensor(pixels(2)))
        means = outputs["maps"].mean((2, 3)) + model.head.bias[[0, 3, 5]]
    assert torch.allclose(means, outputs["logits"], atol=1e-4)


def test_a_mirrored_network_sees_a_photo_and_its_mirror_image_alike() -> None:
    model, batch = network("tiny", mirrored=True), torch.tensor(pixels(2))
    with torch.inference_mode():
        outputs, flipped = model.outputs(batch), model.outputs(batch.flip(2))
    assert torch.allclose(outputs["features"], flipped["features"], atol=1e-5)
    assert torch.allclose(outputs["maps"], flipped["maps"].flip(3), atol=1e-5)


def test_an_archive_of_before_outputs_had_names_gives_logits_alone(tmp_path: Path) -> None:
    with unpacked(OLD) as folder:
        manifest = read_manifest(folder)
        outputs = onnx_runner(folder / FP32_MODEL)(pixels(2, manifest.size_px))
    assert outputs.logits.shape == (2, len(manifest.classes))
    assert (outputs.features, outputs.maps, manifest.novelty) == (None, None, ())
    stamp(OLD, tmp_path / "stamped.mar", "1")


@pytest.fixture(scope="module")
def tested(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with a test for photos that show no bin, unpacked. More photos calibrate it than selected it."""
    out = tmp_path_factory.mktemp("tested")
    torch.manual_seed(0)
    model, (selection, _) = create("resnet18", 5, 32).train(), trained.data.validation.halves(0)
    for _ in range(20):  # untrained, but normalised: all photos would have nearly the same features
        model(torch.tensor(trained.data.test.pixels[:64]))
    data = replace(trained.data, train=trained.data.test)
    result = write_archive(
        model, data, TINY, out, run_id="", metrics={}, selection=selection, calibration=trained.data.train
    )
    stamp(result.archive, out / "stamped.mar", "1")
    with unpacked(out / "stamped.mar") as folder:
        return Path(folder.rename(out / "unpacked"))


def test_only_what_the_logits_need_is_quantised(tested: Path, tmp_path: Path) -> None:
    quantise(tested / FP32_MODEL, tmp_path / "int8.onnx", pixels(8, 32))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    assert [output.name for output in graph.output] == ["logits", "features", "maps"]
    producer = {name: node for node in graph.node for name in node.output}
    assert producer["maps"].op_type == "Conv"
    assert producer["maps"].input[1] not in producer  # the weights of the maps are not quantised
    fp32, int8 = (onnx_runner(path)(pixels(8, 32)) for path in (tested / FP32_MODEL, tmp_path / "int8.onnx"))
    assert fp32.maps is not None
    assert int8.maps is not None
    assert 0 < np.abs(int8.maps - fp32.maps).max() < 0.3 * np.abs(fp32.maps).max()


def test_each_form_has_novelty_scores_of_its_own(tested: Path, trained: Trained) -> None:
    manifest, space = read_manifest(tested), FeatureSpace.read(tested / NOVELTY_FILE)
    part = trained.data.train
    assert NOVELTY_FILE in manifest.files
    assert manifest.novelty == manifest.forms[0].calibration.novelty
    for item in manifest.forms:
        features = onnx_runner(tested / item.form.file, 1, item.form)(part.pixels[: len(part)]).features
        assert features is not None
        assert item.calibration.novelty == pytest.approx(np.sort(space.scores(features)), rel=1e-3)
        assert manifest.calibrated(item.calibration).novelty == item.calibration.novelty
    exact = next(item for item in manifest.forms if item.form is Form.FP32)
    assert manifest.for_gpu().novelty == exact.calibration.novelty


def lamp() -> bytes:
    """A PNG of what a camera sees that looks into a lamp."""
    picture = io.BytesIO()
    Image.new("RGB", (320, 240), "white").save(picture, "PNG")
    return picture.getvalue()


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_bins_are_typical_and_a_white_frame_is_not(tested: Path, trained: Trained, device: str) -> None:
    counter = Counter(tested, device=device)
    photos = [trained.data.validation.photos[row].path.read_bytes() for row in range(20)]
    *bins, other = counter.answer([*photos, lamp()])
    values = [answer["typical"] for answer in bins if isinstance(answer, dict)]
    assert len(values) == 20
    assert np.median(values) > 0.1
    assert isinstance(other, dict)
    assert other["typical"] <= 0.005
    features = counter.outputs(trained.data.validation.pixels[:1]).features
    space = FeatureSpace.read(tested / NOVELTY_FILE)
    assert features is not None
    assert typical(float(space.scores(features)[0]), counter.manifest.novelty) == values[0]


def verdict_on(photo: bytes, folder: Path, limit: float, **fields: object) -> dict[str, object]:
    predictor = Predictor(Counter(folder), PhotoStore(frozenset()), 0.05, novelty_limit=limit)
    (outcome,) = predictor.predict([PhotoInput(photo, parse_fields(fields))])
    assert isinstance(outcome.result, dict), outcome.result
    return outcome.result


def test_a_photo_that_shows_no_bin_is_unsure_unless_the_test_is_off(tested: Path) -> None:
    answers = [verdict_on(lamp(), tested, limit, expected_quantity=2) for limit in (0.005, 0.0)]
    doubted, judged = answers
    assert doubted["verdict"] == "unsure"
    assert f"{doubted['typical']:.2%}" in str(doubted["reason"])
    assert judged["reason"] != doubted["reason"]
    assert (doubted["not_a_bin"], judged["not_a_bin"]) == (True, False)
    decided = {"verdict": "", "reason": "", "not_a_bin": None}
    assert {**judged, **decided} == {**doubted, **decided}


def test_attention_is_shown_on_request_alone(tested: Path, trained: Trained) -> None:
    photo = trained.data.test.photos[0].path.read_bytes()
    answer = verdict_on(photo, tested, 0.005, attention="1", expected_quantity=1)
    shown = answer["attention"]
    assert isinstance(shown, dict)
    assert shown["count"] == str(answer["count"])
    assert len(json.dumps(shown)) < 20_000
    assert "attention" not in verdict_on(photo, tested, 0.005, expected_quantity=1)
    assert "attention" not in verdict_on(photo, tested, 0.005, attention="0")
    assert shown == verdict_on(photo, tested, 0.005, attention=True)["attention"]


def test_an_archive_with_few_calibration_photos_claims_nothing(trained: Trained) -> None:
    manifest = manifest_of(trained.archive)
    assert NOVELTY_FILE not in manifest.files
    assert {item.calibration.novelty for item in manifest.forms} == {()}
    with unpacked(trained.archive) as folder:
        (answer,) = Counter(folder).answer([trained.data.test.photos[0].path.read_bytes()])
    assert isinstance(answer, dict)
    assert answer["typical"] is None


def test_novelty_scores_without_their_file_are_damage(tested: Path) -> None:
    manifest = read_manifest(tested)
    files = {name: digest for name, digest in manifest.files.items() if name != NOVELTY_FILE}
    with pytest.raises(ArchiveError, match=NOVELTY_FILE):
        check_listed(replace(manifest, files=files))
    assert MANIFEST_FILE not in manifest.files


def test_the_torch_program_names_its_outputs(tested: Path) -> None:
    outputs = torch_runner(tested / GPU_PROGRAM, "cpu")(pixels(2, 32))
    assert outputs.features is not None
    assert outputs.maps is not None
    assert (outputs.logits.shape, outputs.features.shape, outputs.maps.shape) == ((2, 5), (2, 512), (2, 5, 1, 1))
