"""Where a run's artifacts may be: below the MLflow server's own root. Pure.

Whoever may write to MLflow can make an experiment whose artifacts are anywhere: in a stranger's bucket, on another
server, in a file of this machine. A process with credentials or secrets must not connect there.
"""

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from serve.errors import DataError

PROXIED = "mlflow-artifacts"
"""The scheme of artifacts that the MLflow server itself reads and writes (``mlflow server --serve-artifacts``)."""


def check_root(root: str, tracking_uri: str) -> None:
    """Refuse an artifact location that is not the server's own. Raises DataError.

    ``root``: of a run, as MLflow says it; ``tracking_uri``: the server's address, or the place of an embedded store,
    whose artifacts are files beside it.
    """
    try:
        place, server = urlsplit(root), urlsplit(tracking_uri)
        own = _is_proxied(place, server) if server.scheme in ("http", "https") else _is_beside(place, server)
    except ValueError:
        own = False
    if not own:
        raise DataError(
            f"artifacts at {root[:200]!r} are not read: they are not below the root of the MLflow server at "
            f"{tracking_uri}. Start it with --serve-artifacts, and leave out --default-artifact-root"
        )


def _is_proxied(place: SplitResult, server: SplitResult) -> bool:
    plain = not place.query and not place.fragment and ".." not in unquote(unquote(place.path)).split("/")
    return place.scheme == PROXIED and place.netloc in ("", server.netloc) and plain


def _is_beside(place: SplitResult, server: SplitResult) -> bool:
    """Whether files are below the folder of an embedded store, or below ``mlruns`` of the working directory."""
    if place.scheme not in ("", "file") or place.netloc:
        return False
    store = Path(unquote(server.path[1:] if server.scheme.startswith("sqlite") else server.path))
    folders = (store.parent if store.suffix else store, Path("mlruns"), Path("mlartifacts"))
    return any(Path(unquote(place.path)).resolve().is_relative_to(folder.resolve()) for folder in folders)
