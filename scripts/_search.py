"""The options of a search beside its data and recipe: how many trials, where they run, where they are recorded."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from trainer.experiments import tune
from trainer.experiments.runners import RUNNERS
from trainer.experiments.runners.job_host import JobPlace
from trainer.experiments.runners.ray_job import RayRunner


def add_search(to: ArgumentParser) -> None:
    """The trials, and the study."""
    to.add_argument("--architectures", default="resnet,vgg,alexnet", help="networks to choose from")
    to.add_argument("--trials", type=int, default=5, help="number of trials")
    to.add_argument("--parallel", type=int, default=1, help="parallel jobs")
    to.add_argument("--random-trials", type=int, default=3, help="trials drawn at random before results guide it")
    to.add_argument("--study", default="", metavar="URL", help="PostgreSQL of the study; without, a file in --out")
    to.add_argument("--study-name", default=tune.STUDY, help="name of the study in that database")


def add_runner(to: ArgumentParser, environ: Mapping[str, str] = os.environ) -> None:
    """Where jobs run, and what they take of a cluster."""
    to.add_argument("--runner", default="process", help=f"where jobs run: {', '.join(RUNNERS)}")
    address = environ.get("RAY_ADDRESS", "")
    to.add_argument("--ray-address", default=address, metavar="HOST:PORT", help="head of the cluster; also RAY_ADDRESS")
    to.add_argument("--job-cpus", type=float, default=1.0, help="CPUs of the cluster for each host of a job")
    to.add_argument("--job-gpus", type=float, default=0.0, help="GPUs of the cluster for each host of a job")
    to.add_argument("--job-hosts", type=int, default=1, help="hosts that train one job together")
    to.add_argument("--job-store", default="", metavar="S3", help="s3://bucket/prefix, if hosts do not share --out")


def cluster(args: Namespace) -> RayRunner:
    """The cluster of these options. Where hosts share no folder, each fetches the photos of a bucket itself."""
    data = str(args.data or "")
    return RayRunner(
        address=args.ray_address,
        cpus=args.job_cpus,
        gpus=args.job_gpus,
        hosts=args.job_hosts,
        place=JobPlace(results=args.job_store, data=data if data.startswith("s3://") else ""),
    )
