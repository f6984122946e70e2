"""Capture in processes of its own: what a full disk and a kill leave of the files."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from serve import hour_files
from tests.conftest import rounds
from tests.unit.test_capture import lines, until


def test_a_line_that_the_disk_takes_half_of_is_taken_back(tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel write a part, as a full disk does."""
    code = """
import resource, sys
from datetime import datetime, UTC
from pathlib import Path
from serve.hour_files import HourFiles
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
files = HourFiles(Path(sys.argv[1]))
written = 0
for number in range(3):
    try:
        files.append(datetime.now(UTC), b"x" * 599 + b"\\n")
        written += 1
    except OSError as error:
        print(error)
        break
files.append(datetime.now(UTC), b"y" * 599 + b"\\n")
"""
    process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert "400 of 600 bytes were written" in process.stdout
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*.jsonl")) == [
        b"x" * 599 + b"\n",
        b"y" * 599 + b"\n",
    ]


WORKER = """
import sys, time
from pathlib import Path
from serve.capture import Capture, Folder
from serve.capture_record import Event
capture = Capture(Folder(Path(sys.argv[1])), max_bytes=2**30, disk_use=lambda _: 0.0)
photo = bytes(2_000_000)  # a line of 2.7 MB is written page by page, and a kill can come between two
for number in range(1_000_000):
    event = Event(answer={"count": 1}, status=200, model_version="1", latency_ms=1.0, data=photo)
    print(event.event_id, flush=True)
    capture.put(event)
    time.sleep(0.04)
"""


def test_kill_9_loses_the_last_seconds_at_most_and_leaves_no_line_torn(tmp_path: Path) -> None:
    rng, cut, lost = random.Random(5), 0, []
    for number in range(rounds(3, 60)):
        folder = tmp_path / str(number)
        worker = subprocess.Popen([sys.executable, "-c", WORKER, folder], stdout=subprocess.PIPE, text=True)
        until(lambda folder=folder: any(folder.rglob("*.jsonl")))  # type: ignore[misc]
        time.sleep(rng.uniform(1.0, 2.5))
        os.kill(worker.pid, signal.SIGKILL)
        ids = worker.communicate()[0].split()
        cut += hour_files.drop_partial_lines(folder)  # as the worker that TorchServe starts in its place does
        (path,) = folder.rglob("*.jsonl")
        assert path.read_bytes().endswith(b"\n")
        written = [line["eventMetadata"]["eventId"] for line in lines(folder)]
        assert written == ids[: len(written)]
        lost.append(len(ids) - len(written))
        path.unlink()
    print(
        f"{len(lost)} kills left {cut} partial lines, all removed; at most {max(lost) / 25:.1f} s of events were lost"
    )
    assert max(lost) < 100
