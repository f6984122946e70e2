"""The trainer's image by itself: its photos, SageMaker's training contract, and the runner ``docker``."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.errors import TrainingError
from serve.local.servers import s3_server
from tests.e2e.stack import ROOT, Stack
from tests.models import LEFT
from trainer.data import s3, synthetic, transfer
from trainer.data.abid import read_inventory
from trainer.data.counts import Counts
from trainer.data.prepare import prepare
from trainer.experiments import runners
from trainer.experiments.runners import EpochReport, Job

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("stack")]


@pytest.fixture(scope="module")
def stack(docker: None) -> Iterator[Stack]:
    """Built, and not started."""
    made = Stack("binwatch-trainer-e2e")
    made.compose("build", "trainer")
    yield made
    made.compose("down", "--volumes")


def test_the_trainer_sees_real_photos_and_the_files_beside_them(stack: Stack, abid: Path) -> None:
    code = (
        "import os; from pathlib import Path; from trainer.data.abid import read_inventory; "
        "from trainer.data.counts import Counts; "
        "photos = read_inventory(Path(os.environ['BINWATCH_DATA']), Counts()).photos; "
        "print(len(photos), len({photo.bin for photo in photos}))"
    )
    command = ["docker", "compose", "run", "--rm", "--no-deps", "trainer", "python", "-c", code]
    files = {"BINWATCH_LABELS": "labels.csv", "BINWATCH_FILE_LIST": "file_list.json"}
    beside = {variable: str(abid.parent / name) for variable, name in files.items()}
    env = {**stack.env, "BINWATCH_DATA": str(abid), **beside}
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
    photos = read_inventory(abid, Counts()).photos
    assert done.stdout.split() == [str(len(photos)), str(len({photo.bin for photo in photos}))], done.stderr


def test_the_trainer_sees_photos_below_a_folder_that_others_may_not_enter(
    stack: Stack, drawn: Path, tmp_path: Path
) -> None:
    """And nothing beside them: only the folder itself is mounted, also where a link leads to it."""
    home = tmp_path / "home"
    shutil.copytree(drawn, home / "bins")
    for path in (home / "bins", *(home / "bins").rglob("*")):
        path.chmod(0o755)
    home.chmod(0o700)
    (tmp_path / "link").symlink_to(home / "bins")
    code = (
        "import os; from pathlib import Path; from trainer.data.layouts import read_source; "
        "from trainer.data.counts import Counts; "
        "print(len(read_source(Path(os.environ['BINWATCH_DATA']), Counts()).photos), *os.listdir('/photos'))"
    )
    for source in (home / "bins", tmp_path / "link"):
        command = ["docker", "compose", "run", "--rm", "--no-deps", "trainer", "python", "-c", code]
        env = {**stack.env, "BINWATCH_DATA": str(source)}
        done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=120)
        number, *beside = done.stdout.split()
        assert (number, sorted(beside)) == ("300", ["data", "file_list.json", "labels.csv"]), done.stderr


def test_the_trainer_takes_photos_from_an_s3_store(stack: Stack, drawn: Path, tmp_path: Path) -> None:
    variables = {"BINWATCH_DATA_URL": "s3://bins/abid", "BINWATCH_S3_ENDPOINT": "http://store:1"}
    done = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=ROOT,
        env={**stack.env, **variables},
        text=True,
        capture_output=True,
        check=True,
    )
    given = json.loads(done.stdout)["services"]["trainer"]["environment"]
    assert (given["BINWATCH_DATA"], given["BINWATCH_S3_ENDPOINT"]) == ("s3://bins/abid", "http://store:1")
    code = (
        "from pathlib import Path; from trainer import options; from trainer.data.layouts import read_source; "
        "spec = options.data_spec({'data': 's3://bins/abid'}, Path('/state/drawn')); "
        "print(len(read_source(spec.source, spec.counts).photos))"
    )
    with s3_server(tmp_path) as url:
        s3.S3Store("s3://bins", url).client.create_bucket(Bucket="bins")
        transfer.upload(drawn, "s3://bins/abid", url)
        command = [
            "docker",
            "run",
            "--rm",
            "--network",
            "host",
            "--env",
            f"BINWATCH_S3_ENDPOINT={url}",
            "binwatch-trainer",
            "python",
            "-c",
            code,
        ]
        found = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert found.stdout.strip() == "300", found.stderr


@pytest.fixture(scope="module")
def sagemaker_image(stack: Stack) -> str:
    """The trainer's image as it is pushed for SageMaker: the last stage but one."""
    image = "binwatch-trainer-sagemaker"
    target = json.dumps({"services": {"trainer": {"image": image, "build": {"target": "sagemaker"}}}})
    command = ["docker", "compose", "-f", "docker-compose.yml", "-f", "-", "build", "--quiet", "trainer"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=stack.env, input=target, text=True)
    return image


@pytest.mark.parametrize("good", [True, False])
def test_the_trainer_image_is_a_sagemaker_training_container(tmp_path: Path, sagemaker_image: str, good: bool) -> None:
    """As SageMaker has it: /opt/ml belongs to root, and a search adds a hyperparameter of its own."""
    base = tmp_path / "ml"
    (base / "input" / "config").mkdir(parents=True)
    hyperparameters = {"recipe": "tiny", "epochs": "1" if good else "none", "size-px": "32", "batch-size": "recipe"}
    hyperparameters["_tuning_objective_metric"] = "best_validation_loss"
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    synthetic.draw_dataset(base / "input" / "data" / "training", 120, seed=2)
    for folder in ("model", "output"):
        (base / folder).mkdir(mode=0o755)
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "-v", f"{base}:/opt/ml", sagemaker_image, "train"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if good:
        assert done.returncode == 0, done.stderr[-2000:]
        assert {path.name for path in (base / "model").iterdir()} == LEFT
        assert not (base / "output" / "failure").exists()
    else:
        assert done.returncode == 1
        assert "epochs is 'none'" in (base / "output" / "failure").read_text()


def test_a_training_job_runs_in_a_container_of_its_own(drawn: Path, tmp_path: Path) -> None:
    """The runner ``docker``: prepared photos, the numbers of each epoch, and nothing left behind."""
    source = prepare(drawn, tmp_path / "prepared", Counts())
    wanted = {"recipe": "tiny", "epochs": "2", "size_px": "32", "export": "false"}
    job, losses = Job(tmp_path / "job", source.folder, wanted), {}

    def on_epoch(epoch: EpochReport) -> bool:
        losses[epoch.number] = epoch.validation_loss
        return True

    assert runners.run(runners.runner("docker"), job, on_epoch)
    assert set(losses) == {1, 2}
    assert "training tiny" in (job.base / "output" / "log.txt").read_text()
    assert job_containers() == ""


def test_a_job_in_a_container_that_fails_says_why_and_one_that_is_stopped_ends(drawn: Path, tmp_path: Path) -> None:
    bad = Job(tmp_path / "bad", drawn, {"recipe": "tiny", "epochs": "none"})
    with pytest.raises(TrainingError, match="exit code 1: epochs is 'none'"):
        runners.run(runners.runner("docker"), bad)
    long = Job(tmp_path / "long", drawn, {"recipe": "tiny", "epochs": "1000", "size_px": "32"})
    assert not runners.run(runners.runner("docker"), long, lambda epoch: epoch.number < 2)
    assert (long.base / "checkpoints" / "checkpoint.pt").is_file()
    assert job_containers() == ""


def job_containers() -> str:
    command = ["docker", "ps", "--all", "--quiet", "--filter", "name=binwatch-job"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
