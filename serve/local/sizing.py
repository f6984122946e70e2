"""How many workers, how much memory, and which form of the model a rate of photos takes on this machine.

A TorchServe of its own on 127.0.0.1 gets the archive and its golden photos, at the rate, whatever the answers are, with
one worker, then with one more, up to one per core, until the 99th percentile is low enough. ``decide`` is pure.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from serve.archives.archive import golden_photos, manifest_of
from serve.errors import ArchiveError, DataError
from serve.local import open_load
from serve.local.servers import torchserve_server
from serve.manifest import INT8_MODEL
from serve.photo import MAX_MB
from serve.rollout.model_store import ModelStore
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import MODEL, Inference, Management

log = logging.getLogger(__name__)

SECONDS, LEAST, MOST = 15.0, 200, 3000
"""A measurement takes this long, and sends at least and at most so many requests."""
LONGEST_S = 60.0
"""Of one measurement: at a low rate there are fewer than LEAST requests."""
SLOWER = (0.9, 0.75, 0.6, 0.4)
"""Shares of the answers per second under too much load that are tried for the greatest rate."""
HEAP_MB = 1024
"""TorchServe's Java heap: -Xmx in serve/torchserve/config.properties."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One rate with one number of workers; ``answered``: per second; ``memory_mb``: of server and workers."""

    workers: int
    rate: float
    answered: float
    failed: int
    p50_ms: float
    p99_ms: float
    memory_mb: float


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The answer. ``workers``: None where no number reaches the rate; ``reached``: the greatest rate that held."""

    form: str
    workers: int | None
    memory_limit_mb: int
    reached: float
    reason: str
    measurements: tuple[Measurement, ...]

    def to_json(self) -> dict[str, object]:
        """As JSON; a time without end is null."""
        rows = [
            {name: value if math.isfinite(value) else None for name, value in asdict(row).items()}
            for row in self.measurements
        ]
        return {**asdict(self), "measurements": rows, "env": dict(line.split("=") for line in self.env())}

    def env(self) -> list[str]:
        """Lines for .env; none where the rate is not reached."""
        if self.workers is None:
            return []
        workers = dict.fromkeys(("BINWATCH_WORKERS", "BINWATCH_MIN_WORKERS", "BINWATCH_MAX_WORKERS"), self.workers)
        return [
            *(f"{name}={value}" for name, value in workers.items()),
            f"BINWATCH_SERVE_MEMORY={self.memory_limit_mb}m",
        ]

    def text(self) -> str:
        """A table, the reason, and the lines for .env."""
        rows = [
            f"{row.workers:>7} {row.rate:>10.1f} {row.answered:>10.1f} {row.failed:>7} {row.p50_ms:>8.0f} "
            f"{row.p99_ms:>8.0f} {row.memory_mb:>10.0f}"
            for row in self.measurements
        ]
        head = "workers   photos/s answered/s  failed   p50 ms   p99 ms  memory MB"
        return "\n".join([head, *rows, self.reason, *self.env()])


def holds(row: Measurement, p99_ms: float) -> bool:
    """Whether every photo was answered, and all but one in a hundred soon enough."""
    return row.failed == 0 and row.p99_ms <= p99_ms


def memory_limit_mb(row: Measurement) -> int:
    """What a container needs for these workers: what was measured, the rest of Java's heap, and for each worker the
    largest photo and, while a new version is loaded beside the old one, a second worker."""
    return math.ceil((row.memory_mb * 2 + HEAP_MB + row.workers * MAX_MB) / 256) * 256


def decide(rows: Sequence[Measurement], rate: float, p99_ms: float, form: str) -> Sizing:
    """The fewest workers that hold ``rate`` with a 99th percentile of at most ``p99_ms``."""
    held = [row for row in rows if holds(row, p99_ms)]
    enough = min((row for row in held if row.rate >= rate), key=lambda row: row.workers, default=None)
    best = max(held, key=lambda row: row.rate, default=None)
    if enough:
        reason = (
            f"{rate:g} photos/s with p99 {enough.p99_ms:.0f} ms, below {p99_ms:g} ms: {enough.workers} worker(s) "
            f"in {form}, {memory_limit_mb(enough)} MB"
        )
    else:
        greatest = f"the greatest rate that held is {best.rate:.1f} photos/s" if best else "no lower rate held, either"
        reason = (
            f"{rate:g} photos/s with p99 below {p99_ms:g} ms cannot be reached in {form} with "
            f"{max(row.workers for row in rows)} workers here; {greatest}"
        )
    return Sizing(
        form=form,
        workers=enough.workers if enough else None,
        memory_limit_mb=memory_limit_mb(enough or rows[-1]),
        reached=best.rate if best else 0.0,
        reason=reason,
        measurements=tuple(rows),
    )


def search(
    measure: Callable[[int, float], Measurement], rate: float, p99_ms: float, max_workers: int
) -> Iterator[Measurement]:
    """Measurements with one worker more each, until the rate holds; where it never does, lower rates until one does."""
    row = None
    for workers in range(1, max_workers + 1):
        yield (row := measure(workers, rate))
        if holds(row, p99_ms):
            return
    saturated = row.answered if row else 0.0
    for share in SLOWER if saturated else ():
        yield (row := measure(max_workers, share * saturated))
        if holds(row, p99_ms):
            return


def requests(rate: float, seconds: float) -> int:
    """How many a measurement sends."""
    return int(min(MOST, max(LEAST, rate * seconds), max(1.0, rate * LONGEST_S)))


def size(archive: Path, rate: float, p99_ms: float, state: Path, max_workers: int, seconds: float = SECONDS) -> Sizing:
    """Measure and decide. ``state``: a folder for the server's files. Raises ArchiveError, ServerError."""
    photos = [photo for photo, _ in golden_photos(archive)]
    if not photos:
        raise ArchiveError(f"{archive} holds no golden photo to measure with; export it again")
    with _server(archive, state) as (inference, management):

        def measure(workers: int, rate: float) -> Measurement:
            log.info("measuring %.1f photos/s with %d worker(s)", rate, workers)
            management.scale("1", workers)
            for photo in photos * 2 * workers:  # a worker's first photos take longer
                inference.predict(photo)
            load = open_load.send(f"{inference.url}/predictions/{MODEL}", photos, rate, requests(rate, seconds))
            return Measurement(
                workers=workers,
                rate=rate,
                answered=load.answered,
                failed=load.failed,
                p50_ms=load.quantile_ms(0.5),
                p99_ms=load.quantile_ms(0.99),
                memory_mb=memory_mb(state.resolve()),
            )

        rows = list(search(measure, rate, p99_ms, max_workers))
        form = inference.predict(photos[0], probe=True).get("form")  # archives made earlier do not say it
    return decide(rows, rate, p99_ms, str(form or ("int8" if manifest_of(archive).cpu_model == INT8_MODEL else "fp32")))


