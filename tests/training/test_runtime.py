"""The form of a network that a worker serves with: proven on its own processor, and remembered for the next worker."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from serve.archives.archive import unpacked
from serve.counter import Answer, Counter
from serve.errors import ArchiveError, PhotoError
from serve.manifest import INT8_MODEL, MANIFEST_FILE, AcceptedForm, Form, Manifest, parse_manifest, sha256
from serve.photo import Pixels
from serve.runtime import (
    ADVANTAGE,
    CHOICE,
    COMPILED,
    Choice,
    Outputs,
    Runner,
    fastest_first,
    measure,
    processor,
    runs_here,
)
from tests.models import TINY
from trainer.training.export import write_archive
from trainer.training.networks import create
from trainer.training.run import Trained

START = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from serve.counter import Counter
folder = Path(sys.argv[1])
counter = Counter(folder, shared=True)
(answer,) = counter.answer([(folder / "golden" / "0.jpg").read_bytes()])
print(json.dumps([counter.describe(), answer]))
"""


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked archive with the forms int8 and fp32, in this order."""
    torch.manual_seed(0)
    network, out = create("small", 5, 32), tmp_path_factory.mktemp("exported")
    network.head.bias.data[2] = 3.0  # always the same count, so that int8 is accepted
    selection, calibration = trained.data.validation.halves(0)
    export = write_archive(
        network, trained.data, TINY, out, run_id="", metrics={}, selection=selection, calibration=calibration
    )
    with unpacked(export.archive) as content:
        shutil.copytree(content, out / "model")
    change(out / "model", with_int8_and_fp32)
    return out / "model"


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the unpacked archive."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def with_int8_and_fp32(manifest: Manifest) -> Manifest:
    """Whatever the order that speed gave them here, and without bf16, which not every processor has."""
    by_form = {item.form: item for item in manifest.forms}
    return replace(manifest, forms=(by_form[Form.INT8], by_form[Form.FP32]))


def manifest_in(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST_FILE).read_bytes())


def change(folder: Path, changed: Callable[[Manifest], Manifest]) -> None:
    (folder / MANIFEST_FILE).write_text(changed(manifest_in(folder)).to_json())


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Give a file another content, with its right checksum."""
    (folder / name).write_bytes(content)
    change(folder, lambda manifest: replace(manifest, files={**manifest.files, name: sha256(folder / name)}))


def answer_of(counter: Counter, folder: Path) -> Answer:
    (answer,) = counter.answer([(folder / "golden" / "0.jpg").read_bytes()])
    assert not isinstance(answer, PhotoError)
    return answer


def promised(folder: Path, form: Form) -> tuple[float, ...]:
    return manifest_in(folder).accepted_answers(0, form)[0]


def start_workers(folder: Path, number: int, **environ: str) -> list[tuple[dict[str, object], Answer]]:
    """Start workers at the same time; what they say about themselves, and their answers for a golden photo."""
    command = [sys.executable, "-c", START, str(folder)]
    workers = [
        subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True, cwd=folder)
        for _ in range(number)
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * number
    return [(description, answer) for description, answer in map(json.loads, outputs)]


def test_the_first_form_of_the_manifest_serves_where_it_was_measured(folder: Path) -> None:
    counter = Counter(folder)
    assert counter.choice == Choice(Form.INT8)
    assert counter.describe() == {"form": "int8", "processor": processor(), "refusals": {}}
    assert list(answer_of(counter, folder)["probabilities"].values()) == pytest.approx(
        promised(folder, Form.INT8), abs=1e-5
    )


def test_a_form_that_answers_otherwise_gives_way_to_the_next(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = onnx.load(folder / INT8_MODEL)
    bias = next(tensor for tensor in network.graph.initializer if list(tensor.dims) == [5])  # of the last layer
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(5, np.float32), bias.name))
    rewrite(folder, INT8_MODEL, network.SerializeToString())
    counter, manifest = Counter(folder), manifest_in(folder)
    assert counter.choice.form is Form.FP32
    assert "off" in counter.choice.refusals[Form.INT8]
    assert f"form int8 of the network does not serve: {counter.choice.refusals[Form.INT8]}" in caplog.messages
    fp32 = manifest.forms[1].calibration
    assert (counter.manifest.temperature, counter.manifest.scores) == (fp32.temperature, fp32.scores)
    assert counter.manifest.scores != manifest.forms[0].calibration.scores
    assert list(answer_of(counter, folder)["probabilities"].values()) == pytest.approx(fp32.golden[0], abs=1e-5)


def test_a_form_that_cannot_be_compiled_gives_way_to_the_next(folder: Path) -> None:
    rewrite(folder, INT8_MODEL, b"damaged")
    counter = Counter(folder)
    assert counter.choice.form is Form.FP32
    assert INT8_MODEL in counter.choice.refusals[Form.INT8]


def test_a_form_whose_numbers_the_processor_lacks_is_not_tried(folder: Path) -> None:
    def bf16_first(manifest: Manifest) -> Manifest:
        return replace(manifest, forms=(replace(manifest.forms[1], form=Form.BF16), manifest.forms[1]))

    change(folder, bf16_first)
    counter = Counter(folder)
    if runs_here(Form.BF16):
        assert counter.choice == Choice(Form.BF16)
    else:
        assert counter.choice.form is Form.FP32
        assert "instructions for bf16" in counter.choice.refusals[Form.BF16]


