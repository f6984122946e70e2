"""The scripts as a user calls them: output, exit codes, errors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Served
from tests.models import LEFT, TINY
from tests.records import PRODUCTS, RECORD
from trainer.data.dataset import DataSpec
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained, run_evaluation, run_training

ROOT = Path(__file__).parents[2]


def call(*words: object, **env: str) -> "subprocess.CompletedProcess[str]":
    import os

    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "BINWATCH_DATA": "", **env},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_trainings_are_compared_on_the_same_photos(drawn: Path, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.archive.parent, tmp_path / "a")
    for name, spec in {"b": DataSpec(drawn, train_share=0.5), "other": DataSpec(drawn, seed=1)}.items():
        run_evaluation(run_training(spec, TINY, tmp_path / name, None))
    told = call("scripts/compare.py", tmp_path / "a", tmp_path / "b")
    assert told.returncode == 0, told.stderr
    assert "| a | " in told.stdout
    assert f"{tmp_path / 'a'} against {tmp_path / 'b'}: " in told.stdout
    result = json.loads(call("scripts/compare.py", tmp_path / "a", tmp_path / "b", "--json").stdout)
    accuracies = [each["evaluation"]["accuracy"] for each in result["trainings"]]
    (found,) = result["differences"].values()
    assert found["accuracy"] == pytest.approx(accuracies[0] - accuracies[1])
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert result["trainings"][0]["training"]["train_photos"] > 1.9 * result["trainings"][1]["training"]["train_photos"]
    (tmp_path / "a").rename(tmp_path / "best")  # an experiment that is done is not done again
    kept = call("scripts/experiments.py", "--data", drawn, "--out", tmp_path, "--only", "best", "--no-tracking")
    assert kept.returncode == 0, kept.stderr
    assert "| best | " in kept.stdout
    unknown = call("scripts/experiments.py", "--data", drawn, "--out", tmp_path, "--only", "worst")
    assert (unknown.returncode, "there is no experiment 'worst'" in unknown.stderr) == (2, True)
    refused = call("scripts/compare.py", tmp_path / "b", tmp_path / "other")
    assert (refused.returncode, "were tested on different photos" in refused.stderr) == (1, True)
    nothing = call("scripts/compare.py", tmp_path)
    assert (nothing.returncode, f"{tmp_path} is not" in nothing.stderr) == (1, True)


def test_prepare_audit_and_train_with_an_open_top_leaves_an_archive_and_an_evaluation(
    drawn: Path, tmp_path: Path, mlflow_url: str
) -> None:
    made = tmp_path / "prepared"
    prepared = call("scripts/prepare_data.py", "--data", drawn, "--counts", "1-3+", "--out", made, "--json")
    assert prepared.returncode == 0, prepared.stderr
    assert json.loads(prepared.stdout)["photos"].keys() == {"train", "validation", "test"}
    audited = call("scripts/audit_labels.py", "--data", made, "--show", 5, "--json")
    assert audited.returncode == 0, audited.stderr
    result = json.loads(audited.stdout)
    assert len(result["most_doubted"]) == 5
    assert Path(result["page"]).is_file()
    done = call(
        "scripts/train.py",
        "tiny",
        "--data",
        made,
        "--out",
        tmp_path / "out",
        "--epochs",
        1,
        "--size-px",
        32,
        "--drop-suspects",
        0.1,
        "--tracking-uri",
        mlflow_url,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert "training tiny" in done.stderr
    result = json.loads(done.stdout)
    assert result["binwatch"]["classes"] == ["1", "2", "3+"]
    assert result["binwatch"] == json.loads((tmp_path / "out" / "evaluation.json").read_text())["binwatch"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == LEFT
    photo = next((drawn / "bin-images").iterdir())
    answer = call("scripts/predict.py", "--archive", tmp_path / "out" / "bin-counter.mar", photo, "--json")
    assert list(json.loads(answer.stdout)["probabilities"]) == ["1", "2", "3+"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nothing", "--out", "x", "--data", "."], 2, "there is no recipe 'nothing'"),
        (["tiny", "--out", "x", "--data", ".", "--no-tracking"], 1, "has no folder bin-images/"),
        (["tiny", "--out", "x", "--epochs", "many", "--size-px", "1"], 2, "size_px is 1; give at least 32"),
        (["tiny", "--out", "x", "--limit", "few", "--counts", "x", "--data", "."], 2, "limit is 'few'"),
        (["tiny"], 2, "--out"),
    ],
)
def test_train_says_what_is_wrong_without_a_traceback(words: list[str], code: int, message: str) -> None:
    done = call("scripts/train.py", *words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_share_of_nothing_is_refused(drawn: Path) -> None:
    done = call("scripts/train.py", "tiny", "--out", "x", "--data", drawn, "--train-share", 0, "--no-tracking")
    assert done.returncode == 1
    assert "share of training photos is 0" in done.stderr


def test_settings_problems_are_listed_all_at_once() -> None:
    done = call(
        "scripts/train.py",
        "tiny",
        "--out",
        "x",
        "--epochs",
        "many",
        "--learning-rate",
        "-1",
        "--precision",
        "half",
    )
    assert "epochs is 'many'" in done.stderr
    assert "learning_rate is -1.0" in done.stderr
    assert "precision is 'half'; choose one of auto, float32, bfloat16" in done.stderr


@pytest.mark.parametrize(
    ("script", "environ"),
    [
        ("promote", {"BINWATCH_WATCH_S": "long", "BINWATCH_MAX_WORKERS": "0"}),
        ("pipeline", {"BINWATCH_KEEP_DAYS": "0.5", "BINWATCH_EPOCHS": "many"}),
    ],
)
def test_wrong_variables_and_options_are_listed_in_one_line(script: str, environ: dict[str, str]) -> None:
    process = call(f"scripts/{script}.py", "--level", "7", **environ)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert [f"{name} is {text!r}" in line for name, text in {**environ, "--level": "7"}.items()] == [True] * 3


def test_predict_answers_from_an_archive_without_a_server(trained: Trained, drawn: Path) -> None:
    done = call("scripts/predict.py", drawn / "bin-images", "--archive", trained.archive)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 300
    assert {"photo", "count", "expected_count", "probabilities"} <= set(lines[0])


def test_predict_asks_the_server_and_names_a_bad_photo(served: Served, trained: Trained, tmp_path: Path) -> None:
    served.rollout.load("5", lambda: trained.archive)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"x")
    good = trained.data.test.photos[0].path
    done = call("scripts/predict.py", bad, good, "--url", served.inference.url)
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert "neither JPEG nor PNG" in first["error"]
    assert second["model_version"] == "5"


@pytest.mark.parametrize("by_server", [False, True])
def test_predict_compares_photos_with_their_records(
    served: Served, trained: Trained, drawn: Path, tmp_path: Path, by_server: bool
) -> None:
    if by_server:
        served.rollout.load("5", lambda: trained.archive)
    model = ("--url", served.inference.url) if by_server else ("--archive", trained.archive)
    photos = sorted((drawn / "bin-images").iterdir())[:3]
    (tmp_path / "records").mkdir()
    records: list[object] = [RECORD, PRODUCTS, {"EXPECTED_QUANTITY": -1}]
    for photo, record in zip(photos, records, strict=True):
        (tmp_path / "records" / f"{photo.stem}.json").write_text(json.dumps(record))
    done = call("scripts/predict.py", *photos, *model, "--record", tmp_path / "records")
    assert done.returncode == 1, done.stderr
    first, second, wrong = map(json.loads, done.stdout.splitlines())
    assert "EXPECTED_QUANTITY is -1" in wrong["error"]
    assert [answer["expected_quantity"] for answer in (first, second)] == [3, 3]
    assert {"verdict", "reason", "evidence", "counts_that_fit"} <= first.keys() & second.keys()
    single = call("scripts/predict.py", photos[0], *model, "--record", tmp_path / "records" / f"{photos[0].stem}.json")
    assert json.loads(single.stdout)["verdict"] == first["verdict"]


@pytest.mark.parametrize("text", [None, "", "{", "3", "null", "\ufffe", '{"a": 1, "a": 2}', "[" * 100_000])
def test_predict_says_which_record_it_cannot_read(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    done = call("scripts/predict.py", tmp_path / "a.jpg", "--record", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / "a.json") in done.stderr
    assert "Traceback" not in done.stderr
    one_for_two = call("scripts/predict.py", tmp_path / "a.jpg", tmp_path / "b.jpg", "--record", tmp_path / "a.json")
    assert one_for_two.returncode == 1


def test_predict_says_that_no_server_answers() -> None:
    done = call("scripts/predict.py", "README.md", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["missing.jpg", "tests"])
def test_predict_says_that_there_is_no_photo(path: str) -> None:
    done = call("scripts/predict.py", path)
    assert done.returncode == 1
    assert path in done.stderr


def test_pipeline_and_promoter_work_as_two_processes(
    served: Served, registry: Registry, drawn: Path, tmp_path: Path
) -> None:
    reach = {
        "MLFLOW_TRACKING_URI": registry.uri,
        "BINWATCH_INFERENCE_URL": served.inference.url,
        "BINWATCH_MANAGEMENT_URL": served.management.url,
        "BINWATCH_MODEL_STORE": str(served.store),
        "BINWATCH_STATE": str(tmp_path / "state"),
    }
    import os

    watcher = subprocess.Popen(
        [sys.executable, "scripts/promote.py", "--watch", "--interval", "0.5", "--heartbeat", tmp_path / "beat"],
        cwd=ROOT,
        env={**os.environ, **reach},
        stderr=subprocess.PIPE,
        text=True,
    )
    words = [
        "scripts/pipeline.py",
        "--recipe",
        "tiny",
        "--data",
        drawn,
        "--epochs",
        1,
        "--size-px",
        32,
        "--json",
        "--policy",
        "greater",
        "--state",
        tmp_path / "state",
    ]
    try:
        first = call(*words, **reach)
        second = call(*words, "--no-cache", **reach)  # the same model again is not better
    finally:
        watcher.terminate()
        _, log = watcher.communicate(timeout=30)
    assert first.returncode == 0, first.stderr + log
    assert json.loads(first.stdout)["decision"] == "promoted"
    assert second.returncode == 3, second.stderr + log
    assert watcher.returncode == 0
    assert "promoted version 1" in log
    assert (tmp_path / "beat").exists()
    assert served.rollout.serving() == "1"

    once = call("scripts/promote.py", "--json", **reach)
    assert once.returncode == 3
    assert json.loads(once.stdout)["did"] == "nothing"
