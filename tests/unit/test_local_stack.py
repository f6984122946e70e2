"""Servers that start at once, and stop together."""

import _thread
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Barrier, Event, Thread

import pytest

from serve.errors import ServerError
from serve.local.local_stack import start_together


@contextmanager
def server(name: str, running: set[str], both: Barrier | None = None) -> Iterator[str]:
    """Runs, as long as it is in ``running``; waits for ``both`` to start."""
    if both:
        both.wait(10)
    running.add(name)
    try:
        yield f"http://{name}"
    finally:
        running.remove(name)


@contextmanager
def broken() -> Iterator[str]:
    """One that does not start."""
    raise ServerError("it exited with 1")
    yield ""


def test_two_servers_start_at_once_and_stop_with_the_context() -> None:
    running: set[str] = set()
    both = Barrier(2)
    with ExitStack() as stack:
        addresses = start_together(stack, server("a", running, both), server("b", running, both))
        assert addresses == ("http://a", "http://b")
        assert running == {"a", "b"}
    assert running == set()


def test_a_server_that_does_not_start_stops_the_one_that_did() -> None:
    running: set[str] = set()
    with pytest.raises(ServerError), ExitStack() as stack:
        start_together(stack, broken(), server("b", running))
    assert running == set()
    with pytest.raises(ServerError), ExitStack() as stack:
        start_together(stack, server("a", running), broken())
    assert running == set()


def test_an_interrupt_while_servers_start_leaves_none_behind() -> None:
    running: set[str] = set()
    both = Barrier(3, action=_thread.interrupt_main)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_until_interrupted(running, both)
    finally:
        signal.signal(signal.SIGINT, before)
    assert running == set()


def run_until_interrupted(running: set[str], both: Barrier) -> None:
    with ExitStack() as stack:
        Thread(target=both.wait, args=(10,)).start()
        start_together(stack, server("a", running, both), server("b", running, both))
        Event().wait(10)  # where the interrupt arrives late
