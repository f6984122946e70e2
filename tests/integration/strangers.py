"""What a stranger can send to TorchServe's inference port without a photo that a model could fail at."""

import socket
from collections import Counter as Tally
from urllib.parse import urlsplit

PATH = b"/predictions/bin-counter"
FORM = b"application/x-www-form-urlencoded"
"""The type that ``curl --data-binary @photo`` sends."""


def raw(url: str, data: bytes) -> bytes:
    """The first bytes of the response to ``data``, sent as it is."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=1) as client:
        client.sendall(data)
        try:
            return client.recv(65536)
        except OSError:
            return b""


def request(head: bytes, body: bytes = b"", **headers: bytes) -> bytes:
    """An HTTP request as bytes, after which the server closes the connection."""
    named = {b"Host": b"127.0.0.1", b"Connection": b"close"}
    named |= {name.replace("_", "-").encode(): value for name, value in headers.items()}
    if body:
        named[b"Content-Length"] = b"%d" % len(body)
    lines = [head + b" HTTP/1.1", *(b"%s: %s" % header for header in named.items()), b"", body]
    return b"\r\n".join(lines)


def pester(url: str, photo: bytes) -> Tally[tuple[str, str]]:
    """Send 57 times ``OPTIONS *``, 40 photos as forms, and garbage; counts the responses by status."""
    kinds = {
        "OPTIONS *": [request(b"OPTIONS *")] * 57,
        "form": [request(b"POST " + PATH, photo, Content_Type=FORM)] * 40,
        "unknown": [request(b"GET /" + path) for path in (b"", b"/", b"predictions", b"none", b"models/%zz")] * 4,
        "garbage": [b"\x16\x03\x01\x02\x00\r\n\r\n", b"nonsense\r\n\r\n", b"POST /a HTTP/9.9\r\n\r\n", b"\r\n\r\n"],
    }
    return Tally((kind, raw(url, data)[9:12].decode("latin-1")) for kind, sent in kinds.items() for data in sent)
