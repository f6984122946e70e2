"""What speaks against a version on probation: its model's failures alone, whatever strangers send meanwhile."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from serve.archives.archive import golden_photos
from serve.local.servers import metrics_url
from serve.rollout.probation import Observation, ProbationPolicy
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management, Metrics
from tests.conftest import Served
from tests.integration.strangers import pester
from tests.integration.test_old_archive import ARCHIVE
from tests.integration.test_serving import altered
from tests.integration.upstream import upstream_server
from tests.small_archives import contents, packed
from trainer.training.run import Trained

POLICY = ProbationPolicy(duration_s=0, least_requests=10)
COUNTED = b"        return self._run(pixels)\n"


def on_probation(served: Served, archive: Path, number: int) -> Rollout:
    """A rollout that has just switched from a version without faults to this archive, as version ``number``.

    TorchServe counts by version for as long as it runs, so each test has numbers of its own.
    """
    rollout = Rollout(
        served.inference,
        served.management,
        served.store,
        metrics=Metrics(metrics_url(served.store.parent)),
        policy=POLICY,
    )
    for version, path in ((str(number - 1), served.store.parent / "good.mar"), (str(number), archive)):
        rollout.load(version, lambda path=path: path)  # type: ignore[misc]
        rollout.canary(version)
        rollout.switch(version)
    return rollout


def ask(served: Served, photo: bytes, number: int = 20) -> list[int]:
    """The statuses of that many predictions."""
    url = f"{served.inference.url}/predictions/bin-counter"
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: requests.post(url, data=photo, timeout=60).status_code, range(number)))


def observed(rollout: Rollout, number: int) -> Observation:
    """An observation after what the workers have logged is counted."""
    time.sleep(1)
    return rollout.observe(str(number))


@pytest.fixture
def photo(trained: Trained, served: Served) -> bytes:
    (served.store.parent / "good.mar").write_bytes(trained.archive.read_bytes())
    return trained.data.test.photos[0].path.read_bytes()


def test_what_strangers_send_does_not_speak_against_a_version(served: Served, trained: Trained, photo: bytes) -> None:
    rollout = on_probation(served, trained.archive, 102)
    url = f"{served.inference.url}/predictions/bin-counter"
    pestered = pester(served.inference.url, photo)
    bodies: tuple[object, ...] = ({"uri": "s3://none/a.jpg"}, {"image": "%"}, {"image": ""}, {}, [], {"image": "eA=="})
    refused = [requests.post(url, json=body, timeout=60).status_code for body in bodies for _ in range(10)]
    assert set(refused) == {400, 403, 422}
    assert set(ask(served, photo)) == {200}
    observation = observed(rollout, 102)
    print(f"{pestered}: {observation.summary}")
    assert (observation.fault, observation.over) == ("", True)
    assert "20 photos, 0.0% failed" in observation.summary


FULL = b'{"code": 503, "type": "ServiceUnavailableException", "message": "full"}'
FAILED = b'{"code": 503, "type": "InternalServerException", "message": "Prediction failed"}'
PAGE = """# TYPE PredictionTime histogram
PredictionTime_count{ModelName="bin-counter"} %d
# TYPE ts_inference_latency_microseconds histogram
ts_inference_latency_microseconds_count{model_name="bin-counter"} 0
# TYPE ts_queue_latency_microseconds histogram
ts_queue_latency_microseconds_count{model_name="bin-counter"} 0
"""


@pytest.mark.parametrize(("body", "faulty"), [(FULL, False), (FAILED, True)])
def test_golden_photos_for_which_the_queue_has_no_room_are_no_fault(tmp_path: Path, body: bytes, faulty: bool) -> None:
    packed(tmp_path / "bin-counter-2.mar", contents())
    with upstream_server() as inference, upstream_server() as metrics:
        inference.status, inference.body = 503, body
        management = Management(inference.url)
        rollout = Rollout(Inference(inference.url), management, tmp_path, metrics=Metrics(metrics.url), policy=POLICY)
        for batches in range(POLICY.failed_probes + 2):
            metrics.body = (PAGE % batches).encode()
            observation = rollout.observe("2")
            assert not observation.over  # it goes on until a golden photo is answered
    assert ("golden photos" in observation.fault) == faulty


def test_a_model_that_fails_is_a_fault_also_beside_strangers(
    served: Served, trained: Trained, photo: bytes, tmp_path: Path
) -> None:
    late = b"        self.calls = getattr(self, 'calls', 0) + 1\n        assert self.calls <= %d\n"
    late %= len(golden_photos(trained.archive))  # after the canary
    change = {COUNTED: late + COUNTED}
    rollout = on_probation(served, altered(trained.archive, tmp_path / "bad.mar", "serve/counter.py", change), 104)
    pester(served.inference.url, photo)
    assert set(ask(served, photo)) == {500}
    assert observed(rollout, 104).fault.startswith("the model failed at 100.0% of 20 photos")


def test_an_archive_that_does_not_count_is_judged_by_its_golden_photos(
    served: Served, trained: Trained, photo: bytes
) -> None:
    rollout = on_probation(served, ARCHIVE, 106)
    pester(served.inference.url, photo)
    assert set(ask(served, photo)) == {200}
    observation = observed(rollout, 106)
    assert (observation.fault, observation.over) == ("", True)
    assert "no counted photos" in observation.summary
