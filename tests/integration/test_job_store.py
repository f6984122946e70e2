"""A job of a cluster whose hosts share no folder: photos come from a bucket, checkpoints and epochs go to one."""

import json
import os
import threading
import time
from pathlib import Path

import boto3
import pytest

from tests.conftest import proof
from trainer.data import transfer
from trainer.experiments.runners import Job, job_host
from trainer.experiments.runners.job_host import HostAddress, JobHost, JobPlace, Progress

BUCKET = "job-store"
HOSTS = [HostAddress(host="127.0.0.1", port=1)]
EPOCHS = 40
DEADLINE_S = 240


@pytest.fixture(scope="module")
def bucket(s3: str, drawn: Path) -> str:
    boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
    ).create_bucket(Bucket=BUCKET)
    transfer.upload(drawn, f"s3://{BUCKET}/photos", s3)
    return f"s3://{BUCKET}"


@pytest.fixture
def host_of(bucket: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobPlace:
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", s3)
    monkeypatch.setattr(job_host, "CACHE", tmp_path.parent / "photos-of-jobs")
    return JobPlace(results=f"{bucket}/jobs", data=f"{bucket}/photos")


def job(tmp_path: Path, **hyperparameters: str) -> Job:
    fixed = {"recipe": "hpo-frozen", "architecture": "resnet18", "weights": "none", "size_px": "32", "export": "false"}
    values = {**fixed, "epochs": str(EPOCHS), "limit": "120", **hyperparameters}
    return Job(tmp_path / "trial", Path("nowhere"), values, {"MLFLOW_TRACKING_URI": ""})


def poll(host: JobHost, epochs: int) -> Progress:
    """What the host reports when it has ended, or that many epochs."""
    deadline = time.monotonic() + DEADLINE_S
    while (progress := host.poll()).code is None and progress.epochs.count("\n") < epochs:
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)
    return progress


def keys(s3: str, prefix: str) -> set[str]:
    from trainer.data.s3 import S3Store

    return set(S3Store(f"s3://{BUCKET}/{prefix}", s3).keys(""))


@proof
def test_another_host_goes_on_from_the_checkpoint_in_the_bucket(host_of: JobPlace, s3: str, tmp_path: Path) -> None:
    lost, heir = (JobHost(job(tmp_path), host_of) for _ in range(2))
    lost.start(HOSTS, 0)
    before = poll(lost, 5)
    assert before.code is None, before
    assert {"checkpoints/checkpoint.pt", "output/epochs.jsonl"} <= keys(s3, "jobs/trial")
    assert lost._process
    os.kill(lost._process._process.pid, 9)
    lost._process._process.wait()
    lost.close()
    heir.start(HOSTS, 0)
    after = poll(heir, 10**6)
    assert after.code == 0, after
    numbers = [json.loads(line)["number"] for line in after.epochs.splitlines()]
    assert numbers == list(range(1, EPOCHS + 1))
    assert after.epochs.splitlines()[0] == before.epochs.splitlines()[0], "it was resumed, and did not begin anew"
    stored = keys(s3, "jobs/trial")
    assert "checkpoints/checkpoint.pt" not in stored, "the next job of that name begins anew"
    assert "output/log.txt" in stored
    heir.close()
    assert heir._temporary
    assert not heir._temporary.exists()


@pytest.mark.parametrize("place", ["results", "data"])
def test_a_bucket_that_does_not_exist_fails_the_job_with_a_sentence(
    host_of: JobPlace, tmp_path: Path, place: str
) -> None:
    places = {"results": host_of.results, "data": host_of.data, place: "s3://no-such-bucket/x"}
    host = JobHost(job(tmp_path), JobPlace(**places))
    host.start(HOSTS, 0)
    progress = poll(host, 10**6)
    assert progress.code
    assert "no-such-bucket" in progress.failure
    host.close()


def test_what_the_program_refuses_is_the_reason(host_of: JobPlace, tmp_path: Path) -> None:
    host = JobHost(job(tmp_path, architecture="resnet99"), host_of)
    host.start(HOSTS, 0)
    progress = poll(host, 10**6)
    assert (progress.code, "'resnet99'" in progress.failure) == (1, True)
    host.close()
