"""The runtime: runs the forms of a network on this processor, and chooses the one that serves.

An archive made on one kind of processor must be right on every other one. So a form serves only after it has given the
promised answers for the golden photos here; otherwise the next one is tried. On the kind of processor that the archive
was made on, the order is that of the manifest; on others the forms are measured, and the fastest serves.

What OpenVINO compiles, and which form was chosen, is stored in the folder ``compiled`` beside the model, for the
workers that start later. Where that cannot be written, each worker compiles and chooses by itself.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from serve.errors import ArchiveError
from serve.files import exclusive_lock, write_text
from serve.manifest import AcceptedForm, Form, Manifest
from serve.photo import Pixels

COMPILED, CHOICE = "compiled", "form.json"
ROUNDS, ROUND_S = 7, 0.02
ADVANTAGE = 1.2
"""How many times as fast as fp32 another form must be to serve in its place: about as fast, the exact one serves."""
INSTRUCTIONS = frozenset({"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "i8mm"})
"""What Linux calls the instructions that decide which form is fast."""

_log = logging.getLogger("binwatch.runtime")


@dataclass(frozen=True)
class Outputs:
    """What the network gives for a batch; each field has the name of an output of the graph.

    ``logits`` ``(B, C)``, one column per class; ``features`` float32 ``(B, W)``: what the head reads; ``maps`` float32
    ``(B, C, s, s)``: the class activation maps, which show where in the photo each class gets its logit from (B. Zhou
    et al., "Learning deep features for discriminative localization", 2016). What a graph lacks is None: one that was
    exported before outputs had names has logits alone, and not every network has maps.
    """

    logits: NDArray[np.float64]
    features: NDArray[np.float32] | None = None
    maps: NDArray[np.float32] | None = None

    def row(self, number: int) -> "Outputs":
        """The outputs for one photo of the batch, without the first dimension."""
        features, maps = (None if array is None else array[number] for array in (self.features, self.maps))
        return Outputs(self.logits[number], features, maps)


OUTPUT_NAMES = tuple(item.name for item in fields(Outputs))
"""The outputs that are read; others of a graph are ignored."""

Runner = Callable[[Pixels], Outputs]
"""Pixels uint8 ``(B, S, S, 3)`` -> outputs. Not for several threads at once."""


@dataclass(frozen=True)
class Choice:
    """The form that serves, and why each form that was tried before it does not."""

    form: Form
    refusals: Mapping[Form, str] = field(default_factory=dict)


@cache
def _core() -> openvino.Core:
    return openvino.Core()


@cache
def processor(cpu: Path = Path("/proc/cpuinfo")) -> str:
    """The kind of this processor: its name, and the instructions that decide which form is fast."""
    flags = INSTRUCTIONS & set(cpu.read_text().split()) if cpu.is_file() else set()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    name = str(_core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return " ".join([f"{name}, {platform.machine()}", *sorted(flags), *([f"at most {limit}"] if limit else [])])


def runs_here(form: Form) -> bool:
    """Whether this processor has instructions for the numbers of ``form``."""
    return form is not Form.BF16 or "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def onnx_runner(model: Path, threads: int = 1, form: Form = Form.FP32, compiled: Path | None = None) -> Runner:
    """A runner of an ONNX file on the CPU. ``compiled``: a folder to cache the compiled network in.

    Raises ArchiveError where it cannot be compiled.
    """
    options: dict[str, object] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # or all workers would share the first core
        "INFERENCE_PRECISION_HINT": "bf16" if form is Form.BF16 else "f32",  # the default depends on the processor
    }
    try:
        network = _compile(model, options, compiled)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-300:]
        raise ArchiveError(f"{model.name} cannot be compiled on this processor: {reason}") from error
    request = network.create_infer_request()
    indices = _output_indices(network)

    def run(pixels: Pixels) -> Outputs:
        results = request.infer({0: pixels})
        return outputs_of({name: np.asarray(results[index]) for name, index in indices.items()})

    return run


def outputs_of(arrays: Mapping[str, NDArray[np.generic]]) -> Outputs:
    """Outputs from copies of the arrays of a graph, by name."""
    logits = np.array(arrays["logits"], dtype=np.float64)
    others = {name: np.array(arrays[name], np.float32) for name in OUTPUT_NAMES[1:] if name in arrays}
    return Outputs(logits, **others)


def _output_indices(network: openvino.CompiledModel) -> dict[str, int]:
    """The positions of the outputs that are read, by name; the first one is the logits, whatever it is called."""
    names = {name: index for index, output in enumerate(network.outputs) for name in output.get_names()}
    return {"logits": 0, **{name: names[name] for name in OUTPUT_NAMES[1:] if name in names}}


def _compile(model: Path, options: dict[str, object], compiled: Path | None) -> openvino.CompiledModel:
    if compiled:
        with suppress(RuntimeError):  # perhaps because the disk is full: the cache must not cost the answer
            return _core().compile_model(str(model), "CPU", {**options, "CACHE_DIR": str(compiled)})
    return _core().compile_model(str(model), "CPU", options)


def fastest_first(speeds: Mapping[Form, float]) -> list[Form]:
    """The forms in the order to try them. ``speeds``: photos per second, of each."""
    return sorted(speeds, key=lambda form: -speeds[form] * (ADVANTAGE if form is Form.FP32 else 1))


def measure(runners: Mapping[Form, Runner], pixels: Pixels) -> dict[Form, float]:
    """Photos per second of CPU time, by form, for one photo at a time: the best of ROUNDS alternating rounds.

    ``pixels``: one photo, uint8 ``(1, S, S, 3)``. CPU time, because other processes hardly change it.
    """
    for run in runners.values():
        run(pixels)  # the first time prepares the weights
    times = {form: max(1, int(ROUND_S / _seconds(run, pixels, 1))) for form, run in runners.items()}
    rounds = [{form: _seconds(run, pixels, times[form]) for form, run in runners.items()} for _ in range(ROUNDS)]
    return {form: round(1 / min(seconds[form] for seconds in rounds), 1) for form in runners}


def _seconds(run: Runner, pixels: Pixels, times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        run(pixels)
    return max(1e-6, (time.process_time() - start) / times)


@dataclass(frozen=True)
class Candidates:
    """The forms of an unpacked archive that have not proven themselves yet.

    ``golden``: gives the pixels of the golden photos, uint8 ``(G, S, S, 3)``; ``threads``: of a runner; ``shared``:
    whether other workers start from the same folder.
    """

    folder: Path
    manifest: Manifest
    golden: Callable[[], Pixels]
    threads: int = 1
    shared: bool = False

    def choose(self) -> tuple[Choice, Runner]:
        """The form that serves on this processor, and its runner.

        Raises ArchiveError, with all figures, where no form gives the promised answers.
        """
        with _cache_of(self.folder, self.shared) as compiled:
            known = _read_choice(compiled)
            if known:
                with suppress(ArchiveError):
                    return known, self._runner(known.form, compiled)
            choice, run = self._prove_all(compiled)
            if compiled:
                content = {**_environment(), "form": choice.form, "refusals": choice.refusals}
                with suppress(OSError):  # perhaps because the disk is full
                    write_text(compiled / CHOICE, json.dumps(content))
        for form, reason in choice.refusals.items():
            _log.warning("form %s of the network does not serve: %s", form, reason)
        _log.info("form %s of the network serves on %s", choice.form, processor())
        return choice, run

    def _prove_all(self, compiled: Path | None) -> tuple[Choice, Runner]:
        golden, runners, refusals = self.golden(), dict[Form, Runner](), dict[Form, str]()
        for item in self.manifest.forms:
            try:
                runners[item.form] = self._prove(item, golden, compiled)
            except ArchiveError as error:
                refusals[item.form] = str(error)
            if runners and self.manifest.processor == processor():
                break
        if not runners:
            reasons = "; ".join(f"{form}: {reason}" for form, reason in refusals.items()) or "it has none"
            raise ArchiveError(f"no form of the network gives the promised answers on {processor()}: {reasons}")
        form = fastest_first(measure(runners, golden[:1]))[0] if len(runners) > 1 else next(iter(runners))
        return Choice(form, refusals), runners[form]

    def _prove(self, item: AcceptedForm, golden: Pixels, compiled: Path | None) -> Runner:
        """The runner of a form. Raises ArchiveError where it does not give the promised answers here."""
        if not runs_here(item.form):
            raise ArchiveError(f"this processor has no instructions for {item.form}")
        run = self._runner(item.form, compiled)
        logits = np.concatenate([run(pixels[None]).logits for pixels in golden])
        answers = softmax(logits / item.calibration.temperature)
        off = float(np.abs(answers - np.asarray(item.calibration.golden)).max())
        if not off <= self.manifest.tolerance:
            raise ArchiveError(
                f"a probability for a golden photo is {off:.3f} off; at most {self.manifest.tolerance} is allowed"
            )
        return run

    def _runner(self, form: Form, compiled: Path | None) -> Runner:
        return onnx_runner(self.folder / form.file, self.threads, form, compiled)


@contextmanager
def _cache_of(folder: Path, shared: bool) -> Iterator[Path | None]:
    """The folder's cache, locked; None where it is not to be used, or cannot be written."""
    compiled = folder / COMPILED
    with suppress(OSError):
        if shared:
            compiled.mkdir(exist_ok=True)
    if not (shared and compiled.is_dir() and os.access(compiled, os.W_OK)):
        yield None
        return
    with exclusive_lock(compiled):
        yield compiled


def _read_choice(compiled: Path | None) -> Choice | None:
    """What an earlier worker chose here, on the same kind of processor with the same OpenVINO."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = json.loads((compiled / CHOICE).read_text()) if compiled else {}
        if {name: content[name] for name in _environment()} == _environment():
            return Choice(Form(content["form"]), {Form(form): text for form, text in content["refusals"].items()})
    return None


def _environment() -> dict[str, str]:
    return {"processor": processor(), "openvino": openvino.get_version()}


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits ``(..., C)`` -> probabilities that sum to 1."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))
