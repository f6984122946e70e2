"""The processing jobs of the pipeline on SageMaker, which run in the trainer's image.

    python -m trainer.aws.processing_steps evaluate [--counts 1-5]
    python -m trainer.aws.processing_steps keep

``evaluate`` reads, below /opt/ml/processing, ``model/model.tar.gz`` (the training's), ``photos/`` and
``accuracy/accuracy.json`` (the deployed model's), and writes ``evaluation/evaluation.json`` and
``evaluation/accuracy.json``, whose accuracies the condition compares. Both are on the same photos: where the deployed
model was tested on others, its archive is fetched and evaluated again. ``keep`` prints why nothing changes.
"""

import argparse
import json
import logging
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve.archives.archive import manifest_of
from serve.errors import DataError
from trainer import entrypoint
from trainer.artifacts import ACCURACY, EVALUATION
from trainer.aws.definition import PROCESSING
from trainer.aws.endpoint.package import archive_in
from trainer.data.dataset import Part
from trainer.data.prepared import load_any
from trainer.data.s3 import Missing, S3Store
from trainer.evaluation.evaluate import Evaluation, evaluate, evaluation_from_json
from trainer.options import data_spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeployedModel:
    """The content of accuracy.json. ``fingerprint``: of the test photos; ``archive``: the archive's address."""

    accuracy: float
    version: str | None = None
    fingerprint: str = ""
    archive: str = ""


def evaluate_step(base: Path, counts: str | None, fetch: Callable[[str, Path], Path]) -> tuple[Evaluation, float]:
    """Evaluate the new archive; returns the result, and the deployed model's accuracy (0-1) on the same photos.

    Raises DataError where the two cannot be compared.
    """
    deployed = read_deployed(base / "accuracy" / ACCURACY)
    with (
        tempfile.TemporaryDirectory(prefix="binwatch-evaluation-") as folder,
        archive_in(base / "model" / "model.tar.gz") as model,
    ):
        spec = data_spec({"data": str(base / "photos"), "counts": counts}, base / "photos")
        test = load_any(spec, manifest_of(model).size_px).test
        challenger = evaluate(model, test).evaluation
        accuracy = deployed.accuracy
        if deployed.version is not None and deployed.fingerprint != test.fingerprint:
            accuracy = _evaluate_deployed(deployed, test, challenger, lambda: fetch(deployed.archive, Path(folder)))
    _write(base / "evaluation", challenger, {**vars(deployed), "accuracy": accuracy, "fingerprint": test.fingerprint})
    return challenger, accuracy


def _evaluate_deployed(
    deployed: DeployedModel, test: Part, challenger: Evaluation, fetch_archive: Callable[[], Path]
) -> float:
    if not deployed.archive:
        raise DataError(
            f"{ACCURACY} says that version {deployed.version} was tested on other photos, but not where its archive "
            "is; deploy it again with scripts/deploy_sagemaker.py"
        )
    log.info("version %s was tested on other photos; evaluating it on these", deployed.version)
    champion = evaluate(fetch_archive(), test).evaluation
    if champion.classes != challenger.classes:
        raise DataError(f"the new model predicts the counts {challenger.classes}, the deployed one {champion.classes}")
    return champion.accuracy


def _write(out: Path, challenger: Evaluation, deployed: dict[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / EVALUATION).write_text(json.dumps(challenger.to_sagemaker(), indent=1))
    (out / ACCURACY).write_text(json.dumps(deployed))


def read_deployed(path: Path) -> DeployedModel:
    """Read accuracy.json. Raises DataError."""
    try:
        content = json.loads(path.read_text())
        version = content["version"]
        return DeployedModel(
            float(content["accuracy"]),
            None if version is None else str(version),
            str(content.get("fingerprint") or ""),
            str(content.get("archive") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not say what is deployed: {error!r}; deploy again to replace it") from error


def fetch(uri: str, folder: Path) -> Path:
    """Fetch an archive from a bucket into ``folder``. Raises DataError."""
    folder_uri, _, name = uri.rpartition("/")
    path = folder / f"deployed-{name}"
    try:
        path.write_bytes(S3Store(folder_uri).read(name))
    except Missing as error:
        raise DataError(f"the deployed model's archive {uri} does not exist any more; deploy it again") from error
    return path


def main(args: Namespace) -> int:
    """Run one of the two steps; both exit with 0, since a refused model is no failure of the pipeline."""
    if args.step == "evaluate":
        challenger, accuracy = evaluate_step(args.base, args.counts, fetch)
    else:
        challenger = evaluation_from_json((args.base / "evaluation" / EVALUATION).read_text())
        accuracy = read_deployed(args.base / "evaluation" / ACCURACY).accuracy
    better = "greater" if challenger.accuracy > accuracy else "not greater"
    text = f"the new model's accuracy {challenger.accuracy:.1%} is {better} than the deployed {accuracy:.1%}"
    print(text if args.step == "evaluate" else f"{text}: it stays", flush=True)
    return entrypoint.OK


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=("evaluate", "keep"))
    parser.add_argument("--counts", help="the counts to predict")
    parser.add_argument("--base", type=Path, default=Path(PROCESSING))
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    entrypoint.run(main, parser.parse_args())
