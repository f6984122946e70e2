"""The trainer as a SageMaker training container: ``docker run IMAGE train``.

    /opt/ml/input/config/hyperparameters.json    all values strings: recipe, epochs, batch-size, ...
    /opt/ml/input/data/training/                 the channel with the photos, in the dataset's layout
    /opt/ml/model/                               bin-counter.mar and evaluation.json
    /opt/ml/checkpoints/                         written after each epoch and on SIGTERM, resumed at the next start
    /opt/ml/output/epochs.jsonl                  the metrics of each epoch
    /opt/ml/output/failure                       the reason for a failure, beside exit code 1

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
SM_HPS, SM_CHANNEL_TRAINING and SM_MODEL_DIR, which SageMaker's training toolkit sets, take precedence over the files.
With several GPUs or hosts the training is distributed (``trainer/training/distributed.py``).
MLflow is used when MLFLOW_TRACKING_URI names a server.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve.errors import OUTSIDE, BinwatchError, SettingsError, TrainingError, sentence
from trainer import entrypoint, options
from trainer.aws import training_log
from trainer.data.dataset import DataSpec
from trainer.experiments.runners import EPOCHS
from trainer.training.recipes import Recipe
from trainer.training.torchrun import launch_command

if TYPE_CHECKING:
    from trainer.registry.tracked_run import TrackedRun
    from trainer.training.loop.progress import Epoch

CHANNEL = "training"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training job. ``epochs``: the file for the metrics of epochs; ``export``: whether to write an archive."""

    spec: DataSpec
    recipe: Recipe
    model_dir: Path
    tracking_uri: str | None
    stop_on: frozenset[str]
    checkpoints: Path
    epochs: Path
    export: bool


def read_job(base: Path, environ: Mapping[str, str]) -> TrainingJob:
    """Read the job below ``base`` (/opt/ml) and from SM_* variables. Raises SettingsError, DataError."""
    hyperparameters = _hyperparameters(base, environ)
    unknown = sorted(set(hyperparameters) - training_log.HYPERPARAMETERS)
    if unknown:
        known = ", ".join(sorted(training_log.HYPERPARAMETERS))
        raise SettingsError(f"unknown hyperparameters {', '.join(unknown)}; known are {known}")
    channel = Path(environ.get("SM_CHANNEL_TRAINING") or base / "input" / "data" / CHANNEL)
    if not channel.is_dir():
        raise SettingsError(f"there is no channel {CHANNEL!r} at {channel}; give the job an input channel of that name")
    recipe = options.recipe(str(hyperparameters.get("recipe", "resnet34-scratch")), hyperparameters)
    spec = options.data_spec({**hyperparameters, "data": str(_data_root(channel))}, channel)
    model_dir = Path(environ.get("SM_MODEL_DIR") or base / "model")
    uri = environ.get("MLFLOW_TRACKING_URI") or None
    return TrainingJob(
        spec=spec,
        recipe=recipe,
        model_dir=model_dir,
        tracking_uri=uri,
        stop_on=options.stop_on(hyperparameters),
        checkpoints=_checkpoints(base, environ),
        epochs=base / "output" / EPOCHS,
        export=hyperparameters.get("export") != "false",
    )


def _checkpoints(base: Path, environ: Mapping[str, str]) -> Path:
    """A folder of this job alone: the trials of a tuning job share one address in the bucket."""
    return base / "checkpoints" / environ.get("TRAINING_JOB_NAME", "")


def _data_root(channel: Path) -> Path:
    """The folder with bin-images/: the channel itself, or the only folder in it that has one."""
    folders = [path.parent for path in channel.glob("*/bin-images")]
    return folders[0] if len(folders) == 1 and not (channel / "bin-images").is_dir() else channel


