"""MLflow's artifacts in a bucket: a real MLflow on a real S3 server, and clients that have no key of the store."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from serve.links import s3_client
from serve.local.servers import mlflow_server
from tests import small_archives as small
from trainer.artifacts import ARCHIVE, EVALUATION
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch

SERVER = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}


def test_a_run_is_logged_and_its_archive_fetched_through_the_server_alone(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_client(s3, 20, 1)
    client.create_bucket(Bucket="artifacts")
    with ExitStack() as stack:
        with monkeypatch.context() as environ:
            for name, value in {**SERVER, "MLFLOW_S3_ENDPOINT_URL": s3}.items():
                environ.setenv(name, value)
            url = stack.enter_context(mlflow_server(tmp_path / "mlflow", artifacts="s3://artifacts/mlflow"))
        keys, registry = signing.ensure_key_pair(tmp_path / "keys"), Registry(url)
        with registry.run("train") as run:
            archive = small.packed(tmp_path / Path(ARCHIVE).name, small.contents(run_id=run.id))
            for path in (signing.sign(archive, signing.private_key(keys.private)), archive):
                run.log_file(path, "archive")
            run.log_json({"binwatch": {}}, EVALUATION)
        stored = {item["Key"] for item in client.list_objects_v2(Bucket="artifacts")["Contents"]}
        assert all(any(key.endswith(f"{run.id}/artifacts/{name}") for key in stored) for name in (ARCHIVE, EVALUATION))
        assert not (tmp_path / "mlflow" / "artifacts").exists()
        fetched = fetch(registry, run.id, tmp_path / "promoter", keys.public)
        assert fetched.read_bytes() == archive.read_bytes()
