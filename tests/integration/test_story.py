"""The report's story on real photos: 0.1 stands for no champion; trained on 2,000 photos, promoted; trained on 300,
refused; trained on all, promoted or refused as the statistics say; and back.

The body of the network is frozen and its features are computed once, so that the story is told in a minute. A sample of
the photos, smaller ones, in CI; all of them under BINWATCH_PROOF.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serve.errors import DataError
from tests.conftest import proof, rounds, start_torchserve
from tests.once import Run
from trainer.data.abid import FILE_LIST, LABELS, file_list_json, read_file_list, select_ids
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.prepare import prepare
from trainer.evaluation.guards import GuardVerdict
from trainer.pipeline.execution import Execution
from trainer.pipeline.pipeline import ExecutionOptions, execute, prepared_folder
from trainer.promotion import decisions
from trainer.promotion.promoter import Promoter
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.recipes import RECIPES

PHOTOS, SIZE_PX = rounds(1200, 100_000), rounds(96, 224)
FIRST, STARVED = rounds(400, 2000), rounds(60, 300)
"""Training photos of the first champion, and of the challenger that has too few."""
RECIPE = replace(RECIPES["hpo-frozen"], architecture="efficientnet-lite0", size_px=SIZE_PX)


@pytest.fixture(scope="module")
def source(abid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the first photos of each count, and to the metadata of their bins."""
    out = tmp_path_factory.mktemp("story") / "photos"
    lists = select_ids(read_file_list(abid.parent / FILE_LIST), Counts(), PHOTOS)
    for folder, suffix in (("bin-images", ".jpg"), ("metadata", ".json")):
        (out / folder).mkdir(parents=True)
        for name in (f"{photo_id}{suffix}" for ids in lists.values() for photo_id in ids):
            if (abid / folder / name).exists():
                (out / folder / name).symlink_to(abid / folder / name)
    (out / FILE_LIST).write_text(file_list_json(lists))
    (out / LABELS).symlink_to(abid.parent / LABELS)
    return out


@proof
def test_the_report_s_story(registry: Registry, once: Run, source: Path, tmp_path: Path) -> None:
    served = start_torchserve(once, "story")
    promoter = Promoter(registry, served.rollout, served.store / "accuracy.json")
    options = ExecutionOptions(state=tmp_path / "state")

    def trained_on(share: float) -> Execution:
        return execute(registry, DataSpec(source, train_share=share), RECIPE, promoter.promote, options)

    def deployed() -> tuple[str | None, float]:
        content = json.loads((served.store / "accuracy.json").read_text())
        return content["version"], content["accuracy"]

    promoter.reconcile()
    assert deployed() == (None, 0.1)
    dataset = prepare(source, prepared_folder(options.state or tmp_path, DataSpec(source)), Counts())
    training = sum(row.split == "train" for row in dataset.rows)

    first = trained_on(FIRST / training)
    assert (first.decision, first.champion) == ("promoted", None)
    assert first.challenger
    assert first.challenger.accuracy > 0.2
    assert "10%" in first.reasons[0]
    assert deployed() == ("1", first.challenger.accuracy)
    features = set((dataset.folder / "cache").glob("efficientnet-lite0-*"))
    assert len(features) == 1

    starved = trained_on(STARVED / training)
    assert starved.decision == "refused", starved.reasons
    assert starved.champion == first.challenger  # the same answers to the same photos
    assert (served.rollout.serving(), deployed()[0]) == ("1", "1")

    whole = trained_on(1.0)
    assert whole.challenger
    assert whole.champion == first.challenger
    assert_as_the_statistics_say(registry, whole)
    for number, execution in enumerate((first, starved, whole), 1):
        print(f"execution {number}: {execution.decision}: {'; '.join(execution.reasons)}")
    assert set((dataset.folder / "cache").glob("efficientnet-lite0-*")) == features  # computed once
    if whole.decision == "refused":  # it can still be approved by hand
        assert served.rollout.serving() == "1"
        with pytest.raises(DataError, match="version 1"):
            promoter.roll_back("nothing to return to")
        run_id = registry.version(whole.challenger.version).run_id
        by_hand = registry.register(run_id, Status.APPROVED, "by hand", "1").number
        assert promoter.promote(by_hand).did == "promoted"
    assert served.rollout.serving() not in (None, "1")

    assert promoter.roll_back("the story ends where it began").did == "rolled-back"
    assert (served.rollout.serving(), deployed()) == ("1", ("1", first.challenger.accuracy))
    photo = next(row for row in dataset.rows if row.split == "test")
    answer = served.inference.predict((dataset.root / photo.path).read_bytes())
    assert answer["model_version"] == "1"


def assert_as_the_statistics_say(registry: Registry, execution: Execution) -> None:
    """Promoted if the gain is significant and large enough, and no guard tripped; else refused."""
    assert execution.challenger
    decision = decisions.find(registry, registry.version(execution.challenger.version))
    assert decision.comparison
    assert decision.p_value is not None
    gain = decision.comparison.accuracy.value
    assert gain == pytest.approx(decision.challenger_accuracy - decision.champion_accuracy)
    tripped = [guard for guard in decision.guards if guard.verdict == GuardVerdict.TRIPPED]
    better = gain >= decision.policy.min_effect and decision.p_value <= decision.policy.level
    assert execution.decision == ("promoted" if better and not tripped else "refused"), execution.reasons
