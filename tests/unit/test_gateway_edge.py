import hashlib
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from serve.gateway.clients import GRACE_S, MAX_CLIENTS, RateLimiter, Slots, client_address
from serve.gateway.health import gradient_png
from serve.gateway.middleware import RequestInfo, check_host, check_length, check_origin, check_repeated, check_site
from serve.gateway.schemas import Refusal
from serve.gateway.settings import LOOPBACK
from serve.handler import GATEWAY_PHOTO


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


@pytest.mark.parametrize(
    ("site", "link", "admitted"),
    [
        ("", False, True),
        ("none", False, True),
        ("same-origin", False, True),
        ("cross-site", True, True),
        ("cross-site", False, False),
        ("same-site", False, False),
        ("?", False, False),
    ],
)
def test_a_page_of_another_site_may_link_to_it_and_no_more(site: str, link: bool, admitted: bool) -> None:
    if admitted:
        check_site(site, link)
        return
    with pytest.raises(Refusal) as caught:
        check_site(site, link)
    assert caught.value.status == 403


HOST = (b"Host", b"localhost")


@pytest.mark.parametrize(
    ("headers", "query", "repeated"),
    [
        ([HOST], b"", ()),
        ([HOST], b"a=1&b=1", ()),
        ([HOST, (b"Accept", b"a"), (b"accept", b"b")], b"", ()),
        ([HOST], b"weight=1&weight=1", ("weight",)),
        ([HOST], b"weight=1&w%65ight=", ("weight",)),
        ([HOST, (b"host", b"evil.example")], b"", ("host",)),
        ([HOST, (b"Origin", b"http://localhost"), (b"ORIGIN", b"null")], b"a&a", ("origin", "a")),
        ([HOST, (b"X-API-Key", b"a"), (b"X-API-Key", b"b")], b"", ("x-api-key",)),
        ([HOST, (b"Content-Type", b"image/png"), (b"Content-Type", b"text/plain")], b"", ("content-type",)),
    ],
)
def test_what_counts_is_sent_once(headers: list[tuple[bytes, bytes]], query: bytes, repeated: tuple[str, ...]) -> None:
    scope = {"path": "/verify", "method": "POST", "headers": headers, "query_string": query, "client": ("::1", 5)}
    assert RequestInfo.from_scope(scope).repeated == repeated
    check_repeated(())
    if repeated:
        with pytest.raises(Refusal, match=repeated[0]) as caught:
            check_repeated(repeated)
        assert caught.value.status == 422


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(address: str, client: str) -> None:
    assert client_address((address, 5)) == client
    assert client_address(None) == "unknown"


@dataclass
class Upload:
    """A body that has arrived, or not yet."""

    arriving: bool = False
    given_up: bool = False

    def give_up(self) -> None:
        self.given_up = True


def hold(slots: Slots, stack: ExitStack, client: str, body: Upload, now_s: float) -> bool:
    """Whether a request is counted, as long as the stack lasts."""
    try:
        stack.enter_context(slots.hold(client, body, now_s))
    except Refusal as refusal:
        return (refusal.status, "Retry-After" in refusal.headers) != (503, True)
    return True


def test_no_client_takes_more_than_half_and_all_together_no_more_than_the_limit() -> None:
    with ExitStack() as stack:
        slots = Slots(4)
        assert [hold(slots, stack, "a", Upload(), 0) for _ in range(3)] == [True, True, False]
        assert [hold(slots, stack, "b", Upload(), 0) for _ in range(3)] == [True, True, False]
        assert not hold(slots, stack, "c", Upload(), 0)
        assert hold(Slots(1), stack, "a", Upload(), 0)


def test_who_sends_slowly_makes_room_for_others_after_some_time() -> None:
    first, second = Upload(arriving=True), Upload(arriving=True)
    with ExitStack() as stack:
        slots = Slots(4)
        assert hold(slots, stack, "a", first, 0)
        assert hold(slots, stack, "a", second, 1)
        assert not hold(slots, stack, "a", Upload(), GRACE_S - 0.1)
        assert hold(slots, stack, "a", Upload(), GRACE_S)  # of the client's own, where it has its share
        assert (first.given_up, second.given_up) == (True, False)
        assert hold(slots, stack, "b", Upload(), GRACE_S)
        assert hold(slots, stack, "b", Upload(), GRACE_S)
        assert hold(slots, stack, "c", Upload(), GRACE_S + 1)  # of anybody's, where all is taken
        assert second.given_up
        assert not hold(slots, stack, "c", Upload(), 100)  # what has arrived is not given up


def test_a_request_that_ends_makes_room() -> None:
    slots = Slots(1)
    for _ in range(3):
        with slots.hold("a", Upload(), 0), ExitStack() as stack:
            assert not hold(slots, stack, "b", Upload(), 0)


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


def test_the_handler_recognises_the_photo_of_the_gateway_s_health_checks() -> None:
    assert hashlib.sha256(gradient_png()).hexdigest() == GATEWAY_PHOTO
