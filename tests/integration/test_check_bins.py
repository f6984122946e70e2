"""scripts/check_bins.py as a user calls it: by an archive and by a server, killed, with each kind of place."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve.archives.archive import manifest_of
from serve.links import s3_client
from tests.conftest import Served, rounds
from tests.integration.serving import PAGE_BYTES
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "check_bins.py"
LIMIT_S = rounds(600, 4 * 3600)


def command(*words: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, words)]


def call(*words: object, **env: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, **env}
    return subprocess.run(command(*words), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT_S)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "recount.csv").open(newline="") as table:
        return list(csv.DictReader(table))


@pytest.fixture
def bins(drawn: Path, tmp_path: Path) -> Path:
    """Drawn bins by other names, as many as the test wants, of 300 photos; the first 40 records are one too high."""
    for name in ("records", "photos"):
        (tmp_path / name).mkdir()
    photos = sorted((drawn / "bin-images").iterdir())
    for number in range(rounds(400, 100_000)):
        photo = photos[number % len(photos)]
        quantity = json.loads((drawn / "metadata" / f"{photo.stem}.json").read_bytes())["EXPECTED_QUANTITY"]
        wrong = number < 40 and quantity < 5
        content = json.dumps({"EXPECTED_QUANTITY": quantity + wrong})
        (tmp_path / "records" / f"bin-{number:06}.json").write_text(content)
        (tmp_path / "photos" / f"bin-{number:06}.jpg").hardlink_to(photo)
    return tmp_path


def places(bins: Path, out: str) -> tuple[object, ...]:
    return ("--records", bins / "records", "--photos", bins / "photos", "--out", bins / out)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def run_until(lines: int, words: tuple[object, ...], journal: Path) -> int:
    """Run the script until its journal has so many lines, then kill it; returns its memory in bytes."""
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory = written = position = 0
    while process.poll() is None:
        if journal.exists():
            with journal.open("rb") as answers:
                answers.seek(position)
                written += answers.read().count(b"\n")
                position = answers.tell()
        if written >= lines:
            memory = resident_bytes(process.pid)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    process.wait()
    assert memory, f"the script ended with {process.returncode} before it was killed"
    return memory


def test_a_check_that_is_killed_three_times_gives_the_same_list_in_the_same_memory(
    bins: Path, trained: Trained
) -> None:
    model, number = ("--archive", trained.archive), len(list((bins / "records").iterdir()))
    start = time.monotonic()
    done = call(*places(bins, "whole"), *model, "--budget", 40, "--json")
    rate = number / (time.monotonic() - start)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["checked"], summary["problems"], summary["budget"]["bins"]) == (number, 0, 40)
    assert "checking bins: 100%" in done.stderr
    words, journal = (*places(bins, "killed"), *model), bins / "killed" / "answers.jsonl"
    memory = [run_until(round(share * number), words, journal) for share in (0.15, 0.4, 0.7)]
    print(f"{rate:.1f} bins a second; memory when it was killed {[round(size / 2**20) for size in memory]} MB")
    assert memory[-1] < 1.25 * memory[0]
    assert call(*words).returncode == 0
    without = [[{**row, "chosen": ""} for row in rows_of(bins / out)] for out in ("whole", "killed")]
    assert without[0] == without[1]
    lines = journal.read_text().splitlines()
    answers = [json.loads(line) for line in lines[1:]]
    assert len({answer["bin_id"] for answer in answers}) == len(answers) == number, "each bin once"
    scores = manifest_of(trained.archive).scores
    assert all(answer["calibration_photos"] == len(scores[str(answer["recorded"])]) for answer in answers)


def test_a_server_gives_the_list_of_its_archive(served: Served, trained: Trained, drawn: Path, tmp_path: Path) -> None:
    served.rollout.load("5", lambda: trained.archive)
    served.rollout.switch("5")
    (tmp_path / "photos").mkdir()
    for photo in sorted((drawn / "bin-images").iterdir())[:60]:
        (tmp_path / "photos" / photo.name).hardlink_to(photo)
    (tmp_path / "photos" / f"{photo.stem}.jpg").unlink()
    (tmp_path / "photos" / f"{photo.stem}.jpg").write_bytes(b"\xff\xd8 no photo")
    common = ("--records", drawn / "metadata", "--photos", tmp_path / "photos")
    by_server = call(*common, "--out", tmp_path / "server", "--url", served.inference.url, "--json")
    assert by_server.returncode == 0, by_server.stderr
    by_archive = call(*common, "--out", tmp_path / "archive", "--archive", trained.archive, "--json")
    first, second = json.loads(by_server.stdout), json.loads(by_archive.stdout)
    assert (first["checked"], first["problems"]) == (second["checked"], second["problems"]) == (59, 241)
    assert [row["bin_id"] for row in rows_of(tmp_path / "server")] == [
        row["bin_id"] for row in rows_of(tmp_path / "archive")
    ]
    refused = call(*common, "--out", tmp_path / "archive", "--url", served.inference.url)
    assert (refused.returncode, served.inference.url in refused.stderr) == (1, True), "another model"


def test_bins_of_a_database_with_photos_in_a_bucket_wait_for_their_recount(
    drawn: Path, trained: Trained, s3: str, tmp_path: Path
) -> None:
    client = s3_client(s3, 20, 1)
    client.create_bucket(Bucket="check-bins")
    for photo in sorted((drawn / "bin-images").iterdir())[:20]:
        client.put_object(Bucket="check-bins", Key=f"today/{photo.name}", Body=photo.read_bytes())
    with sqlite3.connect(tmp_path / "stock.db") as connection:
        connection.execute("CREATE TABLE stock (bin TEXT, units INTEGER, picture TEXT)")
        ids = [path.stem for path in sorted((drawn / "bin-images").iterdir())[:20]]
        connection.executemany("INSERT INTO stock VALUES (?, 5, ?)", [(name, f"{name}.jpg") for name in ids])
        connection.execute("INSERT INTO stock VALUES ('gone', 1, 's3://check-bins/today/gone.jpg')")
    connection.close()
    query = "SELECT bin AS bin_id, units AS quantity, picture AS photo FROM stock"
    words = ("--records", f"sqlite:///{tmp_path / 'stock.db'}", "--query", query, "--photos", "s3://check-bins/today")
    env = {"BINWATCH_S3_ENDPOINT": s3, "BINWATCH_RECOUNTS": str(tmp_path / "recounts"), "BINWATCH_RECOUNT_RANDOM": "1"}
    done = call(*words, "--out", tmp_path / "out", "--archive", trained.archive, "--json", **env)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["checked"], summary["problems"], summary["queued"]) == (20, 1, 20)
    assert len(list((tmp_path / "recounts" / "queue").glob("*.jpg"))) == 20
    assert "gone" in (tmp_path / "out" / "problems.csv").read_text()


def test_wrong_options_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text("bin_id,quantity\n1,2\n")
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8")
    common = ("--records", tmp_path / "records.csv", "--photos", tmp_path, "--out", tmp_path / "out")
    for words, code in ((("--fdr", "2"), 2), (("--budget", "0"), 2), (("--archive", tmp_path / "none.mar"), 1)):
        done = call(*common, *words)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    unreachable = call(*common, "--url", "http://127.0.0.1:9")
    assert (unreachable.returncode, "does not answer" in unreachable.stderr) == (1, True)
