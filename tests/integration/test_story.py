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
from tests.conftest import Served, rounds
from trainer.data import prepared
from trainer.data.abid import BESIDE, choose, file_list_json, read_file_list
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.evaluation import guards
from trainer.pipeline.execution import Execution
from trainer.pipeline.pipeline import ExecutionOptions, execute, prepared_folder
from trainer.promotion import decisions
from trainer.promotion.promoter import Promoter
from trainer.registry.mlflow_registry import Registry
from trainer.registry.versions import Status
from trainer.training.recipes import RECIPES

PHOTOS, SIZE_PX = rounds(1200, 100_000), rounds(96, 224)
FIRST, STARVED = rounds(400, 2000), rounds(60, 300)
"""Training photos of the first champion, and of the challenger that has too few."""
RECIPE = replace(RECIPES["hpo-frozen"], architecture="efficientnet-lite0", size_px=SIZE_PX)


@pytest.fixture(scope="module")
def source(abid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first photos of each count, as links, with what is known of their bins."""
    out = tmp_path_factory.mktemp("story") / "photos"
    lists = choose(read_file_list(abid.parent / BESIDE[0]), Counts(), PHOTOS)
    for folder, suffix in (("bin-images", ".jpg"), ("metadata", ".json")):
        (out / folder).mkdir(parents=True)
        for name in (f"{photo_id}{suffix}" for ids in lists.values() for photo_id in ids):
            if (abid / folder / name).exists():
                (out / folder / name).symlink_to(abid / folder / name)
    (out / BESIDE[0]).write_bytes(file_list_json(lists))
    (out / BESIDE[1]).symlink_to(abid.parent / BESIDE[1])
    return out


def test_the_report_s_story(registry: Registry, served: Served, source: Path, tmp_path: Path) -> None:
    promoter = Promoter(registry, served.rollout, served.store / "accuracy.json")
    how = ExecutionOptions(tmp_path / "state")

    def trained_on(share: float) -> Execution:
        return execute(registry, DataSpec(source, train_share=share), RECIPE, promoter.promote, how)

    def deployed() -> tuple[str | None, float]:
        found = json.loads((served.store / "accuracy.json").read_text())
        return found["version"], found["accuracy"]

    promoter.reconcile()
    assert deployed() == (None, 0.1)
    made = prepared.prepare(source, prepared_folder(how.state or tmp_path, DataSpec(source)), Counts())
    training = sum(row.split == "train" for row in made.rows)

    first = trained_on(FIRST / training)
    assert (first.decision, first.champion) == ("promoted", None)
    assert first.challenger
    assert first.challenger.accuracy > 0.2
    assert "10%, which stands for no champion" in first.reasons[0]
    assert deployed() == ("1", first.challenger.accuracy)
    features = set((made.folder / "cache").glob("efficientnet-lite0-*"))
    assert len(features) == 1

    starved = trained_on(STARVED / training)
    assert starved.decision == "refused", starved.reasons
    assert starved.champion == first.challenger  # the same answers to the same photos
    assert (served.rollout.serving(), deployed()[0]) == ("1", "1")

    whole = trained_on(1.0)
    assert whole.challenger
    assert whole.champion == first.challenger
    assert_as_the_statistics_say(registry, whole)
    for number, each in enumerate((first, starved, whole), 1):
        print(f"execution {number}: {each.decision}: {'; '.join(each.reasons)}")
    assert set((made.folder / "cache").glob("efficientnet-lite0-*")) == features  # computed once
    if whole.decision == "refused":  # whoever answers for it can still have it
        assert served.rollout.serving() == "1"
        with pytest.raises(DataError, match="no version served before version 1"):
            promoter.roll_back("nothing to return to")
        run_id = registry.version(whole.challenger.version).run_id
        by_hand = registry.register(run_id, Status.APPROVED, "by hand", "1").number
        assert promoter.promote(by_hand).did == "promoted"
    assert served.rollout.serving() not in (None, "1")

    assert promoter.roll_back("the story ends where it began").did == "rolled-back"
    assert (served.rollout.serving(), deployed()) == ("1", ("1", first.challenger.accuracy))
    photo = next(row for row in made.rows if row.split == "test")
    answer = served.inference.predict((made.root / photo.path).read_bytes())
    assert answer["model_version"] == "1"


def assert_as_the_statistics_say(registry: Registry, execution: Execution) -> None:
    """Promoted where the gain is no luck and worth it, and nothing got worse; else refused."""
    assert execution.challenger
    decision = decisions.find(registry, registry.version(execution.challenger.version))
    assert decision.comparison
    assert decision.p_value is not None
    gain = decision.comparison.accuracy.value
    assert gain == pytest.approx(decision.challenger_accuracy - decision.champion_accuracy)
    tripped = [each for each in decision.guards if each.verdict == guards.TRIPPED]
    wanted = gain >= decision.policy.min_effect and decision.p_value <= decision.policy.level and not tripped
    assert execution.decision == ("promoted" if wanted else "refused"), execution.reasons
