"""Archives that were made before they held no pickle: the same again without it.

torch.export.save kept the example that a program was traced with as a pickle, which nothing needs.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path

from serve.archives import contents, safe_zip
from serve.manifest import GPU_PROGRAM, MANIFEST_FILE


def without_pickle(path: Path, target: Path) -> bool:
    """Write ``path`` to ``target`` without the example in its program; False, and nothing, where there is none.

    Every other byte of every file stays as it is. Raises ArchiveError.
    """
    with safe_zip.opened(path) as source:
        if GPU_PROGRAM not in source.namelist():
            return False
        program = _emptied(source.read(GPU_PROGRAM))
        if program is None:
            return False
        with zipfile.ZipFile(target, "w") as copy:
            for name in source.namelist():
                data = program if name == GPU_PROGRAM else source.read(name)
                copy.writestr(name, _relisted(data, program) if name == MANIFEST_FILE else data)
    return True


def _emptied(program: bytes) -> bytes | None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as source, zipfile.ZipFile(out, "w") as copy:
        samples = {each.filename for each in source.infolist() if contents.is_sample(each.filename) and each.file_size}
        for name in source.namelist():
            copy.writestr(name, b"" if name in samples else source.read(name))
    return out.getvalue() if samples else None


def _relisted(manifest: bytes, program: bytes) -> bytes:
    content = json.loads(manifest)
    content["files"][GPU_PROGRAM] = hashlib.sha256(program).hexdigest()
    return json.dumps(content, indent=1, sort_keys=True).encode()
