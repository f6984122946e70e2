"""Checkpoints: everything that a training needs to go on as if nothing had happened.

One file, written whole or not at all; a full disk costs the checkpoint, not the training.
"""

import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from serve.errors import TrainingError

NAME = "checkpoint.pt"
State = dict[str, Any]

log = logging.getLogger(__name__)


def save(folder: Path, state: State) -> bool:
    """Write ``state`` to ``folder``; False where that was not possible, and the checkpoint before is still there."""
    data = io.BytesIO()
    torch.save(state, data)
    partial = folder / f"{NAME}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            out.write(data.getbuffer())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(folder / NAME)
    except OSError as error:
        log.warning(
            "no checkpoint of %.0f MB in %s (%s); training goes on, and would resume from the one before",
            data.getbuffer().nbytes / 1e6,
            folder,
            error,
        )
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            log.warning("%s is left behind; remove it", partial)
        return False
    return True


def load(folder: Path, belongs_to: State) -> State | None:
    """The checkpoint in ``folder``, if any. Raises TrainingError where it is of another recipe or other data."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        found = state["belongs_to"]
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise TrainingError(f"the checkpoint {path} cannot be read ({error}); remove it to begin anew") from error
    other = {key for key in found.keys() | belongs_to.keys() if found.get(key) != belongs_to.get(key)}
    if other:
        key = min(other)
        raise TrainingError(
            f"{path} is the checkpoint of another training: its {key} is {found.get(key)}, now it is "
            f"{belongs_to.get(key)}; give another folder, or remove it to begin anew"
        )
    return state


def remove(folder: Path) -> None:
    """Remove the checkpoint: the training it belongs to has ended."""
    (folder / NAME).unlink(missing_ok=True)
