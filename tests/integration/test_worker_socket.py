"""TorchServe's management through a Unix socket, as in the containers."""

import gc
import socket
import threading
import warnings
from pathlib import Path

import pytest

from serve.errors import ServerError
from serve.rollout.torchserve_client import Management


def test_the_client_speaks_http_over_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "management.sock"
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        assert Management(f"unix:{path}").loaded() == []
        thread.join()
    assert requests[0].startswith(b"GET /models/bin-counter/all HTTP/1.1\r\n")


def test_a_socket_that_is_not_there_is_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # docker's adapter does not close one that cannot connect
        with pytest.raises(ServerError, match="does not answer"):
            Management(f"unix:{tmp_path}/none.sock").loaded()
        gc.collect()
