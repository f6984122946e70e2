"""Checkpoints: everything that a training needs to resume with the same result as without an interruption.

One file, written atomically. When the disk is full, training continues without a new checkpoint.
"""

import io
import logging
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from serve.errors import TrainingError
from serve.files import atomic_write
from trainer.training.recipes import Recipe

NAME = "checkpoint.pt"
DEFAULTS = {option.name: option.default for option in fields(Recipe) if option.default is not MISSING}
"""The values of a recipe's options that the checkpoint of an earlier version does not name, because it had none."""

log = logging.getLogger(__name__)


class State(TypedDict, total=False):
    """The content of a checkpoint.

    ``belongs_to``: the recipe and the dataset. ``done``: the LoopState. The others are the states of the parts of a
    training, as torch saves them; ``averaged`` and ``gpu_random`` are empty where there is no such part. ``precision``:
    the number format of its passes, absent in checkpoints of earlier versions.
    """

    belongs_to: dict[str, object]
    done: dict[str, object]
    best_weights: dict[str, Tensor]
    model: dict[str, Tensor]
    optimiser: dict[str, object]
    schedule: dict[str, object]
    scaler: dict[str, object]
    averaged: dict[str, object]
    precision: str
    random: Tensor
    gpu_random: list[Tensor]


def save(folder: Path, state: State) -> bool:
    """Write ``state`` to ``folder``. Returns False, and keeps the previous checkpoint, when the write fails."""
    data = io.BytesIO()
    torch.save(state, data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / NAME) as out:
            out.write(data.getbuffer())
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        log.warning(
            "cannot write a checkpoint of %.0f MB to %s (%s); training continues, and would resume from the last one",
            data.getbuffer().nbytes / 1e6,
            folder,
            error,
        )
        return False
    return True


def load(folder: Path, belongs_to: Mapping[str, object]) -> State | None:
    """The checkpoint in ``folder``, or None. Raises TrainingError for a damaged one, or another recipe or dataset."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        saved = {key: value for key, value in DEFAULTS.items() if key in belongs_to} | state["belongs_to"]
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise TrainingError(f"cannot read the checkpoint {path} ({error}); remove it to start from scratch") from error
    different = {key for key in saved.keys() | belongs_to.keys() if saved.get(key) != belongs_to.get(key)}
    if different:
        key = min(different)
        raise TrainingError(
            f"{path} is the checkpoint of another training: its {key} is {saved.get(key)}, now it is "
            f"{belongs_to.get(key)}; choose another folder, or remove it to start from scratch"
        )
    return state


def remove(folder: Path) -> None:
    """Remove the checkpoint of a finished training."""
    (folder / NAME).unlink(missing_ok=True)
