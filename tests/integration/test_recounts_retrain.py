"""The loop: a new camera, people who recount, an execution that starts by itself, a champion that is better."""

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from tests.integration.mortal import promoting
from tests.models import SURE
from tests.recounting import put_recount
from trainer.data import prepared, synthetic
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.recounts import is_recount, read_recounts
from trainer.evaluation import policy
from trainer.evaluation.evaluate import predict
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline.execution import ExecutionRequest
from trainer.pipeline.new_photos import NewPhotos
from trainer.pipeline.pipeline import ExecutionOptions, prepared_folder
from trainer.pipeline.triggers import Limits
from trainer.pipeline.watcher import PipelineWatcher
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch

COUNTS = Counts((1, 5))
"""Two that a small network tells apart."""
PHOTOS, RECOUNTED, HELD_OUT = 200, 160, 60


def seen_by_the_new_camera(tmp_path: Path) -> Iterator[tuple[Image.Image, int]]:
    """Bins whose photos are negatives, which the model has never learned: the photo, and what is in the bin."""
    bins = synthetic.draw_dataset(tmp_path / "bins", RECOUNTED + HELD_OUT, seed=17, counts=COUNTS.values)
    for path in sorted((bins / "bin-images").iterdir()):
        quantity = json.loads((bins / "metadata" / f"{path.stem}.json").read_text())["EXPECTED_QUANTITY"]
        with Image.open(path) as photo:
            yield ImageOps.invert(photo.convert("RGB")), quantity


def recount(tmp_path: Path, recounts: Path, held_out: Path) -> None:
    """What a person finds: a fifth of the records was wrong, and half of the recounts come from alarms."""
    for number, (photo, quantity) in enumerate(seen_by_the_new_camera(tmp_path)):
        put_recount(
            recounts if number < RECOUNTED else held_out,
            f"event-{number}",
            photo,
            quantity,
            random=number % 2 == 0,
            alarm=number % 2 == 1,
            recorded_quantity=quantity if number % 5 else 6 - quantity,
            bin_id=f"shelf-{number}",
        )


def accuracy(registry: Registry, version: str, photos: Path, folder: Path) -> float:
    """Of a version, on the recounts in ``photos``."""
    archive = fetch(registry, registry.version(version).run_id, folder / version, None)
    answers = predict(archive, read_recounts(photos, COUNTS, {}).photos)
    return sum(answer.count == answer.recorded for answer in answers) / len(answers)


def test_recounts_start_an_execution_whose_champion_is_better_on_what_was_recounted(
    registry: Registry, tmp_path: Path
) -> None:
    recounts, held_out, state = tmp_path / "recounts", tmp_path / "held-out", tmp_path / "state"
    recounts.mkdir()
    source = synthetic.draw_dataset(tmp_path / "source", PHOTOS, seed=1, counts=COUNTS.values)
    spec = DataSpec(source, counts=COUNTS, recounts=recounts)
    watcher = PipelineWatcher(
        registry,
        ExecutionRequest(spec, SURE),
        promoting(registry),
        ExecutionOptions(state=state, policy=GatePolicy(rule=policy.GREATER).without_guards()),
        limits=Limits(new_photos=100, new_share=0.1, cooldown_s=0),
        new_photos=NewPhotos(spec, settled_s=0),
    )
    first = watcher.poll()
    assert first
    assert first.decision == "promoted"
    assert watcher.poll() is None
    before = {row.id: row.split for row in prepared.read(prepared_folder(state, spec)).rows}

    recount(tmp_path, recounts, held_out)
    second = watcher.poll()
    assert second
    assert f"{RECOUNTED} of them recounts" in second.why[0]
    assert not next(step for step in second.steps if step.name == "train").cached
    assert second.decision == "promoted", second.reasons
    assert watcher.poll() is None

    rows = prepared.read(prepared_folder(state, spec)).rows
    assert before.items() <= {row.id: row.split for row in rows}.items()
    judging = [row.id for row in rows if is_recount(row.id) and row.split != "train"]
    alarms = {f"recount/event-{number}" for number in range(1, RECOUNTED, 2)}
    assert len(judging) > 10
    assert not alarms & {*judging}
    first_accuracy, second_accuracy = (accuracy(registry, version, held_out, tmp_path) for version in ("1", "2"))
    print(f"accuracy on {HELD_OUT} held-out recounts: {first_accuracy:.2f}, after the execution {second_accuracy:.2f}")
    assert second_accuracy > first_accuracy + 0.1