def test_nothing_loads_where_no_form_is_right(folder: Path) -> None:
    def with_wrong_answers(item: AcceptedForm) -> AcceptedForm:
        wrong = tuple((*row[1:], row[0]) for row in item.calibration.golden)
        return replace(item, calibration=replace(item.calibration, golden=wrong))

    change(folder, lambda manifest: replace(manifest, forms=tuple(map(with_wrong_answers, manifest.forms))))
    with pytest.raises(ArchiveError, match=r"int8: .*\d off.*fp32: .*\d off"):
        Counter(folder)
    change(folder, lambda manifest: replace(manifest, forms=()))
    with pytest.raises(ArchiveError, match="has none"):
        Counter(folder)


def blobs(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_mtime_ns) for path in (folder / COMPILED).glob("*.blob"))


def test_at_home_one_form_is_compiled_and_elsewhere_all_are_compared(folder: Path) -> None:
    Counter(folder, shared=True)
    assert len(blobs(folder)) == 1
    shutil.rmtree(folder / COMPILED)
    change(folder, lambda manifest: replace(manifest, processor="another kind"))
    counter = Counter(folder, shared=True)
    assert len(blobs(folder)) == 2
    assert list(answer_of(counter, folder)["probabilities"].values()) == pytest.approx(
        promised(folder, counter.choice.form), abs=1e-5
    )


def test_a_later_worker_takes_what_the_first_one_compiled_and_chose(folder: Path) -> None:
    first, stored = Counter(folder, shared=True), blobs(folder)
    rewrite(folder, "golden/1.jpg", b"no photo")  # nothing is proven again
    second = Counter(folder, shared=True)
    assert second.choice == first.choice
    assert blobs(folder) == stored
    assert answer_of(second, folder) == answer_of(first, folder)
    with pytest.raises(ArchiveError, match="golden photos of the archive cannot be read"):
        Counter(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"form": "int4"}', b"\xff"])
def test_a_damaged_cache_is_made_anew(folder: Path, content: bytes) -> None:
    first = Counter(folder, shared=True)
    for path in (folder / COMPILED).iterdir():
        path.chmod(0o600)
        path.write_bytes(content)
    assert answer_of(Counter(folder, shared=True), folder) == answer_of(first, folder)
    assert json.loads((folder / COMPILED / CHOICE).read_text())["form"] == "int8"


def test_what_another_processor_chose_is_not_taken(folder: Path) -> None:
    Counter(folder, shared=True)
    choice = json.loads((folder / COMPILED / CHOICE).read_text())
    (folder / COMPILED / CHOICE).write_text(json.dumps({**choice, "processor": "another kind", "form": "fp32"}))
    assert Counter(folder, shared=True).choice.form is Form.INT8


def test_workers_that_start_at_once_agree_and_compile_once(folder: Path) -> None:
    change(folder, lambda manifest: replace(manifest, processor="another kind"))
    descriptions, answers = zip(*start_workers(folder, 3), strict=True)
    assert descriptions[0] == descriptions[1] == descriptions[2]
    assert answers[0] == answers[1] == answers[2]
    assert len(blobs(folder)) == 2


def test_a_folder_that_cannot_be_written_serves_too(folder: Path) -> None:
    (folder / COMPILED).write_text("where a folder would be")
    assert Counter(folder, shared=True).choice == Choice(Form.INT8)


def test_with_fewer_instructions_the_answers_are_those_promised(folder: Path) -> None:
    ((description, answer),) = start_workers(folder, 1, ONEDNN_MAX_CPU_ISA="SSE41")
    assert "at most SSE41" in str(description["processor"])
    expected = promised(folder, Form(str(description["form"])))
    tolerance = manifest_in(folder).tolerance
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("speeds", "order"),
    [
        ({Form.FP32: 100, Form.INT8: 100 * ADVANTAGE + 1}, [Form.INT8, Form.FP32]),
        ({Form.FP32: 100, Form.INT8: 100 * ADVANTAGE - 1}, [Form.FP32, Form.INT8]),
        ({Form.FP32: 100, Form.INT8: 90, Form.BF16: 300}, [Form.BF16, Form.FP32, Form.INT8]),
        ({Form.INT8: 90, Form.BF16: 91}, [Form.BF16, Form.INT8]),
    ],
)
def test_the_fastest_form_comes_first_but_fp32_where_they_are_about_as_fast(
    speeds: dict[Form, float], order: Sequence[Form]
) -> None:
    assert fastest_first(speeds) == order


def test_speed_is_measured_for_one_photo_at_a_time() -> None:
    pixels = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    shapes = set()

    def runner(work: int) -> Runner:
        def run(photo: Pixels) -> Outputs:
            shapes.add(photo.shape)
            return Outputs(np.array([[float(sum(range(work)))]]))

        return run

    speeds = measure({Form.FP32: runner(20_000), Form.INT8: runner(2_000)}, pixels)
    assert speeds[Form.INT8] > 2 * speeds[Form.FP32] > 0
    assert shapes == {pixels.shape}
