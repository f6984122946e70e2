"""Upload of captured answers to S3: lines go to local files, and every minute each closed file becomes one object.

While the store is unavailable the files stay, also those of a process that died, up to MAX_BYTES together.
"""

import logging
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from serve import hour_files, links

if TYPE_CHECKING:
    from botocore.client import BaseClient

UPLOAD_S = 60.0
TIMEOUT_S = 20.0
MAX_BYTES = 1024**3

_log = logging.getLogger("binwatch.capture")


class Spool:
    """Local files below ``folder``, uploaded to ``target``, ``s3://bucket/prefix``, by a thread of its own."""

    def __init__(
        self, folder: Path, target: str, endpoint_url: str | None, every_s: float = UPLOAD_S, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = folder
        self._bucket, _, self._prefix = target.removeprefix("s3://").partition("/")
        self._endpoint_url, self._every_s, self._max_bytes = endpoint_url, every_s, max_bytes
        self._files = hour_files.HourFiles(folder)
        self._lock = threading.Lock()
        self._client: BaseClient | None = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture-upload", daemon=True)
        self._thread.start()

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line. Raises OSError."""
        with self._lock:
            self._files.append(moment, line)

    def full_reason(self) -> str:
        """Why no more lines are accepted: too many bytes wait for the store. Empty otherwise."""
        size = sum(path.stat().st_size for path in self.folder.rglob("*.jsonl") if path.exists())
        return f"{size} bytes wait for s3://{self._bucket}" if size > self._max_bytes else ""

    def close(self, timeout_s: float = 4.0) -> None:
        """Upload what is there; what cannot be uploaded in time is left to the next process."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._upload()
        self._upload()

    def _upload(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            self._files.close()
        try:
            hour_files.drop_partial_lines(self.folder)
            for path in hour_files.unlocked_files(self.folder):
                with suppress(FileNotFoundError):  # another process uploaded it first
                    self._upload_file(path)
            self._failing = False
        except (BotoCoreError, ClientError, OSError) as error:
            if not self._failing:  # one warning per outage, not one per minute
                _log.warning("captured answers cannot be uploaded to s3://%s; will retry: %s", self._bucket, error)
            self._failing = True

    def _upload_file(self, path: Path) -> None:
        self._client = self._client or links.s3_client(self._endpoint_url, TIMEOUT_S, 1)
        key = f"{self._prefix}/{path.relative_to(self.folder)}".lstrip("/")
        if path.stat().st_size:
            with path.open("rb") as body:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType="application/x-ndjson")
        path.unlink()
