"""The benchmark of the monitoring: a summary of a day of capture."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.benchmarks.drawn_capture import draw_records, write_records
from tests.benchmarks.results import ROOT, Result, Server, compare_seconds

MAX_SECONDS, MAX_MIB = 10.0, 500.0
PHOTO_BYTES = 8192
PEER = "json.loads of every line and one pandas DataFrame"


def bench_monitor(_data: Path, _server: Server, number: int = 100_000) -> Result:
    """Summarise a day of capture, 100,000 records without photos; whole processes, from start to monitoring.json.

    Peer: ``pandas_peer``. It holds when ``scripts/monitor.py`` is 1.5 times as fast and stays below 10 s and 500 MiB
    (VmHWM). It is also measured with photos of 8 KB in the lines, 1.2 GB in total.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        runs: dict[str, list[tuple[float, float]]] = {PEER: [], "ours": []}
        command, peer_command = _draw_day(Path(folder, "plain"), number, 0)
        for _ in range(3):
            runs[PEER].append(measure(peer_command))
            runs["ours"].append(measure(command))
        command_with_photos, _ = _draw_day(Path(folder, "photos"), number, PHOTO_BYTES)
        seconds_with_photos, mib_with_photos = measure(command_with_photos)
        for path in Path(folder).glob("*/out/monitoring.json"):
            report = json.loads(path.read_text())
            assert (report["records"], report["unreadable"]) == (number, 0), f"read {report['records']} of {number}"
    result = compare_seconds("monitor", 1.5, {side: [seconds for seconds, _ in times] for side, times in runs.items()})
    memory = {f"{side}, MiB": [round(mib, 1) for _, mib in times] for side, times in runs.items()}
    with_photos = {
        "ours with photos": [round(seconds_with_photos, 3)],
        "ours with photos, MiB": [round(mib_with_photos, 1)],
    }
    within = statistics.median(result.runs["ours"]) < MAX_SECONDS and max(memory["ours, MiB"]) < MAX_MIB
    return replace(result, holds=result.holds and within, runs={**result.runs, **memory, **with_photos})


def _draw_day(folder: Path, number: int, photo_bytes: int) -> tuple[list[object], list[object]]:
    """Draw a day of capture. Returns the command of this project, and the peer's."""
    capture = folder / "capture"
    records = draw_records(number, 1, datetime.now(UTC) - timedelta(hours=23.9), timedelta(hours=23.8))
    write_records(capture, records, photo_bytes)
    command = [sys.executable, "scripts/monitor.py", "--capture", capture, "--out", folder / "out", "--no-tracking"]
    return command, [sys.executable, "-m", "tests.benchmarks.pandas_peer", capture]


def measure(command: Sequence[object]) -> tuple[float, float]:
    """The seconds that a command takes, and its peak memory (MiB)."""
    start = time.perf_counter()
    arguments = [str(argument) for argument in command]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, cwd=ROOT, env=environ) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return time.perf_counter() - start, peak


def _peak_mib(pid: int) -> float:
    """The VmHWM of a process, which never falls; 0 after it has ended. ru_maxrss would include the parent's memory."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
