"""What is captured for S3: whole lines in local files, and every minute each finished file as one new object.

Files wait as long as the store does not take them, also those of a process that died, up to MAX_BYTES together.
It travels in every archive.
"""

import logging
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from serve import hour_files, links

UPLOAD_S = 60.0
TIMEOUT_S = 20.0
MAX_BYTES = 1024**3

_log = logging.getLogger("binwatch.capture")


class Spool:
    """Local files below ``folder`` on their way to ``target``, ``s3://bucket/prefix``."""

    def __init__(
        self, folder: Path, target: str, endpoint_url: str | None, every_s: float = UPLOAD_S, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = folder
        self._bucket, _, self._prefix = target.removeprefix("s3://").partition("/")
        self._endpoint_url, self._every_s, self._max_bytes = endpoint_url, every_s, max_bytes
        self._files = hour_files.HourFiles(folder)
        self._lock = threading.Lock()
        self._client: Any = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture-upload", daemon=True)
        self._thread.start()

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line. Raises OSError."""
        with self._lock:
            self._files.append(moment, line)

    def full(self) -> str:
        """Says so when too much waits for the store."""
        size = sum(path.stat().st_size for path in self.folder.rglob("*.jsonl") if path.exists())
        return f"{size} bytes wait for s3://{self._bucket}" if size > self._max_bytes else ""

    def close(self, timeout_s: float = 4.0) -> None:
        """Send what is there; what does not go now waits for the next process."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._send()
        self._send()

    def _send(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            self._files.close()
        try:
            hour_files.drop_partial_lines(self.folder)
            for path in hour_files.unlocked_files(self.folder):
                with suppress(FileNotFoundError):  # another process was faster
                    self._put(path)
            self._failing = False
        except (BotoCoreError, ClientError, OSError) as error:
            if not self._failing:  # one warning a failure, not one a minute
                _log.warning("s3://%s does not take captured answers, they wait: %s", self._bucket, error)
            self._failing = True

    def _put(self, path: Path) -> None:
        self._client = self._client or links.client(self._endpoint_url, TIMEOUT_S, 1)
        key = f"{self._prefix}/{path.relative_to(self.folder)}".lstrip("/")
        if path.stat().st_size:
            with path.open("rb") as body:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType="application/x-ndjson")
        path.unlink()
