"""Arrays in an archive: files that numpy reads without a pickle."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.errors import ArchiveError


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Store numbers in float32, by name."""
    np.savez(path, allow_pickle=False, **{name: np.asarray(array, np.float32) for name, array in arrays.items()})


def read_arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    """What ``write_arrays`` stored, in float64. Raises ArchiveError for a damaged file; a pickle is not read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return {name: content[name].astype(np.float64) for name in content.files}
    except Exception as error:  # numpy and zipfile raise whatever the bytes lead them to
        raise ArchiveError(f"{path.name} in the archive cannot be read: {error!r:.200}") from error
