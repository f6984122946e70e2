"""Photos and recounts for tests, in the layouts in which the trainer reads them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serve.recount.recount_entities import Outcome, Recount, parse_recount

MOMENT = "2026-03-01T08:00:00.000Z"


def picture(seed: int) -> Image.Image:
    """A picture of 96 px that looks like no other one, also after compression."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


def put_photo(source: Path, photo_id: str, image: Image.Image, count: int) -> None:
    """A photo of a first source, with its record."""
    _put(source, photo_id, image, {"EXPECTED_QUANTITY": count, "BIN_FCSKU_DATA": {}})


def put_recount(
    recounts: Path, event_id: str, image: Image.Image, count: int, *, random: bool = True, **fields: Any
) -> None:
    """A settled recount, as the gateway writes it. ``fields``: others of ``Recount``."""
    values: dict[str, Any] = {"recorded_quantity": count, "seen_at": MOMENT, "settled_at": MOMENT, **fields}
    recount = Recount(event_id=event_id, random=random, outcome=Outcome.COUNT, count=count, **values)
    _put(recounts, event_id, image, recount.to_metadata())


def recount_in(path: Path) -> Recount:
    """The recount in a file of ``settled/`` or ``metadata/``."""
    return parse_recount(str(path), path.read_bytes())


def _put(folder: Path, name: str, image: Image.Image, record: Mapping[str, object]) -> None:
    for inner in ("bin-images", "metadata"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    image.save(folder / "bin-images" / f"{name}.jpg", quality=92)
    (folder / "metadata" / f"{name}.json").write_text(json.dumps(record))
