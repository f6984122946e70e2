"""The photos and records that a command line names."""

import json
from collections.abc import Iterator
from pathlib import Path

from serve.errors import DataError
from serve.evidence.record import unique_names

SUFFIXES = (".jpg", ".jpeg", ".png")


def photos_in(paths: list[Path]) -> Iterator[Path]:
    """The photos among ``paths`` and in the folders among them, in order."""
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no file or folder {path}")
        photos = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not photos:
            raise DataError(f"the folder {path} holds no .jpg, .jpeg or .png file")
        yield from photos


def records_of(photos: list[Path], path: Path | None) -> dict[Path, object]:
    """The JSON of the photos' records: the file ``path`` for one photo, or STEM.json in the folder ``path``."""
    if path is None:
        return {}
    if path.is_dir():
        return {photo: _read(path / f"{photo.stem}.json") for photo in photos}
    if len(photos) > 1:
        raise DataError(f"{path} is one record for {len(photos)} photos; give a folder with STEM.json for each photo")
    return {photo: _read(path) for photo in photos}


def _read(path: Path) -> object:
    try:
        content: object = json.loads(path.read_bytes(), object_pairs_hook=unique_names)
    except FileNotFoundError as error:
        raise DataError(f"there is no record {path}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the record {path} is not JSON: {error}") from error
    if not isinstance(content, dict | list):
        raise DataError(f"the record {path} is {type(content).__name__}; give an object, or a list of products")
    return content
