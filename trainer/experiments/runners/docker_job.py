"""The runner ``docker``: a job is a container."""

import os
import threading
from pathlib import Path

from trainer.data import abid, layouts, prepared
from trainer.experiments.runners.job import GRACE_S, Job


class DockerJob:
    """A job in a container of the trainer's image, without a network unless the job logs to MLflow.

    Its output is streamed to output/log.txt. The container is removed after it has ended.
    """

    def __init__(self, job: Job) -> None:
        import docker  # only this runner needs it
        from docker.types import DeviceRequest

        self._code: int | None = None
        client = docker.from_env()
        name = f"binwatch-job-{job.base.name}"
        for orphan in client.containers.list(all=True, filters={"name": f"^/{name}$"}):
            orphan.remove(force=True)  # a killed search left it behind
        self._container = client.containers.run(
            job.image,
            "train",
            name=name,
            detach=True,
            volumes=_mounts(job),
            environment=dict(job.environment),
            user=f"{os.getuid()}:{os.getgid()}",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            network_mode="host" if job.environment.get("MLFLOW_TRACKING_URI") else "none",
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if job.gpu else [],
        )
        self._log_thread = threading.Thread(target=self._copy_log, args=[job.base / "output" / "log.txt"], daemon=True)
        self._log_thread.start()

    def _copy_log(self, path: Path) -> None:
        with path.open("ab", buffering=0) as log:
            for chunk in self._container.logs(stream=True, follow=True):
                log.write(chunk)

    def poll(self) -> int | None:
        """The exit code, after the container was removed; None while it is running."""
        if self._code is None:
            self._container.reload()
            if self._container.status == "exited":
                self._code = self._container.attrs["State"]["ExitCode"]
                self._log_thread.join()
                self._container.remove()
        return self._code

    def stop(self) -> None:
        """Send SIGTERM, and after GRACE_S SIGKILL."""
        if self._code is None:
            self._container.stop(timeout=GRACE_S)
            self.poll()


def _mounts(job: Job) -> dict[str, dict[str, str]]:
    """The volumes of a container: the job's folder, the data, and the photos.

    A prepared dataset is writable, because it caches features, and refers to its photos by absolute path.
    """
    data, inside = job.data.resolve(), "/opt/ml/input/data"
    channel = job.base / "input" / "data" / "training"
    if channel.is_symlink():
        channel.unlink()
    channel.mkdir(exist_ok=True)
    mounts = {str(job.base.resolve()): {"bind": "/opt/ml", "mode": "rw"}}
    mounts[str(data)] = {"bind": f"{inside}/training", "mode": "rw" if layouts.is_prepared(data) else "ro"}
    if layouts.is_prepared(data):
        photos = str(prepared.read(data).root)
        mounts[photos] = {"bind": photos, "mode": "ro"}
    for path in (data.parent / name for name in abid.OPTIONAL_FILES):
        if path.is_file():
            mounts[str(path)] = {"bind": f"{inside}/{path.name}", "mode": "ro"}
    return mounts
