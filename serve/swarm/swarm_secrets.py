"""The stack's secrets: made in a container, kept in memory, given to Swarm. No file has them, nothing prints them."""

import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence

from serve.errors import SettingsError
from serve.swarm.swarm_plan import ACCOUNTS, SERVICE_ACCOUNTS

GENERATED: Mapping[str, str] = {
    "postgres-password": "secrets/postgres-password",
    "mlflow-key": "secrets/mlflow-key",
    "signing-key": "signing/signing.key",
    "verify-key": "verifying/",
    **{f"{name}-password": f"secrets/accounts/{name}" for name in ACCOUNTS},
    **{f"{name}-credentials": f"accounts/{name}/credentials" for name in SERVICE_ACCOUNTS},
}
"""Where mlflow/make-secrets writes each secret; the file of the public key is the only one in its folder."""
OPTIONAL = ("aws-credentials", "pgpass")
"""Secrets of a bucket and of a database of records, which a stack may do without."""
NONE = b"# none\n"
"""Stands for those: Swarm refuses an empty secret."""
_GROUP = "999"
"""PostgreSQL's, to which make-secrets gives the database's password."""


def external(secret: str) -> str:
    """The name by which Swarm knows a secret."""
    return f"binwatch-{secret}"


def create_secrets(image: str, contents: Mapping[str, bytes]) -> list[str]:
    """Give Swarm the secrets that it does not have; returns their names.

    ``image``: MLflow's; ``contents``: of ``api-keys``, the file of scripts/api_key.py, and of what is needed of
    OPTIONAL. The secrets of GENERATED belong together, so all of them are made or none. Raises SettingsError.
    """
    present = set(_docker("secret", "ls", "--format", "{{.Name}}").decode().split())
    missing = [name for name in GENERATED if external(name) not in present]
    if missing and len(missing) < len(GENERATED):
        raise SettingsError(
            f"Swarm has some of the secrets, but not {', '.join(map(external, missing))}; they belong together: create "
            "these as they were, or remove all of them and the volumes postgres and artifacts"
        )
    generated = make_secrets(image) if missing else {}
    new = {
        name: content
        for name, content in {**dict.fromkeys(OPTIONAL, NONE), **contents, **generated}.items()
        if external(name) not in present
    }
    for name, content in new.items():
        _docker("secret", "create", external(name), "-", content=content)
    return [external(name) for name in new]


def make_secrets(image: str) -> dict[str, bytes]:
    """New secrets by mlflow/make-secrets, in a container without network whose disk is memory and that logs nothing."""
    folders = {path.partition("/")[0] for path in GENERATED.values()} | {
        f"accounts/{name}" for name in SERVICE_ACCOUNTS
    }
    memory = [word for name in sorted(folders) for word in ("--tmpfs", f"/{name}:uid=10001,gid=10001,mode=0700")]
    fence = ("--network", "none", "--log-driver", "none", "--read-only", "--cap-drop", "ALL", "--group-add", _GROUP)
    script = "make-secrets >&2 && exec tar -cf - -C / secrets signing verifying accounts"
    packed = _docker("run", "--rm", *fence, *memory, image, "sh", "-c", script)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
        texts = {name: file.read() for name, file in files.items() if file}
    return {
        name: next(text for file, text in texts.items() if file.startswith(path)) for name, path in GENERATED.items()
    }


def _docker(*words: str, content: bytes | None = None) -> bytes:
    """What a command of the engine prints, of the manager that DOCKER_HOST or the context names."""
    command: Sequence[str] = ["docker", *words]
    done = subprocess.run(command, input=content, capture_output=True)
    if done.returncode:
        raise SettingsError(f"{' '.join(command[:3])} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
