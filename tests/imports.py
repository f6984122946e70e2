"""The code of a file, and what it imports of the project, read from its text."""

import ast
from functools import cache
from pathlib import Path


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's code."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imported_names(path: Path) -> frozenset[str]:
    """The modules that a file imports, and every name that it takes from one, with dots."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def imports(path: Path, root: Path) -> set[Path]:
    """The files below ``root`` that a file there imports."""
    names = imported_names(path)
    paths = {root.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    return {path for path in paths if path.is_file()}


def closure(*names: str, root: Path) -> set[Path]:
    """The files below ``root`` that these import, at once or by way of others, and these."""
    closed: set[Path] = set()
    pending = {root / name for name in names}
    while pending:
        path = pending.pop()
        closed.add(path)
        pending |= imports(path, root) - closed
    return closed
