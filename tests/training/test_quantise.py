import copy
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torchvision.models.resnet import BasicBlock

from serve.archives.archive import manifest_of, unpacked
from serve.counter import Counter, device_of, torch_runner
from serve.errors import ArchiveError, PhotoError
from serve.manifest import FP32_MODEL, GPU_PROGRAM, INT8_MODEL, Form
from serve.runtime import OUTPUT_NAMES, Choice, fastest_first, onnx_runner, processor
from tests.models import TINY
from trainer.evaluation.calibration import calibrate, conformal_scores
from trainer.training import networks
from trainer.training.export import ExportResult, write_archive
from trainer.training.quantise import MAX_PROBABILITY_SHIFT, decide, fp32_shares, quantise, sample_pixels
from trainer.training.run import Trained

GOLDEN = np.array([[0.7, 0.3], [0.2, 0.8]])


def predictions(labels: NDArray[np.int64], wrong: int) -> NDArray[np.float64]:
    """Probabilities (N, 2) of which the first ``wrong`` are for the wrong class."""
    probabilities: NDArray[np.float64] = np.eye(2)[labels] * 0.8 + 0.1
    probabilities[:wrong] = probabilities[:wrong, ::-1]
    return probabilities


@pytest.mark.parametrize(("lost", "accepted"), [(0, True), (1, True), (2, False)])
def test_at_most_half_a_point_of_200_photos_may_be_lost(lost: int, accepted: bool) -> None:
    labels = np.arange(200) % 2
    decision = decide(predictions(labels, 50), predictions(labels, 50 + lost), labels, GOLDEN, GOLDEN)
    assert decision.accepted is accepted
    assert f"({lost} lost, 0 gained)" in decision.reason
    assert (decision.fp32_accuracy, decision.accuracy) == pytest.approx((0.75, 0.75 - lost / 200))


def test_what_is_lost_and_what_is_gained_are_counted_in_pairs() -> None:
    labels = np.arange(200) % 2
    int8 = predictions(labels, 0)
    int8[100:120] = int8[100:120, ::-1]
    decision = decide(predictions(labels, 19), int8, labels, GOLDEN, GOLDEN)
    assert decision.accepted
    assert "(20 lost, 19 gained)" in decision.reason


@pytest.mark.parametrize(("shift", "accepted"), [(-1e-6, True), (1e-6, False)])
def test_a_golden_probability_may_move_so_far(shift: float, accepted: bool) -> None:
    labels = np.arange(200) % 2
    shift += MAX_PROBABILITY_SHIFT
    moved = GOLDEN + np.array([[shift, -shift], [0, 0]])
    decision = decide(predictions(labels, 0), predictions(labels, 0), labels, GOLDEN, moved)
    assert decision.accepted is accepted
    assert "0.100" in decision.reason


def test_a_golden_photo_with_another_count_refuses_it() -> None:
    labels, even = np.arange(200) % 2, np.array([[0.51, 0.49], [0.2, 0.8]])
    swapped = even + np.array([[-0.02, 0.02], [0, 0]])
    decision = decide(predictions(labels, 0), predictions(labels, 0), labels, even, swapped)
    assert not decision.accepted
    assert "of 2 golden photos 1 " in decision.reason


def test_answers_that_are_not_finite_and_no_answers_refuse_it() -> None:
    labels = np.arange(200) % 2
    broken = predictions(labels, 0)
    broken[3] = np.nan
    assert not decide(predictions(labels, 1), broken, labels, GOLDEN, GOLDEN).accepted
    assert not decide(predictions(labels, 0), predictions(labels, 0), labels, GOLDEN, GOLDEN * np.nan).accepted
    nothing = np.empty((0, 2))
    assert not decide(nothing, nothing, np.empty(0, dtype=int), GOLDEN, GOLDEN).accepted


def export(trained: Trained, network: networks.Counter, out: Path) -> ExportResult:
    selection, calibration = trained.data.validation.halves(0)
    return write_archive(
        network, trained.data, TINY, out, run_id="", metrics={"mine": 1.0}, selection=selection, calibration=calibration
    )


