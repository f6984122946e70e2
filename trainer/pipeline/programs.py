"""What scripts/pipeline.py and scripts/demo.py run: the watcher, built from settings and options, and the demo."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

from serve.evidence import Evidence
from serve.objects.places import open_objects
from trainer import options
from trainer.data import prepared, transfer
from trainer.data.abid import Photo
from trainer.data.bin_records.records import read_json, records_of
from trainer.data.dataset import DataSpec
from trainer.data.split import Split
from trainer.pipeline import retention
from trainer.pipeline.execution import Execution, ExecutionDecision, ExecutionRequest
from trainer.pipeline.pipeline import ExecutionOptions, Promote, execute, wait_for_promoter
from trainer.pipeline.recalibration.from_settings import promise_check
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
EXTRA_UNITS = 2
"""How many units more than the bin holds the demo's wrong record lists."""


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
        monitoring=open_objects(settings.monitoring, settings.s3_endpoint),
        notify=notify,
        prune=partial(retention.prune, places, settings.retention),
        check_promise=promise_check(settings, registry),
    )


def build_request(settings: TrainerSettings, words: Mapping[str, object]) -> ExecutionRequest:
    """What an execution is asked to do. Raises SettingsError, DataError."""
    values, state, data = {**words, **dict(settings)}, settings.state, settings.data or ""
    values["recounts"] = settings.recounts if settings.recounts_train else None
    uri = data if data.startswith("s3://") else ""
    if uri:
        values["data"] = str(transfer.mirror_folder(uri, state / "s3"))
    spec = options.data_spec(values, state / "drawn")
    return ExecutionRequest(spec, options.recipe(settings.recipe, values), uri=uri)


Fields = Mapping[str, object]
"""The fields of a request beside its photo: a recorded quantity, or a whole record."""


class Servers(Protocol):
    """What the demo asks; implemented by ``serve.local.local_stack.LocalStack``."""

    def predict(self, photo: bytes) -> Mapping[str, object]:
        """The model server's answer about a photo."""

    def verify(self, photo: bytes, fields: Fields) -> Mapping[str, object]:
        """The gateway's answer about a photo and its record; an error is an answer, too."""


@dataclass(frozen=True, kw_only=True)
class RecordCheck:
    """What the server says about one record of the demo's photo. ``record``: which one it is, in words."""

    record: str
    answer: Mapping[str, object]

    def in_words(self) -> str:
        """The verdict, what it rests on, and why; or the server's error."""
        if "verdict" not in self.answer:
            return f"verdict on {self.record}: none; {self.answer.get('message', self.answer)}"
        evidence, reason = Evidence.of(self.answer), self.answer.get("reason")
        return f"verdict on {self.record}: {self.answer['verdict']} by {evidence}: {reason}"


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """The demo's executions, and answers of the server that they leave behind, about one photo.

    ``first_answer_s``: seconds from the start to the first answer; None where no execution was promoted.
    """

    executions: tuple[Execution, ...]
    prediction: Mapping[str, object]
    checks: tuple[RecordCheck, ...]
    first_answer_s: float | None

    def to_json(self) -> dict[str, object]:
        """For ``--json`` and ``var/demo.json``."""
        return {
            "executions": [execution.to_json() for execution in self.executions],
            "prediction": dict(self.prediction),
            "checks": [asdict(check) for check in self.checks],
            "first_answer_s": self.first_answer_s,
        }

    def in_words(self) -> list[str]:
        """One line for each execution, the prediction, and each record."""
        lines = [f"execution {number}: {execution.in_words()}" for number, execution in enumerate(self.executions, 1)]
        plural = "" if self.prediction["count"] == 1 else "s"
        answer = f"{{count}} object{plural} (recorded {{recorded}}) by version {{model_version}} for {{photo}}"
        checks = [check.in_words() for check in self.checks]
        return [*lines, f"prediction: {answer.format(**self.prediction)}", *checks]


def plans(spec: DataSpec, recipe: Recipe) -> list[tuple[DataSpec, Recipe]]:
    """The trainings of the demo: one of a quarter of the epochs, one of few photos, and one as ``recipe`` says.

    The first has no record model, so that it answers soon.
    """
    first = replace(recipe, epochs=max(1, int(recipe.epochs * FIRST_SHARE)), record_folds=0)
    return [(spec, first), (replace(spec, train_share=SMALL_SHARE), recipe), (spec, recipe)]


def demonstrate(
    registry: Registry,
    spec: DataSpec,
    recipe: Recipe,
    promote: Promote,
    servers: Servers,
    start: float,
) -> Demonstration:
    """Run the executions, and ask about one photo of the test split as soon as a model serves, and at the end.

    ``start``: of the demo, in seconds of ``time.monotonic``.
    """
    photo, records = demo_records(spec)
    executions: list[Execution] = []
    first_answer_s = None
    for data, plan in plans(spec, recipe):
        executions.append(execute(registry, data, plan, promote))
        if first_answer_s is None and executions[-1].decision == ExecutionDecision.PROMOTED:
            servers.predict(photo.path.read_bytes())
            first_answer_s = round(time.monotonic() - start, 1)
            log.info("the first answer came after %s s", first_answer_s)
    picture = photo.path.read_bytes()
    return Demonstration(
        executions=tuple(executions),
        prediction={"photo": str(photo.path), "recorded": photo.count, **servers.predict(picture)},
        checks=tuple(
            RecordCheck(record=name, answer=servers.verify(picture, fields)) for name, fields in records.items()
        ),
        first_answer_s=first_answer_s,
    )


def demo_records(spec: DataSpec) -> tuple[Photo, dict[str, Fields]]:
    """A photo of the test split that shows few objects, and its record and a plainly wrong one, by their names.

    The wrong one also lists EXTRA_UNITS of the largest product of other bins. Without records both are quantities.
    """
    photos, split_of = prepared.splits_of(spec)
    test = [photo for photo in photos if split_of[photo.id] == Split.TEST]
    photo = min(test, key=lambda photo: photo.count)
    stranger = _largest_stranger(photo, test)
    if stranger is None:
        quantities = (photo.count, photo.count + EXTRA_UNITS)
        return photo, {f"a record of {quantity}": {"expected_quantity": quantity} for quantity in quantities}
    (label, entry), right = stranger, read_json(photo)
    products = {**right["BIN_FCSKU_DATA"], entry["asin"]: {**entry, "quantity": EXTRA_UNITS}}
    wrong = {"EXPECTED_QUANTITY": right["EXPECTED_QUANTITY"] + EXTRA_UNITS, "BIN_FCSKU_DATA": products}
    return photo, {
        "its record": {"record": right},
        f"a record that also lists {EXTRA_UNITS} of {label}": {"record": wrong},
    }


def _largest_stranger(photo: Photo, photos: Sequence[Photo]) -> tuple[str, dict[str, Any]] | None:
    """The name of the largest product that other photos have and ``photo`` does not list, and what a record says of it.

    None where there are no records.
    """
    records = records_of(photos)
    if photo.id not in records:
        return None
    ids = {product.id for product in records[photo.id].products}
    strangers = [
        (math.prod(product.sides_cm), other, product)
        for other in photos
        for product in (records[other.id].listed if other.id in records else ())
        if product.sides_cm and product.id not in ids
    ]
    if not strangers:
        return None
    _, other, product = max(strangers, key=lambda stranger: stranger[0])
    return product.label, {**read_json(other)["BIN_FCSKU_DATA"][product.id], "asin": product.id}