@contextmanager
def _server(archive: Path, state: Path) -> Iterator[tuple[Inference, Management]]:
    """A TorchServe that serves the archive as version 1 with one worker, and captures into ``state`` as a real one."""
    captured = {"BINWATCH_CAPTURE": str(state.resolve() / "capture")}
    with torchserve_server(state, environ=captured) as (inference_url, management_url, store):
        inference, management = Inference(inference_url), Management(management_url)
        rollout = Rollout(inference, management, store, workers=1)
        rollout.load("1", lambda: archive)
        rollout.switch("1")
        yield inference, management


def memory_mb(state: Path) -> float:
    """Of the processes that have ``state`` in their command line, in 10^6 bytes; shared pages count once."""
    return sum(_proportional_kb(pid) for pid in _processes(str(state))) * 1024 / 1e6


def _processes(word: str) -> Iterator[Path]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended
            if word in path.read_text(errors="replace"):
                yield path.parent


def _proportional_kb(process: Path) -> int:
    with suppress(OSError):
        lines = (process / "smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def deployed_archive(store: Path) -> Path:
    """The archive of the version that serves from this model store. Raises DataError."""
    serving = ModelStore(store).serving()
    archive = ModelStore(store).path(serving.version) if serving else None
    if archive is None or not archive.is_file():
        raise DataError(
            f"the model store {store} holds no deployed version; name the store of another folder, or an archive: "
            "`docker compose cp promoter:/models/bin-counter-VERSION.mar .` copies one from the containers"
        )
    return archive
