"""Jobs and runners: a training job is a value, a runner starts it somewhere.

``process`` runs a job as a child process, ``docker`` in a container of the trainer's image, ``ray`` on the hosts of a
cluster. To add a runner, write a function from a Job to a RunningJob.
"""

from serve.errors import SettingsError
from trainer.experiments.runners.docker_job import DockerJob
from trainer.experiments.runners.job import EPOCHS, EpochReport, Job, Runner, RunningJob, run
from trainer.experiments.runners.process_job import ProcessJob
from trainer.experiments.runners.ray_job import RayRunner

__all__ = ["EPOCHS", "RUNNERS", "EpochReport", "Job", "Runner", "RunningJob", "run", "runner"]

RUNNERS = ("process", "docker", "ray")


def runner(name: str, cluster: RayRunner | None = None) -> Runner:
    """The runner of that name; ``cluster``: of ``ray``. Raises SettingsError."""
    if name not in RUNNERS:
        raise SettingsError(f"there is no runner {name!r}; choose one of {', '.join(RUNNERS)}")
    if name == "ray":
        cluster = cluster or RayRunner(address="")
        cluster.connect()
        return cluster
    return ProcessJob if name == "process" else DockerJob
