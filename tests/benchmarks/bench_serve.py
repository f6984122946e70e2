"""The benchmark of serving: this project's archive and its peers under the same load, on 127.0.0.1."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from serve.archives.archive import unpacked
from serve.errors import TrainingError
from serve.manifest import INT8_MODEL
from tests.benchmarks.http_load import Load, generate_load, pooled
from tests.benchmarks.peers import eager, servers
from tests.benchmarks.peers.servers import CORES, Start, StartTorchServe, TorchServePeer
from tests.benchmarks.results import COUNTS, Result, machine, rounded
from trainer.data import dataset
from trainer.data.dataset import DataSpec
from trainer.training.export import write_archive
from trainer.training.networks import create
from trainer.training.recipes import RECIPES

ROUNDS, WARM_S, TRIAL_S, ROUND_S = 2, 1.0, 2.5, 4.0
PHOTOS = 200

STOCK, OURS = "TorchServe, stock, eager", "ours"
LITSERVE, LITSERVE_INT8, MOSEC = "LitServe, eager", "LitServe, our int8 file", "mosec, our int8 file"
LIMIT = "the limit: our counter in a process a core"
CONNECTIONS = {True: "connections kept", False: "a connection per request"}

AMX = "amx_int8"
"""What Linux calls the matrix units of a processor that multiply int8."""
TIMES_STOCK, TIMES_STOCK_AMX, TIMES_LITSERVE_INT8, SHARE_OF_LIMIT = 5.0, 7.0, 2.0, 0.7


@dataclass(frozen=True)
class Measured:
    """The rounds of a peer at its best number of workers, by whether clients keep their connections."""

    workers: int
    rounds: Mapping[bool, Sequence[Load]]

    def load(self, keep_alive: bool) -> Load:
        """All rounds as one load."""
        return pooled(self.rounds[keep_alive])


def bench_serve(data: Path, torchserve: StartTorchServe, settings: Mapping[str, int]) -> Result:
    """ResNet-34 at 224 px, full-size photos, 8 clients; every peer with its best number of workers.

    A first round with one worker and with one per core finds that number. Then the peers take turns. The weights are
    random, because they do not change the time. ``settings``: those of this project's archive in TorchServe.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        work = Path(folder)
        photos = _photos(data, work / "photos")
        archive = _archive(data, work)
        with unpacked(archive) as model:
            peers = _peers(work, archive, model, photos, torchserve, settings)
            workers = {name: _best_workers(start, work) for name, start in peers.items()}
            rounds: dict[str, list[dict[bool, Load]]] = {name: [] for name in peers}
            limits = []
            for _ in range(ROUNDS):
                limits.append(servers.without_server(model, work / "photos", ROUND_S))
                for name, start in peers.items():
                    rounds[name].append(_round(start, work, workers[name]))
    measured = {
        name: Measured(workers[name], {keep: [loads[keep] for loads in rounds[name]] for keep in CONNECTIONS})
        for name in peers
    }
    return compare_loads(measured, limits, has_amx())


def compare_loads(measured: Mapping[str, Measured], limits: Sequence[float], amx: bool) -> Result:
    """The result from the rounds of each peer; of two ways to connect, the one with the lower ratio counts.

    ``limits``: photos per second without a server; ``amx``: whether the processor multiplies int8 matrices.
    """
    own, limit = measured[OURS], sum(limits) / len(limits)
    peers = {name: peer for name, peer in measured.items() if name != OURS}
    ratios = {
        name: min(own.load(keep).rate / peer.load(keep).rate for keep in CONNECTIONS) for name, peer in peers.items()
    }
    ratios[LIMIT] = min(own.load(keep).rate for keep in CONNECTIONS) / limit
    target = TIMES_STOCK_AMX if amx else TIMES_STOCK
    lower_bounds = {STOCK: target, LITSERVE_INT8: TIMES_LITSERVE_INT8, LIMIT: SHARE_OF_LIMIT}
    checks = {f"at least {bound:g} times {name}": ratios[name] >= bound for name, bound in lower_bounds.items()}
    for name, peer in peers.items():
        steadier = all(own.load(keep).p99_ms < peer.load(keep).p99_ms for keep in CONNECTIONS)
        checks[f"99th percentile below that of {name}"] = steadier
    return Result(
        name="serve",
        ratio=rounded(ratios[STOCK]),
        target=target,
        holds=all(checks.values()),
        peers={name: rounded(ratio) for name, ratio in ratios.items()},
        runs={**dict(_figures(measured)), f"{LIMIT}: photos/s": [round(rate, 1) for rate in limits]},
        machine=f"{machine()}, {'with' if amx else 'without'} AMX",
        checks=checks,
    )


