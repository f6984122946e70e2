"""The artifacts of runs: every access checks first that they are below the MLflow server's own root."""

from pathlib import Path

from mlflow.entities import FileInfo, Run
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from serve.errors import DataError
from trainer.registry.artifact_root import check_root
from trainer.registry.mlflow_client import readable_errors

MAX_DEPTH = 8
"""Folders in folders; runs have one."""


class RunArtifacts:
    """The artifacts of one run on the MLflow server at ``uri``. Raises DataError where they are elsewhere."""

    def __init__(self, uri: str, run: Run) -> None:
        self._uri, self._run_id, self._root = uri, run.info.run_id, str(run.info.artifact_uri or "")
        check_root(self._root, uri)

    def sizes(self, folder: str | None = None, depth: int = MAX_DEPTH) -> dict[str, int]:
        """The files of the run, or of one of its folders, with their sizes in bytes."""
        sizes: dict[str, int] = {}
        for file in self.list(folder):
            if not file.is_dir:
                sizes[file.path] = max(0, int(file.file_size or 0))
            elif depth:
                sizes |= self.sizes(file.path, depth - 1)
        return sizes

    def list(self, folder: str | None = None) -> "list[FileInfo]":
        """The files and folders of the run's top level, or of one of its folders."""
        with readable_errors(self._uri):
            return list(self._repository().list_artifacts(folder))

    def download(self, name: str, folder: Path) -> Path:
        """Download one file into ``folder``. Raises DataError where there is none with this name."""
        folder.mkdir(parents=True, exist_ok=True)
        with readable_errors(self._uri):
            path = Path(self._repository().download_artifacts(name, str(folder)))  # type: ignore[no-untyped-call]
        if not path.is_file():
            raise DataError(f"{name} of run {self._run_id} is not a file; run the pipeline again")
        return path

    def delete(self, name: str) -> None:
        """Delete a file or a folder for good; idempotent."""
        with readable_errors(self._uri):
            self._repository().delete_artifacts(name)  # type: ignore[no-untyped-call]

    def _repository(self) -> ArtifactRepository:
        return get_artifact_repository(self._root, tracking_uri=self._uri)
