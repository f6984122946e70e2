"""Fetching from a real S3 server, through a bad network."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serve.errors import DataError
from serve.local.servers import s3_server
from tests.benchmarks.slow_proxy import SlowProxy
from tests.conftest import rounds
from trainer.data import abid, s3, transfer
from trainer.data.counts import Counts
from trainer.data.layouts import read_source
from trainer.options import data_spec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Iterator[str]:
    """An S3 server whose bucket ``bins`` holds 300 drawn bins below ``abid/``."""
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        s3.S3Store("s3://bins", address).client.create_bucket(Bucket="bins")
        assert transfer.upload(drawn, "s3://bins/abid", address) == (601, 0)
        yield address


def upstream(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(url: str, drawn: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "scripts/fetch_data.py",
        "--source",
        "s3://bins/abid",
        "--endpoint-url",
        url,
        "--file-list",
        str(drawn / "file_list.json"),
        "--out",
        str(out),
        "--workers",
        "8",
        *more,
    ]


def call(words: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_fetches_what_was_uploaded_and_nothing_twice(url: str, drawn: Path, tmp_path: Path) -> None:
    first = call([*command(url, drawn, tmp_path), "--json"])
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["fetched"] == 600
    fetched = content(tmp_path)
    assert fetched.pop(transfer.REPORT)
    assert json.loads(fetched.pop("file_list.json")) == json.loads((drawn / "file_list.json").read_text())
    assert fetched == {name: data for name, data in content(drawn).items() if name != "file_list.json"}
    second = json.loads(call([*command(url, drawn, tmp_path), "--json"]).stdout)
    assert (second["fetched"], second["present"], second["size_bytes"]) == (0, 600, 0)


def test_a_bad_network_changes_nothing_but_the_time(url: str, drawn: Path, tmp_path: Path) -> None:
    proxy = SlowProxy(upstream(url), 0.005, throttled=0.1, cut=0.1, reset=0.1, seed=3)
    with proxy.running() as slow:
        process = call([*command(slow, drawn, tmp_path), "--json"])
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    print(f"requests through the bad network: {dict(proxy.done)}")
    assert (report["fetched"], report["missing"], report["damaged"]) == (600, {}, {})
    assert all(proxy.done[fate] > 20 for fate in ("throttled", "cut", "reset"))
    assert content(tmp_path / "bin-images") == content(drawn / "bin-images")
    assert content(tmp_path / "metadata") == content(drawn / "metadata")


def test_killed_at_any_moment_and_run_again_it_gives_the_same_bytes(url: str, drawn: Path, tmp_path: Path) -> None:
    assert call(command(url, drawn, tmp_path / "clean")).returncode == 0
    clean, moments = content(tmp_path / "clean"), random.Random(0)
    with SlowProxy(upstream(url), 0.01).running() as slow:
        for round_number in range(rounds(3, 20)):
            out = tmp_path / str(round_number)
            process = subprocess.Popen(
                command(slow, drawn, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(moments.uniform(0.4, 1.8))  # the moment is the test
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert call(command(url, drawn, out)).returncode == 0
            assert content(out) == clean


def test_missing_and_damaged_objects_are_listed_and_not_fatal(url: str, drawn: Path, tmp_path: Path) -> None:
    store = s3.S3Store("s3://bins/odd", url)
    for name, data in {"bin-images/1.jpg": b"\xff\xd8 cut", "metadata/1.json": b"{", "metadata/2.json": b"{}"}.items():
        store.write(name, data)
    report = transfer.fetch(store, ["1", "2"], 2, tmp_path)
    assert (report.fetched, set(report.damaged), set(report.missing)) == (
        1,
        {"bin-images/1.jpg", "metadata/1.json"},
        {"bin-images/2.jpg"},
    )
    listed = json.loads((tmp_path / transfer.REPORT).read_text())
    assert listed["damaged"].keys() == report.damaged.keys()
    assert "JSON" in listed["damaged"]["metadata/1.json"]
    assert not (tmp_path / "metadata" / "1.json").exists()


def test_takes_only_the_counts_and_the_number_that_were_asked_for(url: str, drawn: Path, tmp_path: Path) -> None:
    process = call([*command(url, drawn, tmp_path), "--counts", "1-2", "--limit", "40"])
    assert process.returncode == 0, process.stderr
    assert [len(ids) for ids in abid.read_file_list(tmp_path / "file_list.json").values()] == [20, 20]
    assert len(read_source(tmp_path, Counts((1, 2))).photos) == 40


def test_a_wrong_bucket_and_no_network_are_one_clear_error(url: str, drawn: Path, tmp_path: Path) -> None:
    words = command(url, drawn, tmp_path)
    words[3] = "s3://nobucket"
    wrong = call(words)
    assert wrong.returncode == 1
    assert "NoSuchBucket" in wrong.stderr
    words[3] = "nobucket"
    assert "nobucket" in call(words).stderr
    assert "Traceback" not in wrong.stderr


def test_no_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9"):
        transfer.fetch(s3.S3Store("s3://bins", "http://127.0.0.1:9"), ["1"], 1, tmp_path)


def test_a_full_disk_is_one_clear_error(url: str, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    out.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", out]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        process = call(command(url, drawn, out))
    finally:
        subprocess.run(["umount", out], check=True)
    assert process.returncode == 1
    assert "No space left on device" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_folder_is_a_source_too(drawn: Path, tmp_path: Path) -> None:
    words = command("", drawn, tmp_path)
    words[3] = str(drawn)
    assert call(words).returncode == 0
    assert content(tmp_path / "bin-images") == content(drawn / "bin-images")


def test_an_s3_address_works_where_a_folder_does(
    url: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", url)
    spec = data_spec({"data": "s3://bins/abid"}, tmp_path / "drawn")
    photos = read_source(spec.source, spec.counts).photos
    assert [(photo.id, photo.bin) for photo in photos] == [
        (photo.id, photo.bin) for photo in read_source(drawn, spec.counts).photos
    ]


@pytest.fixture(scope="module")
def bare(url: str, drawn: Path) -> str:
    """A bucket with the drawn bins at its top, without a file list, and with records that cannot be used."""
    s3.S3Store("s3://bare", url).client.create_bucket(Bucket="bare")
    store = s3.S3Store("s3://bare", url)
    for path in sorted((*(drawn / "metadata").iterdir(), *(drawn / "bin-images").iterdir())):
        store.write(str(path.relative_to(drawn)), path.read_bytes())
    for number in range(30):
        store.write(f"metadata/x{number}.json", b"{}")
    return "s3://bare"


def test_of_a_bucket_only_as_many_photos_are_fetched_as_are_asked_for(
    url: str, bare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", url)
    options = {"data": bare, "limit": "50"}
    spec = data_spec(options, tmp_path / "drawn")
    usable = read_source(spec.source, spec.counts).photos
    assert 50 <= len(usable) < 100
    assert len({photo.count for photo in usable}) == 5
    before = content(spec.source)
    assert data_spec(options, tmp_path / "drawn") == spec
    assert content(spec.source).keys() == before.keys()
    more = data_spec({**options, "limit": "80"}, tmp_path / "drawn")
    assert {photo.id for photo in usable} < {photo.id for photo in read_source(more.source, more.counts).photos}
    every = data_spec({"data": bare}, tmp_path / "drawn")
    assert len(read_source(every.source, every.counts).photos) == 300


def test_of_a_bucket_with_a_file_list_the_proportions_are_kept(
    url: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", url)
    spec = data_spec({"data": "s3://bins/abid", "limit": "50", "counts": "1-3"}, tmp_path / "drawn")
    photos = read_source(spec.source, spec.counts).photos
    assert sorted(Counter(photo.count for photo in photos).values()) == [16, 17, 17]


def test_a_limit_that_is_none_fetches_nothing(url: str, bare: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LIMIT is 0"):
        data_spec({"data": bare, "limit": "0"}, tmp_path / "drawn")
    assert not (tmp_path / "s3").exists()


def test_a_photo_with_bytes_after_its_end_is_fetched(url: str, drawn: Path, tmp_path: Path) -> None:
    whole = next((drawn / "bin-images").iterdir()).read_bytes()
    store = s3.S3Store("s3://bins/tails", url)
    for name, data in {"1": whole + bytes(5000), "2": whole + b"MotionPhoto" * 99, "3": whole[:-2]}.items():
        store.write(f"bin-images/{name}.jpg", data)
        store.write(f"metadata/{name}.json", b"{}")
    report = transfer.fetch(store, ["1", "2", "3"], 3, tmp_path)
    assert (report.fetched, set(report.damaged)) == (5, {"bin-images/3.jpg"})


@pytest.mark.parametrize("uri", ["s3://", "http://bucket/x", "bucket"])
def test_an_address_that_names_no_bucket_is_refused(uri: str) -> None:
    with pytest.raises(DataError, match=re.escape(repr(uri))):
        s3.parse_uri(uri)


def test_a_file_list_of_half_a_million_entries_needs_less_than_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "file_list.json"
    path.write_text(
        json.dumps({str(c): [f"data/metadata/{c}{n:06d}.json" for n in range(100_000)] for c in range(1, 6)})
    )
    code = (
        "from pathlib import Path; from trainer.data import abid, s3;"
        f"lists = abid.select_ids(abid.read_file_list(Path({str(path)!r})), None, None);"
        "assert sum(map(len, lists.values())) == 500_000; abid.file_list_json(lists);"
        # not ru_maxrss: across an exec that keeps the peak of the process that started this one
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    process = call([sys.executable, "-c", code])
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 1024**2  # KiB
