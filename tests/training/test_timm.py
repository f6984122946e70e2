"""Networks of the library timm with weights from a file: built, trained, exported and served like ours."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from serve.archives.archive import manifest_of, stamp, unpacked
from serve.errors import TrainingError
from serve.manifest import FP32_MODEL
from serve.runtime import onnx_runner
from tests.conftest import proof
from tests.models import TINY
from trainer.training.export import write_archive
from trainer.training.networks import Counter, create
from trainer.training.run import Trained
from trainer.training.timm_bodies import build
from trainer.training.train import fit

SIZE_PX = 64
NETWORKS = ["test_vit", "test_convnext", "test_resnet"]
"""timm's smallest: a transformer, and two networks of convolutions."""


def photos(number: int = 3, size_px: int = SIZE_PX) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, size_px, size_px, 3), generator=generator, dtype=torch.uint8)


def features(counter: Counter, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        return counter.eval().features(pixels)


@pytest.fixture(scope="module", params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_body_is_the_network_of_the_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    author = build(name, SIZE_PX)
    save_file(author.network.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": author.network.state_dict()}, tmp_path / "weights.pth")
    torch.manual_seed(2)
    loaded = [
        create(f"timm:{name}", 5, SIZE_PX, str(tmp_path / file)) for file in ("weights.safetensors", "weights.pth")
    ]
    with torch.inference_mode():
        expected = author.eval()(loaded[0].normalise(photos()))
    for counter in loaded:
        assert torch.equal(features(counter, photos()), expected)
    assert not torch.equal(features(create(f"timm:{name}", 5, SIZE_PX), photos()), expected)


def test_a_counter_s_own_weights_are_read_as_well(name: str, tmp_path: Path) -> None:
    counter = create(f"timm:{name}", 5, SIZE_PX)
    torch.save({"model": counter.state_dict()}, tmp_path / "checkpoint.pt")
    again = create(f"timm:{name}", 5, SIZE_PX, str(tmp_path / "checkpoint.pt"))
    assert torch.equal(features(counter, photos()), features(again, photos()))


def test_the_positions_of_a_transformer_are_interpolated(tmp_path: Path) -> None:
    save_file(build("test_vit", 160).network.state_dict(), tmp_path / "weights.safetensors")
    counter = create("timm:test_vit", 5, SIZE_PX, str(tmp_path / "weights.safetensors"))
    assert features(counter, photos()).shape == (3, 64)


@proof
@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_it_is_trained_exported_and_served_like_ours(name: str, trained: Trained, tmp_path: Path) -> None:
    recipe = replace(TINY, architecture=f"timm:{name}", size_px=trained.data.size_px, epochs=1)
    result = fit(trained.data, recipe)
    selection, calibration = trained.data.validation.halves(0)
    exported = write_archive(
        result.model,
        trained.data,
        recipe,
        tmp_path,
        run_id="",
        metrics={},
        selection=selection,
        calibration=calibration,
    )
    stamp(exported.archive, tmp_path / "stamped.mar", "1")
    assert manifest_of(tmp_path / "stamped.mar").recipe["architecture"] == f"timm:{name}"
    pixels = photos(4, recipe.size_px)
    with unpacked(tmp_path / "stamped.mar") as folder, torch.inference_mode():
        outputs = onnx_runner(folder / FP32_MODEL)(pixels.numpy())
        assert outputs.logits == pytest.approx(result.model.eval()(pixels).numpy(), abs=1e-3)


def test_a_frozen_body_stays_that_of_the_file(trained: Trained, tmp_path: Path) -> None:
    recipe = replace(TINY, architecture="timm:test_vit", frozen=True, size_px=trained.data.size_px, epochs=1)
    author = create(recipe.architecture, 5, recipe.size_px)
    model = fit(trained.data, replace(recipe, weights=saved(author, tmp_path / "body.pt"))).model
    pixels = photos(4, recipe.size_px)
    assert torch.equal(features(author, pixels), features(model, pixels))


def saved(counter: Counter, path: Path) -> str:
    torch.save(counter.state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("architecture", "size_px", "message"),
    [
        ("timm:test_vot", 64, r"'test_vot'; did you mean .*test_vit"),
        ("timm:test_vit", 60, r"60 px"),
        ("timm:", 64, r"''"),
    ],
)
def test_what_timm_cannot_build_is_told(architecture: str, size_px: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        create(architecture, 5, size_px)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(build("test_resnet", SIZE_PX).network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(TrainingError, match=r"does not fit"):
        create("timm:test_convnext", 5, SIZE_PX, str(tmp_path / "weights.safetensors"))
    for file in ("text.pt", "absent.pt"):
        with pytest.raises(TrainingError, match=rf"cannot read the weights .*{file}"):
            create("timm:test_convnext", 5, SIZE_PX, str(tmp_path / file))


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TrainingError, match=r"requirements/timm\.txt"):
        create("timm:test_vit", 5)