@pytest.fixture(scope="module")
def network() -> networks.Counter:
    """An untrained network: its predictions are nearly even, so a form that is worse predicts other counts."""
    torch.manual_seed(0)
    return networks.create("resnet18", 5, 32)


@pytest.fixture(scope="module")
def accepted(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """An archive whose int8 form was accepted: its predictions are far from even, so int8 predicts the same counts."""
    torch.manual_seed(4)
    exported = export(trained, networks.create("resnet18", 5, 32), tmp_path_factory.mktemp("accepted"))
    assert exported.int8.accepted, exported.int8.reason
    return exported


def test_the_faster_of_two_accepted_forms_is_what_a_cpu_runs(accepted: ExportResult, trained: Trained) -> None:
    pixels, manifest = trained.data.test.pixels[:16], manifest_of(accepted.archive)
    by_form = {item.form: item for item in accepted.forms}
    first = accepted.forms[0]
    assert by_form.keys() - {Form.BF16} == {Form.INT8, Form.FP32}
    assert list(by_form) == fastest_first({form: item.photos_per_s for form, item in by_form.items()})
    assert min(item.photos_per_s for item in accepted.forms) > 0
    assert (manifest.forms, manifest.cpu_model, manifest.processor) == (accepted.forms, first.form.file, processor())
    assert f"{first.form} {first.photos_per_s:g}, " in accepted.reason
    with unpacked(accepted.archive) as folder:
        counter = Counter(folder)
        assert counter.choice == Choice(first.form)
        run = onnx_runner(folder / first.form.file, 1, first.form)
        assert np.array_equal(counter.logits(pixels), run(pixels).logits)
        int8, fp32 = (onnx_runner(folder / name)(pixels).logits for name in (INT8_MODEL, FP32_MODEL))
        assert 0 < np.abs(int8 - fp32).max() < 0.3 * np.abs(fp32).max()
        size = {name: (folder / name).stat().st_size for name in (INT8_MODEL, FP32_MODEL)}
    assert size[INT8_MODEL] < 0.3 * size[FP32_MODEL]
    assert manifest.metrics["mine"] == 1.0
    assert manifest.metrics["int8_accuracy"] == by_form[Form.INT8].accuracy == accepted.int8.accuracy
    assert manifest.metrics["fp32_accuracy"] == by_form[Form.FP32].accuracy == accepted.int8.fp32_accuracy


def test_each_form_has_a_calibration_of_its_own(accepted: ExportResult, trained: Trained) -> None:
    _, part = trained.data.validation.halves(0)
    manifest = manifest_of(accepted.archive)
    by_form = {item.form: item.calibration for item in manifest.forms}
    int8, fp32, first = by_form[Form.INT8], by_form[Form.FP32], manifest.forms[0].calibration
    with unpacked(accepted.archive) as folder:
        for name, calibration in ((INT8_MODEL, int8), (FP32_MODEL, fp32)):
            logits = onnx_runner(folder / name)(part.pixels[: len(part)]).logits
            assert calibration.temperature == pytest.approx(calibrate(logits, part.labels)["temperature"], rel=1e-3)
            for count, scores in conformal_scores(logits, part.labels, manifest.names).items():
                assert calibration.scores[count] == pytest.approx(scores, abs=1e-5)
    assert int8.scores != fp32.scores
    for form, calibration in ((manifest, first), (manifest.for_gpu(), fp32)):
        assert (form.temperature, form.scores) == (calibration.temperature, calibration.scores)
        assert tuple(photo.probabilities for photo in form.golden) == calibration.golden


def test_golden_photos_give_what_is_promised_on_either_device(accepted: ExportResult) -> None:
    with unpacked(accepted.archive) as folder:
        for counter in (Counter(folder), Counter(folder, device="cpu:0")):
            for golden in counter.manifest.golden:
                (answer,) = counter.answer([(folder / golden.file).read_bytes()])
                assert not isinstance(answer, PhotoError)
                assert list(answer["probabilities"].values()) == pytest.approx(golden.probabilities, abs=1e-5)


def test_the_torch_program_answers_as_onnx_does(accepted: ExportResult, trained: Trained) -> None:
    pixels = trained.data.test.pixels[:5]
    with unpacked(accepted.archive) as folder:
        onnx, program = onnx_runner(folder / FP32_MODEL)(pixels), torch_runner(folder / GPU_PROGRAM, "cpu")
        for name in OUTPUT_NAMES:
            answer, expected = getattr(program(pixels), name), getattr(onnx, name)
            assert answer == (expected if expected is None else pytest.approx(expected, abs=1e-3)), name
        assert program(pixels[:1]).logits.shape == (1, 5)
        (folder / GPU_PROGRAM).unlink()
        with pytest.raises(ArchiveError, match=r"has no model\.pt2"):
            torch_runner(folder / GPU_PROGRAM, "cpu")


def test_a_worker_without_a_gpu_that_torch_can_use_runs_on_the_cpu() -> None:
    assert device_of(None) == "cpu"
    assert device_of(0) == ("cuda:0" if torch.cuda.is_available() else "cpu")


def with_large_channel(network: networks.Counter) -> networks.Counter:
    """The same function, but one channel is so large that it alone takes up the whole int8 range."""
    harmed = copy.deepcopy(network)
    for block in harmed.modules():
        if isinstance(block, BasicBlock):
            with torch.no_grad():
                for values in (block.bn1.weight, block.bn1.bias):
                    values[0] = (values[0].abs() + 1) * 1e5
                block.conv2.weight[:, 0] = 0
    return harmed


def test_a_form_that_is_worse_is_refused_with_its_figures(
    trained: Trained, network: networks.Counter, tmp_path: Path
) -> None:
    exported = export(trained, with_large_channel(network), tmp_path)
    assert not exported.int8.accepted
    assert Form.INT8 not in [item.form for item in exported.forms]
    assert exported.int8.reason in exported.reason
    assert "golden photos" in exported.int8.reason
    manifest = manifest_of(exported.archive)
    assert manifest.cpu_model == FP32_MODEL
    assert INT8_MODEL not in manifest.files
    assert manifest.metrics["int8_accuracy"] == exported.int8.accuracy


@pytest.mark.parametrize(("groups", "shares"), [(1, (0.0, 0.25, 0.5)), (8, (0.25, 0.5))])
def test_depthwise_networks_keep_their_early_layers_in_fp32(
    tmp_path: Path, groups: int, shares: tuple[float, ...]
) -> None:
    plain = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=1)
    graph = onnx.helper.make_graph([plain, onnx.helper.make_node("Conv", ["y", "v"], ["z"], group=groups)], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    assert fp32_shares(tmp_path / "model.onnx") == shares


def test_so_much_of_a_network_as_is_spared_stays_in_fp32_and_so_does_its_head(
    accepted: ExportResult, trained: Trained, tmp_path: Path
) -> None:
    pixels = sample_pixels(trained.data.train, 0)[:16]
    quantised = {}
    with unpacked(accepted.archive) as folder:
        for fp32_share in (0.0, 0.5):
            quantise(folder / FP32_MODEL, tmp_path / "q.onnx", pixels, fp32_share)
            graph = onnx.load(tmp_path / "q.onnx").graph
            source = {output: node.op_type for node in graph.node for output in node.output}
            kinds = ("Conv", "Gemm")
            rows = [(node.op_type, source.get(node.input[0])) for node in graph.node if node.op_type in kinds]
            quantised[fp32_share] = [operator == "DequantizeLinear" for _, operator in rows]
            assert rows[-1][0] == "Gemm"
            scale = next(tensor for tensor in graph.initializer if tensor.name.endswith("weight_scale"))
            assert onnx.numpy_helper.to_array(scale).size > 1
    assert quantised[0.0] == [True] * 21 + [False]  # 20 convolutions and the maps, which read the last one; the head
    assert not any(quantised[0.5][:8])
    assert all(quantised[0.5][12:20])


def test_the_sample_is_of_training_photos_and_the_same_again(trained: Trained) -> None:
    first, second = sample_pixels(trained.data.train, 3), sample_pixels(trained.data.train, 3)
    assert np.array_equal(first, second)
    assert len(first) == min(256, len(trained.data.train))


def test_the_quantiser_leaves_the_log_s_level_as_it_was(accepted: ExportResult) -> None:
    assert logging.getLogger().level != logging.ERROR
