"""The gateway in front of several servers: spreading, retries, what is taken out, and the promoter's routes."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from serve.gateway.upstreams.circuit import MAX_BACKOFF_S, MAX_FAILURES
from serve.gateway.upstreams.trial_traffic import MAX_COPIES
from serve.local.servers import gateway_server
from serve.routing.route_table import Trial, TrialMode
from tests.integration.model_servers import (
    CHALLENGER,
    CHAMPION,
    ModelServer,
    Promoter,
    model_servers,
    promoter_door,
    wait_for,
)

DIED = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
FULL = {"code": 503, "type": "ServiceUnavailableException", "message": "full"}
BAD_PHOTO = {"code": 400, "type": "BadPhoto", "message": "it is no photo"}
TIMEOUT_S = 6


@pytest.fixture(scope="module")
def all_servers() -> Iterator[list[ModelServer]]:
    with model_servers(3) as servers:
        yield servers


@pytest.fixture(scope="module")
def door() -> Iterator[Promoter]:
    with promoter_door() as promoter:
        yield promoter


@pytest.fixture(scope="module")
def gateway(all_servers: list[ModelServer], door: Promoter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environ = {"BINWATCH_PROMOTER_URL": door.url, "BINWATCH_RATE": "0", "BINWATCH_TIMEOUT_S": str(TIMEOUT_S)}
    urls = ",".join(server.url for server in all_servers)
    with gateway_server(tmp_path_factory.mktemp("gateway"), urls, environ=environ) as url:
        yield url


@pytest.fixture
def servers(gateway: str, all_servers: list[ModelServer], door: Promoter) -> list[ModelServer]:
    """Three servers that work and are routed to; what earlier tests left of failures is over."""
    for server in all_servers:
        server.reset()
    door.tell(all_servers)
    wait_for(lambda: not any(out(gateway, server) for server in all_servers))
    for server in all_servers:
        server.reset()
    return all_servers


@pytest.fixture
def promoter(servers: list[ModelServer], door: Promoter) -> Promoter:
    assert servers
    return door


def predict(url: str, body: bytes = b"x") -> requests.Response:
    return requests.post(f"{url}/predict", data=body, timeout=30)


def predict_all(url: str, number: int, at_once: int = 6) -> list[requests.Response]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda _: predict(url), range(number)))


def versions(answers: list[requests.Response]) -> Counter[str]:
    assert {response.status_code for response in answers} == {200}, [response.text for response in answers]
    return Counter(response.json()["model_version"] for response in answers)


def value(url: str, name: str, **labels: str) -> float:
    """The sum of the series of a metric that have these labels."""
    families = text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=30).text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def out(url: str, server: ModelServer) -> bool:
    return value(url, "binwatch_gateway_server_out", server=server.url.removeprefix("http://")) == 1


def photos(server: ModelServer) -> int:
    """The requests of clients that a server has received, without probes."""
    return sum(request.body == b"x" for request in server.received)


def test_requests_are_spread_by_what_each_server_has_to_do(gateway: str, servers: list[ModelServer]) -> None:
    for server in servers:
        server.delay_s[CHAMPION] = 0.05
    servers[0].delay_s[CHAMPION] = 0.4
    assert versions(predict_all(gateway, 120)) == {CHAMPION: 120}
    slow, *fast = map(photos, servers)
    assert slow + sum(fast) == 120
    assert slow < 30
    assert min(fast) > 30
    assert value(gateway, "binwatch_gateway_server_outstanding") == 0


@pytest.mark.parametrize("fault", [None, (503, FULL), (502, b"<html>Bad Gateway</html>")])
def test_a_request_that_one_server_loses_is_answered_by_another(
    gateway: str, servers: list[ModelServer], fault: tuple[int, object] | None
) -> None:
    if fault:
        servers[0].fail(*fault)
    else:
        servers[0].drops = True
    retries = value(gateway, "binwatch_gateway_retries_total")
    assert versions(predict_all(gateway, 60, at_once=2)) == {CHAMPION: 60}
    lost = photos(servers[0])
    assert MAX_FAILURES <= lost <= MAX_FAILURES + 1  # then it was out
    assert value(gateway, "binwatch_gateway_retries_total") == retries + lost
    servers[0].reset()
    wait_for(lambda: not out(gateway, servers[0]), 2 * MAX_BACKOFF_S)
    predict_all(gateway, 30, at_once=2)
    assert photos(servers[0]) > 3


def test_an_error_about_the_photo_is_the_answer(gateway: str, servers: list[ModelServer]) -> None:
    for server in servers:
        server.fail(400, BAD_PHOTO)
    for _ in range(2 * MAX_FAILURES):
        assert predict(gateway).json() == BAD_PHOTO
    assert sum(map(photos, servers)) == 2 * MAX_FAILURES
    assert not any(out(gateway, server) for server in servers)


def test_a_photo_that_kills_workers_does_not_go_round_all_servers(gateway: str, servers: list[ModelServer]) -> None:
    for server in servers:
        server.fail(500, DIED)
    assert (predict(gateway).status_code, sum(map(photos, servers))) == (502, 2)


def test_where_all_servers_fail_one_is_tried_and_brings_answers_back(gateway: str, servers: list[ModelServer]) -> None:
    for server in servers:
        server.drops = True
    for _ in range(2 * MAX_FAILURES):
        refused = predict(gateway)
        assert (refused.status_code, refused.json()["type"], "Retry-After" in refused.headers) == (503, "Down", True)
    assert all(out(gateway, server) for server in servers)
    assert requests.get(f"{gateway}/healthz", timeout=30).status_code == 503
    servers[1].reset()
    assert versions(predict_all(gateway, 20)) == {CHAMPION: 20}
    wait_for(lambda: requests.get(f"{gateway}/healthz", timeout=30).status_code == 200)


def test_a_server_that_drains_gets_nothing_new_and_finishes_what_it_has(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    for server in servers:
        server.delay_s[CHAMPION] = 3.0
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(predict, gateway) for _ in range(6)]
        wait_for(lambda: [server.now for server in servers] == [2, 2, 2])
        promoter.tell(servers[1:])
        before = photos(servers[0])
        for server in servers:
            server.delay_s.clear()
        assert versions(predict_all(gateway, 20)) == {CHAMPION: 20}
        assert photos(servers[0]) == before
        assert versions([answer.result() for answer in waiting]) == {CHAMPION: 6}
    label = servers[0].url.removeprefix("http://")
    assert label not in requests.get(f"{gateway}/metrics", timeout=30).text


def test_the_routes_name_the_version_and_a_server_without_it_answers_with_its_default(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    assert versions(predict_all(gateway, 6)) == {CHAMPION: 6}
    assert {request.version for server in servers for request in server.received} == {CHAMPION}
    assert requests.get(f"{gateway}/healthz", timeout=30).json()["model_version"] == CHAMPION
    for server in servers:
        server.counts = {"6": 1}  # the promoter has switched, and the gateway does not know yet
    assert versions(predict_all(gateway, 6)) == {"6": 6}
    servers[0].counts.clear()
    assert versions(predict_all(gateway, 12)) == {"6": 12}
    for server in servers:
        server.counts.clear()
    refused = predict(gateway)
    assert (refused.status_code, refused.json()["type"]) == (503, "NoModel")
    assert len({report.gateway for report in promoter.reports}) == 1


def test_the_last_routes_stay_while_the_promoter_is_away(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    promoter.tell(servers[:1])
    promoter.routes = None  # it has started again, and answers 404 until it knows the champion
    heard = len(promoter.reports)
    wait_for(lambda: len(promoter.reports) >= heard + 2)
    assert versions(predict_all(gateway, 10)) == {CHAMPION: 10}
    assert list(map(photos, servers)) == [10, 0, 0]


def test_without_a_promoter_all_addresses_answer_with_their_default(tmp_path: Path, servers: list[ModelServer]) -> None:
    for server in servers:
        server.delay_s[CHAMPION] = 0.05
    environ = {"BINWATCH_RATE": "0", "BINWATCH_PROMOTER_URL": "http://127.0.0.1:9"}
    with gateway_server(tmp_path, ",".join(server.url for server in servers), environ=environ) as url:
        assert versions(predict_all(url, 30)) == {CHAMPION: 30}
    assert {request.version for server in servers for request in server.received} == {""}
    assert min(map(photos, servers)) > 3
    assert "the last routes stay" in (tmp_path / "gateway.log").read_text()


def test_a_canary_answers_its_share_and_the_champion_gets_copies(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    promoter.tell(servers, Trial(id="a", version=CHALLENGER, mode=TrialMode.CANARY, share=0.25))
    answers = versions(predict_all(gateway, 120, at_once=4))
    assert 7 < answers[CHALLENGER] < 63  # binomial: outside once in a million runs
    wait_for(lambda: value(gateway, "binwatch_gateway_copies_total") >= answers[CHALLENGER])
    received = [request for server in servers for request in server.received if request.body == b"x"]
    assert Counter((request.version, request.is_copy) for request in received if request.is_copy) == {
        (CHAMPION, True): answers[CHALLENGER] - value(gateway, "binwatch_gateway_copies_total", result="dropped")
    }
    comparison = promoter.comparison()
    assert comparison.trial == "a"
    assert comparison.challenger.answered == sum(comparison.challenger.latencies) == answers[CHALLENGER]
    assert comparison.counts == {"2>3": comparison.champion.answered}
    assert comparison.verdicts == {"match>match": comparison.champion.answered}
    promoter.tell(servers)
    assert promoter.reports[-1].comparison is None


@pytest.mark.parametrize("fault", [(500, DIED), (400, BAD_PHOTO), None])
def test_no_client_gets_an_error_of_a_challenger(
    gateway: str, servers: list[ModelServer], promoter: Promoter, fault: tuple[int, object] | None
) -> None:
    for server in servers:
        if fault:
            server.errors[CHALLENGER] = fault
        else:
            server.delay_s[CHALLENGER] = TIMEOUT_S
    promoter.tell(servers, Trial(id=f"b{fault}", version=CHALLENGER, mode=TrialMode.CANARY, share=1.0))
    assert versions(predict_all(gateway, 12, at_once=12)) == {CHAMPION: 12}
    comparison = promoter.comparison()
    assert (comparison.challenger.failed, comparison.challenger.answered) == (12, 0)
    assert (comparison.champion.failed, comparison.champion.answered) == (0, 12)
    assert not any(out(gateway, server) for server in servers)


def test_a_photo_that_both_versions_refuse_is_held_against_neither(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    for server in servers:
        server.fail(400, BAD_PHOTO)
    promoter.tell(servers, Trial(id="c", version=CHALLENGER, mode=TrialMode.CANARY, share=1.0))
    assert predict(gateway).json() == BAD_PHOTO
    comparison = promoter.comparison()
    assert (comparison.challenger.failed, comparison.champion.failed) == (0, 0)


def test_a_shadow_never_answers_and_neither_delays_nor_fails_an_answer(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    for server in servers:
        server.delay_s[CHALLENGER] = 3.0
    dropped = value(gateway, "binwatch_gateway_copies_total", result="dropped")
    promoter.tell(servers, Trial(id="d", version=CHALLENGER, mode=TrialMode.SHADOW, share=1.0))
    start = time.monotonic()
    assert versions(predict_all(gateway, 40, at_once=4)) == {CHAMPION: 40}
    assert time.monotonic() - start < 3  # less than one answer of the challenger
    assert sum(server.most for server in servers) >= MAX_COPIES
    assert value(gateway, "binwatch_gateway_copies_total", result="dropped") == dropped + 40 - MAX_COPIES
    for server in servers:
        server.errors[CHALLENGER] = (500, DIED)
    wait_for(lambda: not any(server.now for server in servers))
    for server in servers:
        server.delay_s.clear()
    comparison = promoter.comparison()
    assert (comparison.challenger.answered, comparison.challenger.failed) == (0, MAX_COPIES)
    assert versions(predict_all(gateway, 3)) == {CHAMPION: 3}
    assert requests.get(f"{gateway}/healthz", timeout=30).json()["model_version"] == CHAMPION
    assert not any(out(gateway, server) for server in servers)


def test_a_list_of_photos_is_compared_photo_by_photo(
    gateway: str, servers: list[ModelServer], promoter: Promoter
) -> None:
    promoter.tell(servers, Trial(id="e", version=CHALLENGER, mode=TrialMode.SHADOW, share=1.0))
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "weight=2"}
    answer = requests.post(f"{gateway}/predictions/bin-counter", data=b"two", headers=headers, timeout=30)
    assert [photo["model_version"] for photo in answer.json()] == [CHAMPION] * 2
    wait_for(lambda: any(request.is_copy for server in servers for request in server.received))
    received = [request for server in servers for request in server.received if request.body == b"two"]
    assert {(request.version, request.attributes) for request in received} == {
        (CHAMPION, "weight=2"),
        (CHALLENGER, "weight=2,shadow=1"),
    }
    comparison = promoter.comparison()
    assert comparison.counts == {"2>3": 2}
    assert comparison.challenger.answered == 1


@pytest.mark.parametrize("attributes", ["shadow=1", "weight=2, shadow = 1", "shadow=0", "sha dow=1"])
def test_a_client_cannot_say_that_its_photo_is_a_copy(
    gateway: str, servers: list[ModelServer], attributes: str
) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": attributes}
    for path in ("/predictions/bin-counter", "/invocations"):
        refused = requests.post(gateway + path, data=b"x", headers=headers, timeout=30)
        assert (refused.status_code, refused.json()["type"]) == (422, "BadField")
    requests.post(f"{gateway}/predict", data=b"x", headers=headers, timeout=30)
    assert [request.attributes for server in servers for request in server.received] == [""]
