"""The forms of a network that an archive holds for CPUs, and which of them serves.

A form is accepted if it is about as accurate as fp32 on the half of the validation photos that selected the weights.
Each accepted form is calibrated on the other half, because the promise about false alarms holds for the form whose
answers calibrated it. The fastest serves; how fast each is, is measured here, on this kind of processor.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from serve.evidence.novelty import MIN_PHOTOS, FeatureSpace, stored_scores
from serve.evidence.record_model import RecordModel
from serve.manifest import AcceptedForm, Calibration, Form
from serve.photo import Pixels
from serve.runtime import ADVANTAGE, Outputs, Runner, fastest_first, measure, onnx_runner, processor, runs_here
from trainer.data.counts import Counts
from trainer.data.dataset import Part
from trainer.evaluation.calibration import calibrate, conformal_scores
from trainer.training.quantise import FormDecision, decide, fp32_shares, quantise, sample_pixels
from trainer.training.record_training import record_scores

BATCH = 32
MAX_FEATURE_PHOTOS = 2000
"""How many training photos say what features of bins are; more change nothing (docs/results.md)."""


@dataclass(frozen=True)
class CalibratedForm:
    """One form on the calibration photos: its calibration, its metrics, and its probabilities ``(N, C)``."""

    calibration: Calibration
    metrics: Mapping[str, float]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MeasuredForms:
    """What became of all forms.

    ``accepted``: in the order to try them; ``decisions``: on the forms other than fp32 that this processor can compute;
    ``served``: the first form on the calibration photos; ``exact``: the calibration of fp32.
    """

    accepted: tuple[AcceptedForm, ...]
    decisions: tuple[FormDecision, ...]
    served: CalibratedForm
    exact: Calibration

    @property
    def reason(self) -> str:
        """Why the first form serves, with all figures."""
        speeds = ", ".join(f"{item.form} {item.photos_per_s:g}" for item in self.accepted)
        speed = f"{self.accepted[0].form} serves: photos/s of one thread on {processor()}: {speeds}"
        rule = f"to replace fp32, a form must be {ADVANTAGE} times as fast"
        return "; ".join([speed, rule, *(decision.reason for decision in self.decisions)])

    def metrics(self) -> dict[str, float]:
        """The accuracy (0-1) of each form on the photos that selected the weights, by name."""
        accuracies = {f"{decision.form}_accuracy": decision.accuracy for decision in self.decisions}
        return {"fp32_accuracy": self.decisions[0].fp32_accuracy, **accuracies}


@dataclass(frozen=True, kw_only=True)
class FormTrial:
    """The files and photos that forms are tried with.

    ``stage``: the folder with the file of fp32; ``selection``, ``calibration``: the halves of the validation photos;
    ``golden``: pixels of the golden photos, uint8 ``(G, S, S, 3)``; ``fp32``: the runner of fp32, and ``exact`` its
    probabilities ``(N, C)`` for the selection photos; ``bins``: where the features of training photos are, if there is
    to be a test for photos that show no bin; ``records``: the record model, if there is one.
    """

    stage: Path
    train: Part
    selection: Part
    calibration: Part
    counts: Counts
    golden: Pixels
    seed: int
    fp32: Runner
    exact: NDArray[np.float64]
    bins: FeatureSpace | None
    records: RecordModel | None

    def run(self) -> MeasuredForms:
        """Write the int8 form if it is accepted; calibrate, measure and order all accepted forms."""
        runners = {Form.FP32: self.fp32}
        decisions = [self._try_int8(runners)]
        if runs_here(Form.BF16):
            runners[Form.BF16] = runner_on_all_cores(self.stage / Form.BF16.file, Form.BF16)
            decisions.append(self._decide(Form.BF16, runners[Form.BF16]))
        accuracies = {decision.form: decision.accuracy for decision in decisions if decision.accepted}
        accuracies[Form.FP32] = decisions[0].fp32_accuracy
        speeds = measure({form: onnx_runner(self.stage / form.file, 1, form) for form in accuracies}, self.golden[:1])
        calibrated = {form: self._calibrate(runners[form]) for form in accuracies}
        accepted = tuple(
            AcceptedForm(
                form=form,
                photos_per_s=speeds[form],
                accuracy=accuracies[form],
                calibration=calibrated[form].calibration,
            )
            for form in fastest_first(speeds)
        )
        return MeasuredForms(
            accepted=accepted,
            decisions=tuple(decisions),
            served=calibrated[accepted[0].form],
            exact=calibrated[Form.FP32].calibration,
        )

    def _try_int8(self, runners: dict[Form, Runner]) -> FormDecision:
        """Write the int8 form and add its runner, or remove it again where it is not accurate enough."""
        model, path = self.stage / Form.FP32.file, self.stage / Form.INT8.file
        for fp32_share in fp32_shares(model):
            quantise(model, path, sample_pixels(self.train, self.seed), fp32_share)
            runners[Form.INT8] = runner_on_all_cores(path, Form.INT8)
            decision = self._decide(Form.INT8, runners[Form.INT8])
            if decision.accepted:
                return decision
        path.unlink()
        return decision

    def _decide(self, form: Form, run: Runner) -> FormDecision:
        golden_exact, golden = (softmax(runner(self.golden).logits, axis=1) for runner in (self.fp32, run))
        probabilities = np.asarray(softmax(all_outputs(run, self.selection).logits, axis=1))
        return decide(self.exact, probabilities, self.selection.labels, golden_exact, golden, form)

    def _calibrate(self, run: Runner) -> CalibratedForm:
        outputs = all_outputs(run, self.calibration)
        logits = outputs.logits
        metrics = calibrate(logits, self.calibration.labels)
        temperature = metrics["temperature"]
        answers = softmax(run(self.golden).logits / temperature, axis=1)
        calibration = Calibration(
            temperature,
            conformal_scores(logits, self.calibration.labels, self.counts.names),
            tuple(tuple(round(float(p), 6) for p in row) for row in answers),
            stored_scores(self.bins, outputs.features) if self.bins and outputs.features is not None else (),
            record_scores(self.records, outputs, self.calibration, self.counts) if self.records else {},
        )
        return CalibratedForm(calibration, metrics, np.asarray(softmax(logits / temperature, axis=1)))


def runner_on_all_cores(model: Path, form: Form = Form.FP32) -> Runner:
    """A runner for many photos at once."""
    return onnx_runner(model, len(os.sched_getaffinity(0)), form)


def all_outputs(run: Runner, part: Part) -> Outputs:
    """The outputs for a split, but for maps."""
    batches = [run(part.pixels[start : start + BATCH]) for start in range(0, len(part), BATCH)]
    features = [batch.features for batch in batches if batch.features is not None]
    logits = np.concatenate([batch.logits for batch in batches])
    return Outputs(logits, np.concatenate(features) if features else None)


def feature_space(run: Runner, train: Part, calibration: Part, seed: int) -> FeatureSpace | None:
    """Where the features of training photos are; None where too few calibration photos could say what is usual."""
    if len(calibration) < MIN_PHOTOS:
        return None
    rows = np.sort(np.random.default_rng(seed).permutation(len(train))[:MAX_FEATURE_PHOTOS])
    features = all_outputs(run, train.rows(rows)).features
    return None if features is None else FeatureSpace.of(features)
