"""How often a challenger may disagree with the champion: as often as on the test photos, where the gate compared them.

Each training run has the answers of its own archive. Where the test photos have changed since the champion's training,
an evaluate run has the champion's answers to the challenger's.
"""

from collections import Counter

from serve.errors import DataError
from trainer.artifacts import CACHED_FROM_TAG, CHAMPION_PREFIX, PREDICTIONS
from trainer.evaluation.evaluate import predictions_from_json
from trainer.promotion.trial_decision import Expected, by_count
from trainer.registry.entities import Version
from trainer.registry.mlflow_registry import Registry


def expected_disagreement(registry: Registry, champion: Version, challenger: Version) -> dict[str, Expected]:
    """By the champion's count; empty where no recorded answers of both to the same photos are left.

    Raises TrackingError.
    """
    try:
        texts = registry.read_text(challenger.run_id, PREDICTIONS), _answers_of_champion(registry, champion, challenger)
        own, rival = (predictions_from_json(text) if text is not None else [] for text in texts)
    except DataError:
        return {}
    counts = {answer.id: answer.count for answer in own}
    return by_count(Counter(f"{answer.count}>{counts[answer.id]}" for answer in rival if answer.id in counts))


def _answers_of_champion(registry: Registry, champion: Version, challenger: Version) -> str | None:
    """The champion's recorded answers, best those to the challenger's own test photos."""
    query = f"params.train_run = '{challenger.run_id}' AND params.champion = '{champion.number}'"
    for run in registry.runs(query):
        text = registry.read_text(run.tags.get(CACHED_FROM_TAG, run.id), CHAMPION_PREFIX + PREDICTIONS)
        if text is not None:
            return text
    return registry.read_text(champion.run_id, PREDICTIONS)
