import pytest

from serve.gateway.middleware import MAX_CLIENTS, RateLimiter, check_host, check_length, check_origin
from serve.gateway.schemas import Refusal
from serve.gateway.settings import LOOPBACK


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "LocalHost", "[::1]:8000", "192.168.1.5:8000", "bins.example.com"]
)
def test_it_answers_to_its_names_and_to_addresses(host: str) -> None:
    check_host(host, LOOPBACK | {"bins.example.com"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[",
        "a@localhost.evil",
    ],
)
def test_a_name_that_was_rebound_to_it_is_refused(host: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_host(host, LOOPBACK)
    assert caught.value.status == 421


def test_only_its_own_page_may_send() -> None:
    check_origin(None, "127.0.0.1:8000")
    check_origin("http://127.0.0.1:8000", "127.0.0.1:8000")
    for origin in (
        "null",
        "",
        "http://evil.example",
        "http://127.0.0.1:8001",
        "http://127.0.0.1",
        "http://[",
        "http://ö",
    ):
        with pytest.raises(Refusal) as caught:
            check_origin(origin, "127.0.0.1:8000")
        assert caught.value.status == 403, origin


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    check_length(10, 10)
    with pytest.raises(Refusal, match=r"11 bytes.* 10\b") as caught:
        check_length(11, 10)
    assert caught.value.status == 413


def test_a_client_gets_a_second_s_worth_at_once_and_then_its_rate() -> None:
    limiter = RateLimiter(5)
    assert [limiter.wait_s("a", 0) for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert limiter.wait_s("b", 0) == 0
    assert limiter.wait_s("a", 0.1) == 1
    assert [limiter.wait_s("a", 0.45) for _ in range(3)] == [0, 0, 1]
    assert [limiter.wait_s("a", 100) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


def test_less_than_one_request_a_second_says_how_long_to_wait() -> None:
    limiter = RateLimiter(0.1)
    assert [limiter.wait_s("a", 0), limiter.wait_s("a", 0), limiter.wait_s("a", 10)] == [0, 10, 0]


def test_no_rate_is_no_limit_and_no_memory() -> None:
    limiter = RateLimiter(0)
    assert not any(limiter.wait_s(str(number), 0) for number in range(10_000))
    assert not limiter._buckets


def test_as_many_clients_are_remembered_as_fit() -> None:
    limiter = RateLimiter(1)
    for number in range(3 * MAX_CLIENTS):
        limiter.wait_s(str(number), 0)
    assert len(limiter._buckets) == MAX_CLIENTS
