"""A real PostgreSQL, for the records of bins."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.local.servers import free_port
from tests.conftest import need

PASSWORD = "hunter2-of-the-reader"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian's are on no path."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


class PostgreSQL:
    """A server of its own, which demands passwords."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self.port, self._folder, self._programs = free_port(), folder, bin_folder
        # PostgreSQL does not run as root
        self._user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        (folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, self._user)
        self._run("initdb", "--username=owner", "--auth=scram-sha-256", f"--pwfile={folder}/password", "--no-sync")

    def url(self, user: str = "owner", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c fsync=off -c unix_socket_directories="
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self._folder}/log", "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._programs / program), f"--pgdata={self._folder}/data", *words]
        with (self._folder / "output").open("ab") as output:
            subprocess.run(
                command, check=True, user=self._user, cwd=self._folder, stdout=output, stderr=output, timeout=120
            )


@contextmanager
def postgres_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL that runs; skips where it is not installed."""
    bin_folder = programs()
    need("postgres", bin_folder is not None, "PostgreSQL's programs are not installed")
    assert bin_folder is not None
    folder = Path(tempfile.mkdtemp(prefix="binwatch-postgres-"))  # the user that it runs as cannot enter pytest's
    folder.chmod(0o755)
    server = PostgreSQL(folder, bin_folder)
    server.start()
    try:
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)
