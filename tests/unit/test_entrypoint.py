"""The edge of every script: whatever goes wrong outside of the code ends as one sentence."""

import argparse
import errno
import os
from pathlib import Path

import pytest
import requests

from serve.errors import DataError, SettingsError
from trainer import entrypoint

OUTSIDE = [
    (OSError(errno.ENOSPC, "No space left on device", "/models/a.mar"), "/models/a.mar; free some space"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/models/a.mar"), "raise the quota"),
    (PermissionError(errno.EACCES, "Permission denied", "/srv/bins"), "/srv/bins; give this user the right"),
    (OSError(errno.EROFS, "Read-only file system", "/state/x"), "read-only"),
    (OSError(errno.EMFILE, "Too many open files", "/x"), "ulimit -n"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a", None, "/b"), "/a and /b"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "Is a directory: /x"),
    (OSError("odd"), "odd"),
    (requests.ConnectionError("nobody there"), "nobody there"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UTF-8"),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "UTF-8"),
    (MemoryError(), "not enough memory"),
    (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    (DataError("there are no photos"), "there are no photos"),
]


def ended(error: BaseException, debug: bool = False) -> int:
    """The exit code of a script that raises ``error``."""

    def main(_: argparse.Namespace) -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        entrypoint.run(main, argparse.Namespace(debug=debug))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(autouse=True)
def _unchanged_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoint, "exit_on_sigterm", lambda: None)
    monkeypatch.setattr(entrypoint, "log_to_stderr", lambda: None)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")


@pytest.mark.parametrize(("error", "words"), OUTSIDE, ids=lambda value: type(value).__name__)
def test_what_goes_wrong_outside_of_the_code_is_one_line(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(error) == entrypoint.ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_fault_of_the_code_says_where_it_is_after_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (TypeError("bad"), AssertionError(), KeyError("x")):
        assert ended(error) == entrypoint.ERROR
        first, second, *_ = capsys.readouterr().err.splitlines()
        assert first.startswith(f"error: unexpected {type(error).__name__}")
        assert second.startswith("Traceback")


def test_debug_shows_the_traceback_and_the_same_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(SettingsError("wrong"), debug=True) == entrypoint.USAGE
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert (first, second[:9]) == ("error: wrong", "Traceback")


def test_a_full_file_system_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: argparse.Namespace) -> int:
        return Path("/dev/full").write_text("x")

    with pytest.raises(SystemExit):
        entrypoint.run(main, argparse.Namespace(debug=False))
    assert "free some space" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["", "s3.example.com", "localhost, s3.example.com,"])
def test_requests_to_this_machine_go_through_no_proxy(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    environ = {"HTTP_PROXY": "http://proxy.invalid:3128", "NO_PROXY": before}
    entrypoint.reach_loopback_directly(environ)
    entrypoint.reach_loopback_directly(environ)
    hosts = environ["NO_PROXY"].split(",")
    assert len(set(hosts)) == len(hosts)
    assert {"localhost", "127.0.0.1", "::1"} <= set(hosts)
    assert ("s3.example.com" in hosts) == bool(before)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for url in ("http://127.0.0.1:5000/x", "http://localhost:8080/x"):
        assert not requests.utils.get_environ_proxies(url)
    assert requests.utils.get_environ_proxies("http://example.com/x")
    assert os.environ["NO_PROXY"] == environ["NO_PROXY"]
