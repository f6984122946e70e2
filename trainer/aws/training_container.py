"""The trainer as a SageMaker training container: ``docker run IMAGE train``.

    /opt/ml/input/config/hyperparameters.json    all values strings: recipe, epochs, batch-size, ...
    /opt/ml/input/data/training/                 the photos' channel, in the dataset's layout
    /opt/ml/model/                               bin-counter.mar and evaluation.json
    /opt/ml/checkpoints/                         each epoch and on SIGTERM; the next start resumes
    /opt/ml/output/epochs.jsonl                  the numbers of each epoch, as it ends
    /opt/ml/output/failure                       the reason, with exit code 1, when it fails

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
Where SageMaker's training toolkit has set SM_HPS, SM_CHANNEL_TRAINING and SM_MODEL_DIR, those hold.
With several GPUs or several hosts every process trains its share (``trainer/distributed.py``).
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
from typing import Any

from serve.errors import BinwatchError, SettingsError, TrainingError
from trainer import entrypoint, options
from trainer.aws import training_log
from trainer.data.dataset import DataSpec
from trainer.experiments.runners import EPOCHS
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import TrackedRun
from trainer.training import checkpoint, distributed
from trainer.training.progress import Epoch
from trainer.training.recipes import Recipe
from trainer.training.run import learn, run_evaluation, run_training

CHANNEL = "training"


@dataclass(frozen=True)
class TrainingJob:
    """What SageMaker asked for."""

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
        spec,
        recipe,
        model_dir,
        uri,
        options.stop_on(hyperparameters),
        _checkpoints(base, environ),
        base / "output" / EPOCHS,
        hyperparameters.get("export") != "false",
    )


def _checkpoints(base: Path, environ: Mapping[str, str]) -> Path:
    """A folder of the job's own: the jobs of a search may share one address in the bucket."""
    return base / "checkpoints" / environ.get("TRAINING_JOB_NAME", "")


def _data_root(channel: Path) -> Path:
    """The folder with bin-images/: the channel itself, or the only folder in it that has one."""
    found = [path.parent for path in channel.glob("*/bin-images")]
    return found[0] if len(found) == 1 and not (channel / "bin-images").is_dir() else channel


def _hyperparameters(base: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    path = base / "input" / "config" / "hyperparameters.json"
    text = environ.get("SM_HPS") or (path.read_text() if path.is_file() else "{}")
    try:
        content = json.loads(text)
        # SageMaker's SDK encodes strings once more, as JSON
        values = {key.replace("-", "_"): str(value).strip('"') for key, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise SettingsError(f"the hyperparameters {text[:200]!r} are no JSON object: {error}") from error
    return {key: value for key, value in values.items() if not key.startswith("sagemaker_")}


def train(job: TrainingJob, environ: Mapping[str, str]) -> None:
    """Run the job; the archive and evaluation.json land in the model directory."""
    if distributed.rank():
        learn(job.spec, job.recipe, job.model_dir, None, stop_on=job.stop_on, checkpoints=job.checkpoints)
        return
    if job.tracking_uri is None:
        _run(job, None)
        return
    name = environ.get("BINWATCH_RUN_NAME") or f"train {job.recipe.name}"
    with Registry(job.tracking_uri).run(name, environ.get("BINWATCH_PARENT_RUN")) as run:
        _run(job, run)


def _run(job: TrainingJob, run: TrackedRun | None) -> None:
    """Train, and unless ``export`` is false, as in a search, make an archive and evaluate it."""
    job.epochs.parent.mkdir(parents=True, exist_ok=True)
    best = float("inf")

    def note(epoch: Epoch) -> None:
        nonlocal best
        best = min(best, epoch.validation_loss)
        with job.epochs.open("a") as lines:
            lines.write(json.dumps(asdict(epoch)) + "\n")
        print(training_log.epoch_line(epoch.number, epoch.metrics(), best), flush=True)

    how: dict[str, Any] = {"stop_on": job.stop_on, "checkpoints": job.checkpoints, "on_epoch": note}
    if job.export:
        evaluated = run_evaluation(run_training(job.spec, job.recipe, job.model_dir, run, **how))
        print(training_log.evaluation_line(evaluated.evaluation.metrics()), flush=True)
    else:
        learn(job.spec, job.recipe, job.model_dir, run, **how)
        checkpoint.remove(job.checkpoints)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """SageMaker's entry point: 0, or 1 with the reason in output/failure."""
    entrypoint.log_to_stderr()
    entrypoint.exit_on_sigterm()
    base = Path(environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    failure = base / "output" / "failure"
    try:
        launcher = distributed.launcher(base, environ, "trainer.aws.training_container")
        if "WORLD_SIZE" not in environ:
            failure.unlink(missing_ok=True)
        if launcher:
            os.execve(launcher[0], launcher, dict(environ))
        with distributed.process_group(environ):
            train(read_job(base, environ), environ)
    except Exception as error:  # whatever it is, SageMaker must be told in the failure file
        reason = str(error) if isinstance(error, BinwatchError) else traceback.format_exc()
        _tell(failure, reason[-1024:])  # SageMaker shows 1,024 characters
        print(f"error: {reason}", file=sys.stderr)
        return 1
    return 0


def toolkit() -> None:
    """The same for AWS's training toolkit: SAGEMAKER_TRAINING_MODULE=trainer.contract:toolkit. Raises TrainingError.

    In the toolkit's own process, which is the one that hears SIGTERM. It knows of failures only what is raised.
    """
    if main():
        raise TrainingError("the training failed; output/failure says why")


def _tell(failure: Path, reason: str) -> None:
    """Write why it failed; of several processes the first one knows, the others only miss it."""
    failure.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), failure.open("x") as out:
        out.write(reason)


if __name__ == "__main__":
    sys.exit(main())
