"""The benchmark of fetching photos from S3."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from tests.benchmarks.results import COUNTS, ROOT, Result, Server, compare_seconds, timed
from tests.benchmarks.slow_proxy import SlowProxy
from trainer.data import s3, transfer
from trainer.data.layouts import read_source


def bench_fetch(data: Path, s3_server: Server, photos: int = 1000, delay_s: float = 0.05) -> Result:
    """Fetch 1,000 photos and records from a real S3 server, with every request delayed by 50 ms.

    Peers: the report's loop, which calls boto3's ``download_file`` for one file after another, and
    ``aws s3 cp --recursive``.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="binwatch-bench-")))
        url = stack.enter_context(s3_server(work / "s3"))
        ids = [photo.id for photo in read_source(data, COUNTS).photos[:photos]]
        _fill_bucket(data, ids, work / "few", url)
        split_url = urlsplit(url)
        proxy = SlowProxy((str(split_url.hostname), int(split_url.port or 0)), delay_s)
        slow = stack.enter_context(proxy.running())
        runs = {"download_file, one after another": [timed(lambda: _download_one_by_one(slow, ids, work / "loop"))[0]]}
        if shutil.which("aws"):
            runs["aws s3 cp --recursive"] = [timed(lambda: _aws_copy(slow, work / "aws"))[0]]
        command = [sys.executable, "scripts/fetch_data.py", "--source", "s3://bins", "--endpoint-url", slow]
        runs["ours"] = [timed(partial(_run, [*command, "--out", work / str(run)]))[0] for run in range(3)]
    return compare_seconds("fetch", 20.0, runs)


def _run(command: Sequence[object]) -> None:
    subprocess.run([str(argument) for argument in command], cwd=ROOT, check=True, capture_output=True)


def _fill_bucket(data: Path, ids: list[str], few: Path, url: str) -> None:
    transfer.fetch(s3.FolderStore(data), ids, len(ids), few)
    (few / transfer.REPORT).unlink()
    s3.S3Store("s3://bins", url).client.create_bucket(Bucket="bins")
    transfer.upload(few, "s3://bins", url)


def _download_one_by_one(url: str, ids: list[str], out: Path) -> None:
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=Config(signature_version=UNSIGNED))
    for folder, suffix in (("metadata", "json"), ("bin-images", "jpg")):
        (out / folder).mkdir(parents=True)
        for photo_id in ids:
            name = f"{folder}/{photo_id}.{suffix}"
            client.download_file("bins", name, str(out / name))


def _aws_copy(url: str, out: Path) -> None:
    command = [
        "aws",
        "s3",
        "cp",
        "--recursive",
        "--no-sign-request",
        "--quiet",
        "--endpoint-url",
        url,
        "--region",
        "us-east-1",
        "s3://bins",
        str(out),
    ]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(command, check=True, env=environ)
