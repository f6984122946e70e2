"""The outputs of pipeline steps as tags: an execution that older code started must be resumable."""

import json
from pathlib import Path

import pytest

from serve.errors import DataError
from tests import old_step_tags
from trainer.pipeline.execution import ComparedModel, Step, StepStatus
from trainer.pipeline.step_outputs import (
    EvaluateOutput,
    GateOutput,
    PrepareOutput,
    PromoteOutput,
    TrainOutput,
    from_tag,
    to_tag,
)

OLD_TAGS: list[tuple[str, type[object], object]] = [
    (old_step_tags.PREPARE, PrepareOutput, PrepareOutput(source=Path("/state/prepared/0123456789ab"))),
    (
        old_step_tags.TRAIN,
        TrainOutput,
        TrainOutput(
            fingerprint="all-photos",
            test_fingerprint="test-photos",
            run_id="train-run",
            archive_sha256="archive-sha",
        ),
    ),
    (
        old_step_tags.EVALUATE,
        EvaluateOutput,
        EvaluateOutput(
            challenger="train-run",
            champion="3",
            champion_from="evaluate-run",
            champion_run="champion-run",
            latency_ms={"challenger": 8.5, "champion": 9.25},
        ),
    ),
    (
        old_step_tags.EVALUATE_FIRST,
        EvaluateOutput,
        EvaluateOutput(challenger="train-run", champion="", latency_ms={}),
    ),
    (
        old_step_tags.GATE,
        GateOutput,
        GateOutput(
            version="4",
            promote=True,
            reasons=("it is better",),
            challenger=ComparedModel("4", 0.5, (0.4, 0.6), 1.5),
            champion=ComparedModel("3", 0.25, (0.2, 0.3), 2.5),
        ),
    ),
    (
        old_step_tags.GATE_FIRST,
        GateOutput,
        GateOutput(
            version="1",
            promote=True,
            reasons=("it is better",),
            challenger=ComparedModel("1", 0.5, (0.4, 0.6), 1.5),
            champion=None,
        ),
    ),
    (
        old_step_tags.PROMOTE,
        PromoteOutput,
        PromoteOutput(did="promoted", version="4", reason="it is better", status="promoted"),
    ),
]


@pytest.mark.parametrize(("tag", "output_type", "outputs"), OLD_TAGS)
def test_a_tag_in_the_old_format_is_read_and_written_alike(
    tag: str, output_type: type[object], outputs: object
) -> None:
    completed = from_tag(tag, output_type)
    assert completed.outputs == outputs
    assert json.loads(to_tag(completed)) == json.loads(tag)


def test_the_step_in_a_tag_is_read() -> None:
    assert from_tag(old_step_tags.TRAIN, TrainOutput).step == Step(
        "train", status=StepStatus.SUCCEEDED, seconds=61.5, attempts=2, run_id="train-run"
    )


def test_unknown_keys_are_ignored_and_missing_optional_ones_have_defaults() -> None:
    tag = (
        '{"step": {"name": "evaluate", "host": "a"}, "outputs": {"challenger": "r", "champion": "", "latency_ms": {}, '
    )
    completed = from_tag(tag + '"photos": 7}, "version": 2}', EvaluateOutput)
    assert completed.outputs == EvaluateOutput(challenger="r", champion="", latency_ms={})
    assert completed.step == Step("evaluate")


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("", "''"),
        (old_step_tags.TRAIN[:-9], "step"),
        (old_step_tags.TRAIN.replace('"run_id": "train-run", "archive', '"archive'), "outputs.run_id"),
        (old_step_tags.TRAIN.replace("Succeeded", "Hidden"), "step.status"),
        ("[]", "[]"),
    ],
)
def test_a_damaged_tag_is_one_clear_error(tag: str, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        from_tag(tag, TrainOutput)
    assert "binwatch.done" in str(caught.value)
    assert shown in str(caught.value)
