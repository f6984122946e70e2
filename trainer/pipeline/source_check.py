"""Whether the photos that BINWATCH_DATA names can be read at all, without reading them: the check before a start."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from trainer.data import layouts

LOOKED_AT = 100
"""Entries of a folder that are looked at: enough to notice a folder that somebody else owns."""


def source_problems(source: Path) -> list[str]:
    """Why this process cannot read photos from ``source``, a sentence; empty if it seems that it can."""
    try:
        if not source.exists():
            return [f"BINWATCH_DATA: there is no file or folder {source}; name one, or leave it out to draw bins"]
        unreadable = next(_unreadable(source), None)
        if unreadable:
            return [_advice(unreadable)]
        return [] if source.is_file() or _has_layout(source) else [_without_layout(source)]
    except OSError as error:
        return [_advice(Path(error.filename or source))]


def _unreadable(source: Path) -> Iterator[Path]:
    """What cannot be read, of a folder, its first entries and theirs."""
    if not os.access(source, os.R_OK | (os.X_OK if source.is_dir() else 0)):
        yield source
    elif source.is_dir():
        for entry in islice(source.iterdir(), LOOKED_AT):
            yield from _unreadable(entry) if entry.is_dir() else (entry,) if _is_denied(entry) else ()


def _is_denied(path: Path) -> bool:
    return path.exists() and not os.access(path, os.R_OK)


def _has_layout(source: Path) -> bool:
    return (source / "bin-images").is_dir() or layouts.is_prepared(source) or bool(layouts.count_folders(source))


def _advice(path: Path) -> str:
    return (
        f"BINWATCH_DATA: the user of the containers, uid {os.getuid()}, cannot read {path}; "
        "let everybody read the folder: chmod -R a+rX FOLDER"
    )


def _without_layout(source: Path) -> str:
    return (
        f"BINWATCH_DATA: {source} holds neither bin-images/ nor a folder per count; "
        "docs/data.md describes the layouts that can be read"
    )
