"""What a file imports of the project, read from its text."""

import ast
from pathlib import Path


def imports(path: Path, root: Path) -> set[Path]:
    """The files below ``root`` that a file there imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
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
