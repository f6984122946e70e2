"""``accuracy.json`` of the model store: the accuracy of the champion, or 0.1 where there is none."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError
from serve.files import write_text
from trainer.artifacts import EVALUATION
from trainer.evaluation.evaluate import evaluation_from_json
from trainer.evaluation.policy import UNDEPLOYED_ACCURACY
from trainer.promotion.notices import Notices
from trainer.registry.entities import Version
from trainer.registry.mlflow_registry import Registry

_CONTENT = TypeAdapter(dict[str, float | str | None])


class AccuracyFile:
    """Keeps the file as it should be. ``path``: of the file."""

    def __init__(self, path: Path, registry: Registry, notices: Notices) -> None:
        self._path, self._registry, self._notices = path, registry, notices

    def update(self, champion: Version | None, records: Mapping[str, str]) -> None:
        """Write the champion's accuracy, if it is not in the file yet. Raises TrackingError.

        ``records``: of its training run, in the model store, for an evaluation that MLflow has lost. Where there is
        none at all, the accuracy is null.
        """
        number = champion.number if champion else None
        content = self._read()
        if content.get("version", "") == number and content.get("accuracy") is not None:
            return
        accuracy = self._accuracy_of(champion, records) if champion else UNDEPLOYED_ACCURACY
        if content != {"accuracy": accuracy, "version": number}:
            write_text(self._path, json.dumps({"accuracy": accuracy, "version": number}))

    def _accuracy_of(self, version: Version, records: Mapping[str, str]) -> float | None:
        problems = []
        for text in self._texts(version, records):
            try:
                accuracy = evaluation_from_json(text).accuracy
            except DataError as error:
                problems.append(str(error))
            else:
                self._notices.clear("accuracy")
                return accuracy
        reason = "; ".join(problems) or f"there is no {EVALUATION}"
        self._notices.warn("accuracy", f"the accuracy of version {version.number} is not known: {reason}")
        return None

    def _texts(self, version: Version, records: Mapping[str, str]) -> list[str]:
        """The texts of its evaluation that there are: MLflow's, then the model store's."""
        try:
            text = self._registry.read_text(version.run_id, EVALUATION)
        except DataError:
            text = None
        return [content for content in (text, records.get(EVALUATION)) if content is not None]

    def _read(self) -> dict[str, float | str | None]:
        try:
            return _CONTENT.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return {}
