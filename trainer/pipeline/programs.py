"""What scripts/pipeline.py and scripts/demo.py run: the watcher, built from settings and options, and the demo."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from trainer import options
from trainer.data import prepared, transfer
from trainer.data.dataset import DataSpec
from trainer.data.split import Split
from trainer.pipeline import retention
from trainer.pipeline.execution import Execution, ExecutionDecision, ExecutionRequest
from trainer.pipeline.pipeline import ExecutionOptions, Promote, execute, wait_for_promoter
from trainer.pipeline.trainer_settings import TrainerSettings
from trainer.pipeline.watcher import Notify, PipelineWatcher
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.training.recipes import Recipe

log = logging.getLogger(__name__)

SETTLED_S = 60.0
"""A watcher takes photos that have not changed for so long: others may still be being copied."""
RECOVERY_S = 90.0
FIRST_SHARE, SMALL_SHARE = 0.25, 0.1
"""Share of the epochs that the demo's first execution gets, and of the training photos that the second one gets."""


def build_watcher(settings: TrainerSettings, words: Mapping[str, object], notify: Notify) -> PipelineWatcher:
    """The watcher of the state folder. ``words``: the options. Raises SettingsError, DataError."""
    request, registry = build_request(settings, words), Registry(settings.tracking_uri)
    places = retention.Places(registry, settings.capture, settings.state, settings.s3_endpoint)
    return PipelineWatcher(
        registry,
        request,
        partial(wait_for_promoter, registry),
        ExecutionOptions(
            state=settings.state,
            cache=bool(words["cache"]),
            policy=settings.gate,
            settled_s=SETTLED_S if words["watch"] else 0.0,
            trusted=signing.ensure_local_keys(settings.state),
            recovery_s=RECOVERY_S,
        ),
        limits=settings.limits,
        monitoring=settings.monitoring,
        notify=notify,
        prune=partial(retention.prune, places, settings.retention),
    )


def build_request(settings: TrainerSettings, words: Mapping[str, object]) -> ExecutionRequest:
    """What an execution is asked to do. Raises SettingsError, DataError."""
    values, state, data = {**words, **dict(settings)}, settings.state, settings.data or ""
    uri = data if data.startswith("s3://") else ""
    if uri:
        values["data"] = str(transfer.mirror_folder(uri, state / "s3"))
    spec = options.data_spec(values, state / "drawn")
    return ExecutionRequest(spec, options.recipe(settings.recipe, values), uri=uri)


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """The demo's executions, and one answer of the server that they leave behind.

    ``first_answer_s``: seconds from the start to the first answer; None where no execution was promoted.
    """

    executions: tuple[Execution, ...]
    prediction: Mapping[str, object]
    first_answer_s: float | None

    def to_json(self) -> dict[str, object]:
        """For ``--json`` and ``var/demo.json``."""
        return {
            "executions": [execution.to_json() for execution in self.executions],
            "prediction": dict(self.prediction),
            "first_answer_s": self.first_answer_s,
        }

    def in_words(self) -> list[str]:
        """One line for each execution and the prediction."""
        lines = [f"execution {number}: {execution.in_words()}" for number, execution in enumerate(self.executions, 1)]
        answer = "{count} objects (recorded {recorded}) by version {model_version} for {photo}"
        return [*lines, f"prediction: {answer.format(**self.prediction)}"]


def plans(spec: DataSpec, recipe: Recipe) -> list[tuple[DataSpec, Recipe]]:
    """The trainings of the demo: one of a quarter of the epochs, one of few photos, and one as ``recipe`` says."""
    first = replace(recipe, epochs=max(1, int(recipe.epochs * FIRST_SHARE)))
    return [(spec, first), (replace(spec, train_share=SMALL_SHARE), recipe), (spec, recipe)]


def demonstrate(
    registry: Registry,
    spec: DataSpec,
    recipe: Recipe,
    promote: Promote,
    predict: Callable[[bytes], Mapping[str, object]],
    start: float,
) -> Demonstration:
    """Run the executions, and ask about one photo of the test split as soon as a model serves, and at the end.

    ``start``: of the demo, in seconds of ``time.monotonic``.
    """
    photo = prepared.first_photo(spec, Split.TEST)
    executions: list[Execution] = []
    first_answer_s = None
    for data, plan in plans(spec, recipe):
        executions.append(execute(registry, data, plan, promote))
        if first_answer_s is None and executions[-1].decision == ExecutionDecision.PROMOTED:
            predict(photo.path.read_bytes())
            first_answer_s = round(time.monotonic() - start, 1)
            log.info("the first answer came after %s s", first_answer_s)
    prediction = {"photo": str(photo.path), "recorded": photo.count, **predict(photo.path.read_bytes())}
    return Demonstration(executions=tuple(executions), prediction=prediction, first_answer_s=first_answer_s)
