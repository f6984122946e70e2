"""The Lambda's zip: the handler and the modules that it needs. The same modules give the same bytes."""

import zipfile
from pathlib import Path

import serve

MODULES = (
    "__init__",
    "environment",
    "errors",
    "links",
    "payload",
    "verdict",
    "evidence/__init__",
    "evidence/fields",
    "evidence/record",
    "gateway/__init__",
    "gateway/refusal",
    "aws/__init__",
    "aws/lambda_event",
    "aws/lambda_upstream",
)
HANDLER = "lambda_function.lambda_handler"

_SERVE = Path(serve.__file__).parent
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o100644 << 16
"""A regular file that Lambda's user may read."""


def write(path: Path) -> Path:
    """Write the zip to ``path``."""
    members = {f"serve/{name}.py": _SERVE / f"{name}.py" for name in MODULES}
    members["lambda_function.py"] = _SERVE / "aws" / "lambda_function.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, source in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr, info.compress_type = _READABLE, zipfile.ZIP_DEFLATED
            archive.writestr(info, source.read_bytes())
    return path
