"""Which server gets a request, and which servers a name stands for."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from serve.errors import SettingsError
from serve.gateway.settings import GatewaySettings
from serve.gateway.upstreams.circuit import FIRST_BACKOFF_S, MAX_BACKOFF_S, MAX_FAILURES, Circuit
from serve.gateway.upstreams.discovery import Discovery, find_servers, resolve
from serve.gateway.upstreams.server_metrics import ServerMetrics
from serve.gateway.upstreams.server_pool import Address, ServerPool
from serve.settings import read


def pool_of(*urls: str) -> ServerPool:
    return ServerPool([Address(url=url) for url in urls], ServerMetrics(CollectorRegistry()), random.Random(0))


def urls(pool: ServerPool) -> list[str]:
    return [server.address.url for server in pool.servers]


def test_a_server_is_out_after_failures_in_a_row_and_for_ever_longer_up_to_a_limit() -> None:
    circuit, now_s = Circuit(), 100.0
    for _ in range(MAX_FAILURES - 1):
        circuit = circuit.after_failure(now_s)
        assert not circuit.is_open
    circuit = circuit.after_failure(now_s)
    waits = []
    for _ in range(6):
        assert circuit.is_open
        assert not circuit.is_due(now_s)
        assert circuit.after_failure(now_s) == circuit  # a request that it still had
        waits.append(circuit.retry_at_s - now_s)
        now_s = circuit.retry_at_s
        assert circuit.is_due(now_s)
        circuit = circuit.after_failure(now_s)
    assert waits == [FIRST_BACKOFF_S, 2.0, 4.0, 8.0, MAX_BACKOFF_S, MAX_BACKOFF_S]


def test_the_server_with_the_fewest_requests_gets_the_next() -> None:
    pool = pool_of("http://a", "http://b", "http://c")
    busy = pool.servers[:2]
    for server in busy:
        server.outstanding = 1
    assert pool.pick() is pool.servers[2]
    assert pool.pick(exclude=[pool.servers[2]]) in busy
    assert pool.pick(exclude=pool.servers) is None
    for server in pool.servers:
        server.outstanding = 0
    assert {pool.pick() for _ in range(50)} == set(pool.servers)


def test_of_servers_that_are_out_the_one_that_is_tried_first_gets_the_request() -> None:
    pool = pool_of("http://a", "http://b")
    first, second = pool.servers
    for server in (first, second, second, first):
        for _ in range(MAX_FAILURES):
            pool.record(server, failed=True)
    assert pool.pick() is first
    pool.record(second, failed=False)
    assert pool.pick() is second
    assert pool.due() == []


def test_a_server_that_stays_listed_keeps_its_state_and_no_server_at_all_changes_nothing() -> None:
    pool = pool_of("http://a", "http://b")
    first = pool.servers[0]
    with pool.busy(first):
        pool.update([Address(url="http://c"), Address(url="http://a")])
        assert urls(pool) == ["http://c", "http://a"]
        assert pool.servers[1] is first
        pool.update([])
        assert urls(pool) == ["http://c", "http://a"]
        pool.update([Address(url="http://c")])
    assert first.outstanding == 0
    assert urls(pool) == ["http://c"]


NAMES = {
    "serve": ["10.0.0.2", "10.0.0.1", "10.0.0.2"],
    "single": ["10.0.0.3"],
    "both": ["::1", "127.0.0.1"],
    "six": ["fd00::2", "fd00::1"],
}


async def fake_resolve(host: str) -> Sequence[str]:
    if host not in NAMES:
        raise OSError(f"{host} is not known")
    return NAMES[host]


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("http://serve:8080", ["http://10.0.0.1:8080", "http://10.0.0.2:8080"]),
        ("http://serve/base", ["http://10.0.0.1/base", "http://10.0.0.2/base"]),
        ("http://six:8080", ["http://[fd00::1]:8080", "http://[fd00::2]:8080"]),
        *((url, [url]) for url in ("http://single:8080", "http://both:8080", "https://serve", "http://10.0.0.9:80")),
    ],
)
def test_a_name_with_several_addresses_is_several_servers(url: str, servers: list[str]) -> None:
    addresses = asyncio.run(find_servers(url, fake_resolve))
    assert [address.url for address in addresses] == servers
    assert {address.host for address in addresses} == ({"" if servers == [url] else url.split("/")[2]})


def test_the_pool_follows_what_the_names_stand_for() -> None:
    names = {"serve": ["10.0.0.1", "10.0.0.2"]}

    async def changing(host: str) -> Sequence[str]:
        if host not in names:
            raise OSError(f"{host} is not known")
        return names[host]

    pool = pool_of("http://serve:80", "http://10.0.0.9:80")
    discovery = Discovery(["http://serve:80", "http://10.0.0.9:80"], pool, changing)

    def follow() -> list[str]:
        asyncio.run(discovery.refresh())
        return urls(pool)

    assert follow() == ["http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.9:80"]
    names["serve"] = ["10.0.0.2", "10.0.0.3"]
    assert follow() == ["http://10.0.0.2:80", "http://10.0.0.3:80", "http://10.0.0.9:80"]
    names.clear()
    assert follow() == ["http://10.0.0.2:80", "http://10.0.0.3:80", "http://10.0.0.9:80"]


def test_the_systems_resolver_knows_this_machine_and_not_every_name() -> None:
    assert "127.0.0.1" in asyncio.run(resolve("localhost"))
    with pytest.raises(OSError, match=r"."):
        asyncio.run(resolve("no-such-host.invalid"))


def test_several_addresses_are_separated_by_commas() -> None:
    settings = read(GatewaySettings, {"BINWATCH_INFERENCE_URL": " http://a:8080/, http://b:8080,http://a:8080 "})
    assert settings.inference_urls == ("http://a:8080", "http://b:8080")
    assert read(GatewaySettings, {}).inference_urls == ("http://127.0.0.1:8080",)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BINWATCH_INFERENCE_URL", "http://a:8080,"),
        ("BINWATCH_INFERENCE_URL", "http://a:8080;http://b:8080"),
        ("BINWATCH_INFERENCE_URL", "http://a:8080,b:8080"),
        ("BINWATCH_PROMOTER_URL", "promoter:8090"),
    ],
)
def test_an_address_that_is_none_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable} is '{text}'"):
        read(GatewaySettings, {variable: text})