def has_amx(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has matrix units for int8."""
    return cpu.is_file() and AMX in cpu.read_text().split()


def _figures(measured: Mapping[str, Measured]) -> Iterator[tuple[str, list[float]]]:
    for name, peer in measured.items():
        for keep, connections in CONNECTIONS.items():
            title = f"{name}, {peer.workers} workers, {connections}"
            yield f"{title}: requests/s", [round(load.rate, 2) for load in peer.rounds[keep]]
            yield f"{title}: p99 ms", [round(load.p99_ms, 1) for load in peer.rounds[keep]]


def _best_workers(start: Start, work: Path) -> int:
    def rate(workers: int) -> float:
        with start(Path(tempfile.mkdtemp(dir=work)), workers) as target:
            generate_load(target, WARM_S)
            return generate_load(target, TRIAL_S).rate

    return max(sorted({1, CORES}), key=rate)


def _round(start: Start, work: Path, workers: int) -> dict[bool, Load]:
    with start(Path(tempfile.mkdtemp(dir=work)), workers) as target:
        generate_load(target, WARM_S)
        return {keep: generate_load(replace(target, keep_alive=keep), ROUND_S) for keep in CONNECTIONS}


def _peers(
    work: Path,
    archive: Path,
    model: Path,
    photos: Sequence[bytes],
    torchserve: StartTorchServe,
    settings: Mapping[str, int],
) -> dict[str, Start]:
    """``model``: the folder of the unpacked ``archive``. Raises TrainingError where it has no int8 file."""
    int8 = model / INT8_MODEL
    if not int8.is_file():
        raise TrainingError("the int8 form was rejected, so the peers cannot serve it; a second run may accept it")
    weights = work / "resnet34.pth"
    torch.save(eager.ImageClassifier().state_dict(), weights)
    return {
        STOCK: TorchServePeer(torchserve, _stock_archive(weights, work), {}, photos),
        LITSERVE: servers.litserve(weights, photos),
        LITSERVE_INT8: servers.litserve(int8, photos),
        MOSEC: servers.mosec(int8, photos),
        OURS: TorchServePeer(torchserve, archive, settings, photos),
    }


def _archive(data: Path, work: Path) -> Path:
    """This project's archive of a network with random weights."""
    photos = dataset.load(DataSpec(data, counts=COUNTS, limit=150), 224)
    torch.manual_seed(0)
    selection, calibration = photos.validation.halves(0)
    exported = write_archive(
        create("resnet34", len(COUNTS.values), 224),
        photos,
        RECIPES["resnet34-scratch"],
        work / "ours",
        run_id="",
        metrics={},
        selection=selection,
        calibration=calibration,
    )
    return exported.archive


def _stock_archive(weights: Path, work: Path) -> Path:
    """An archive for TorchServe's own ``image_classifier``."""
    options = {
        "--model-name": "stock",
        "--version": "1",
        "--model-file": str(eager.__file__),
        "--serialized-file": str(weights),
        "--handler": "image_classifier",
        "--export-path": str(work),
        "--archive-format": "zip-store",
    }
    words = [word for option in options.items() for word in option]
    subprocess.run([sys.executable, "-m", "model_archiver.model_packaging", *words], check=True, capture_output=True)
    return work / "stock.mar"


def _photos(data: Path, target: Path) -> list[bytes]:
    """Real full-size photos if there are any, otherwise small ones enlarged to a typical size; copied to ``target``."""
    folder = Path(os.environ.get("BINWATCH_FULL_SIZE") or data.parent / "full-size")
    full_size = sorted(folder.glob("*.jpg"))[:PHOTOS]
    small = [] if full_size else sorted((data / "bin-images").glob("*.jpg"))[:PHOTOS]
    photos = [*(path.read_bytes() for path in full_size), *map(_enlarged, small)]
    target.mkdir()
    for number, photo in enumerate(photos):
        (target / f"{number:04}.jpg").write_bytes(photo)
    return photos


def _enlarged(path: Path) -> bytes:
    out = io.BytesIO()
    Image.open(path).convert("RGB").resize((520, 445)).save(out, "JPEG", quality=90)
    return out.getvalue()