def _hyperparameters(base: Path, environ: Mapping[str, str]) -> dict[str, str]:
    path = base / "input" / "config" / "hyperparameters.json"
    text = environ.get("SM_HPS") or (path.read_text() if path.is_file() else "{}")
    try:
        content = json.loads(text)
        # SageMaker's SDK encodes strings once more, as JSON
        values = {key.replace("-", "_"): str(value).strip('"') for key, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise SettingsError(f"the hyperparameters {text[:200]!r} are not a JSON object: {error}") from error
    # AWS adds its own: sagemaker_program and the like, and _tuning_objective_metric to the trials of a search
    own = {key: value for key, value in values.items() if not key.startswith(("sagemaker_", "_"))}
    return {key: value for key, value in own.items() if key == "recipe" or value != training_log.OF_RECIPE}


def train(job: TrainingJob, environ: Mapping[str, str]) -> None:
    """Run the job; it writes the archive and evaluation.json to the model directory."""
    from trainer.training import distributed
    from trainer.training.run import load_and_fit

    if distributed.rank():
        inputs = (job.spec, job.recipe, job.model_dir, None)
        load_and_fit(*inputs, stop_on=job.stop_on, checkpoints=job.checkpoints, folds=job.export)
        return
    if job.tracking_uri is None:
        _run(job, None)
        return
    name = environ.get("BINWATCH_RUN_NAME") or f"train {job.recipe.name}"
    from trainer.registry.mlflow_registry import Registry  # MLflow takes seconds to import, and a job can do without

    with Registry(job.tracking_uri).run(name, environ.get("BINWATCH_PARENT_RUN")) as run:
        _run(job, run)


def _run(job: TrainingJob, run: "TrackedRun | None") -> None:
    """Train, and unless ``export`` is false, as for a trial, export an archive and evaluate it."""
    from trainer.training import checkpoint
    from trainer.training.run import load_and_fit, run_evaluation, run_training

    job.epochs.parent.mkdir(parents=True, exist_ok=True)
    best = float("inf")

    def log_epoch(epoch: "Epoch") -> None:
        nonlocal best
        best = min(best, epoch.validation_loss)
        with job.epochs.open("a") as lines:
            lines.write(json.dumps(asdict(epoch)) + "\n")
        print(training_log.epoch_line(epoch.number, epoch.metrics(), best), flush=True)

    stop_on, checkpoints = job.stop_on, job.checkpoints
    inputs = (job.spec, job.recipe, job.model_dir, run)
    if job.export:
        trained = run_training(*inputs, stop_on=stop_on, checkpoints=checkpoints, on_epoch=log_epoch)
        print(training_log.evaluation_line(run_evaluation(trained).evaluation.metrics()), flush=True)
    else:
        load_and_fit(*inputs, stop_on=stop_on, checkpoints=checkpoints, on_epoch=log_epoch)
        checkpoint.remove(checkpoints)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """SageMaker's entry point: 0, or 1 with the reason in output/failure."""
    entrypoint.log_to_stderr()
    entrypoint.exit_on_sigterm()
    base = Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    failure = base / "output" / "failure"
    try:
        launcher = launch_command(base, environ, "trainer.aws.training_container")
        if "WORLD_SIZE" not in environ:
            with suppress(OSError):  # none is there, or none can be: then the reason is only printed
                failure.unlink()
        if launcher:
            os.execve(launcher[0], launcher, dict(environ))
        from trainer.training import distributed  # torch takes seconds to import, and the launcher can do without

        with distributed.process_group(environ):
            train(read_job(base, environ), environ)
    except Exception as error:  # SageMaker expects every failure in the failure file
        reason = sentence(error) if isinstance(error, (BinwatchError, *OUTSIDE)) else traceback.format_exc()
        print(f"error: {reason}", file=sys.stderr)
        _write_failure(failure, reason[-1024:])  # SageMaker shows 1,024 characters
        return 1
    return 0


def toolkit() -> None:
    """The entry point for AWS's training toolkit: SAGEMAKER_TRAINING_MODULE=trainer.aws.training_container:toolkit.

    It runs in the toolkit's process, which receives SIGTERM, and which learns of a failure only by an exception.
    Raises TrainingError.
    """
    if main():
        raise TrainingError("the training failed; see output/failure")


def _write_failure(failure: Path, reason: str) -> None:
    """Write the reason, unless another process has: the first failure causes those of the others."""
    try:
        failure.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), failure.open("x") as out:
            out.write(reason)
    except OSError as error:
        print(f"error: the reason could not be stored: {sentence(error)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
