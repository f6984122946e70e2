"""One host of a job on a cluster: an actor that runs the job's program there and reports its epochs."""

import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serve.errors import OUTSIDE, BinwatchError, UnavailableError, sentence
from serve.files import exclusive_lock
from serve.settings import read
from serve.settings.common import StoreSettings
from trainer.data import transfer
from trainer.experiments.runners.job import EPOCHS, Job
from trainer.experiments.runners.job_store import JobStore
from trainer.experiments.runners.process_job import ProcessJob

TIED = ("setpriv", "--pdeathsig", "TERM")
"""util-linux's program: the job gets SIGTERM when the actor dies, so that no two hosts write the same checkpoint."""

CACHE = Path(tempfile.gettempdir(), "binwatch-photos")
"""The photos of buckets on a host."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobPlace:
    """Where a job's files are. ``results``: s3://bucket/prefix; empty if all hosts see the job's folder.

    ``data``: photos in a bucket; empty if all hosts see the job's data.
    """

    results: str = ""
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class HostAddress:
    """Where the processes of a job find its first host."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``code``: the exit code, None while the job runs; ``epochs``: the content of epochs.jsonl."""

    code: int | None
    epochs: str = ""
    failure: str = ""


class JobHost:
    """The part of a job that runs on this host; the first host has the checkpoints and the results."""

    def __init__(self, job: Job, place: JobPlace) -> None:
        self._job, self._place = job, place
        self._temporary: Path | None = None
        self._store: JobStore | None = None
        self._process: ProcessJob | None = None
        self._failure = ""

    def address(self) -> HostAddress:
        """This host, and a port that is free on it."""
        import ray.util  # only this runner needs it

        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        with socket.socket() as listener:
            listener.bind((host, 0))
            return HostAddress(host=host, port=int(listener.getsockname()[1]))

    def start(self, hosts: Sequence[HostAddress], rank: int) -> None:
        """Start the job's program; ``hosts``: all hosts of the job; ``rank``: the index of this one."""
        try:
            job = self._local_job(rank)
            job.prepare_folder()
            if len(hosts) > 1:
                job = _joined(job, hosts, rank)
            self._process = ProcessJob(job, TIED)
        except (BinwatchError, *OUTSIDE) as error:
            self._failure = sentence(error)

    def poll(self) -> Progress:
        """How far the job is; its results so far are stored."""
        return self._report(self._process.poll()) if self._process else Progress(code=1, failure=self._failure)

    def stop(self) -> Progress:
        """Send SIGTERM, and after GRACE_S SIGKILL."""
        if self._process:
            self._process.stop()
        return self.poll()

    def _report(self, code: int | None) -> Progress:
        try:
            if self._store:
                self._store.send()
        except UnavailableError as error:
            log.warning("%s", error)
            code = None  # the next poll sends the rest
        except BinwatchError as error:
            return Progress(code=1, failure=str(error))
        output = self._base / "output"
        texts = [path.read_text() if path.is_file() else "" for path in (output / EPOCHS, output / "failure")]
        return Progress(code=code, epochs=texts[0], failure=texts[1])

    def close(self) -> None:
        """Remove what is on this host alone."""
        if self._process and self._process.poll() is None:
            self._process.stop()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def _base(self) -> Path:
        return self._temporary or self._job.base

    def _local_job(self, rank: int) -> Job:
        """The job with folders of this host, filled with what an earlier host has stored."""
        settings = read(StoreSettings, os.environ)
        data = self._job.data
        if self._place.data:
            CACHE.mkdir(exist_ok=True)
            with exclusive_lock(CACHE / "lock"):  # several jobs of a host share the photos
                data = transfer.mirror(self._place.data, CACHE)
        if rank or self._place.results:
            self._temporary = Path(tempfile.mkdtemp(prefix="binwatch-job-"))
        if rank == 0 and self._place.results:
            uri = f"{self._place.results.rstrip('/')}/{self._job.base.name}"
            self._store = JobStore(uri, self._base, settings.s3_endpoint)
            self._store.fetch()
        return replace(self._job, base=self._base, data=data)


def _joined(job: Job, hosts: Sequence[HostAddress], rank: int) -> Job:
    """``job`` with what torchrun must know, as in a SageMaker container."""
    names = [address.host for address in hosts]
    config = {"current_host": names[rank], "hosts": names}
    (job.base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(config))
    return replace(job, environment={**job.environment, "MASTER_PORT": str(hosts[0].port)})
