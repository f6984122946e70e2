"""Versions of the registered model, and the aliases that say which one serves.

A version carries the tags ``status`` (``trainer/registry/entities.py``), ``reason`` and ``compared_with``, and, once
it was tried on live traffic, ``trial`` (``trainer/promotion/trial_status.py``). The alias
``champion`` names the version that TorchServe must serve, ``previous`` the one that a rollback returns to.
"""

import re

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from serve.errors import TrackingError
from trainer.artifacts import MODEL_NAME
from trainer.registry.entities import CHAMPION, PREVIOUS, Version
from trainer.registry.mlflow_client import ABSENT, create_if_absent

NUMBER = re.compile(r"[1-9]\d{0,8}", re.ASCII)


class VersionStore:
    """The versions of the registered model on one MLflow server. Raises TrackingError when it does not answer."""

    _client: MlflowClient

    def register(self, run_id: str, status: str, reason: str, compared_with: str) -> Version:
        """Register the archive of a run as a new version, with the gate's decision."""
        tags = {"status": str(status), "reason": reason, "compared_with": compared_with}
        if not self._client.search_registered_models(f"name = '{MODEL_NAME}'"):
            create_if_absent(self._client.create_registered_model, MODEL_NAME)
        source = f"runs:/{run_id}/archive"
        created = self._client.create_model_version(MODEL_NAME, source, run_id, tags, await_creation_for=0)
        return self.version(str(created.version))

    def version(self, number: str) -> Version:
        """One version by its number."""
        return _version(self._client.get_model_version(MODEL_NAME, number))

    def versions(self) -> list[Version]:
        """All versions, the newest first."""
        page = self._client.search_model_versions(f"name = '{MODEL_NAME}'", order_by=["version_number DESC"])
        return sorted(map(_version, page), key=lambda version: -int(version.number))

    def mark(self, number: str, status: str, reason: str, compared_with: str | None = None) -> None:
        """Set a version's tags, the status last, since other processes act on it."""
        for key, value in {"reason": reason, "compared_with": compared_with, "status": str(status)}.items():
            if value is not None:
                self._client.set_model_version_tag(MODEL_NAME, number, key, value)

    def set_trial_status(self, number: str, text: str) -> None:
        """Store how far the rollout of a version is."""
        self._client.set_model_version_tag(MODEL_NAME, number, "trial", text)

    def alias(self, name: str) -> Version | None:
        """The version that an alias names, if any."""
        try:
            return _version(self._client.get_model_version_by_alias(MODEL_NAME, name))
        except TrackingError as error:
            if error.code in ABSENT:
                return None
            raise

    def set_champion(self, number: str) -> None:
        """Move the alias ``champion`` to a version."""
        self._client.set_registered_model_alias(MODEL_NAME, CHAMPION, number)

    def set_previous(self, number: str | None) -> None:
        """Name the version that a rollback returns to; None where there is none."""
        if number:
            self._client.set_registered_model_alias(MODEL_NAME, PREVIOUS, number)
        else:
            self._client.delete_registered_model_alias(MODEL_NAME, PREVIOUS)


def _version(version: ModelVersion) -> Version:
    number, tags = str(version.version), version.tags
    if not NUMBER.fullmatch(number):
        raise TrackingError(f"MLflow names a version {number!r} of {MODEL_NAME}; versions are numbers from 1")
    return Version(
        number=number,
        run_id=version.run_id or "",
        status=tags.get("status", ""),
        reason=tags.get("reason", ""),
        compared_with=tags.get("compared_with", ""),
        trial=tags.get("trial", ""),
    )
