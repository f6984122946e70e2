"""Model servers and a promoter, small enough to be told what to do: they stand for TorchServe and its faults."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from serve.payload import ATTRIBUTES
from serve.routing.comparison import REPORT, Comparison, Report
from serve.routing.route_table import ROUTES, Routes, Trial
from tests.http_server import serving

CHAMPION, CHALLENGER = "4", "5"
NO_MODEL = {"code": 404, "type": "ModelNotFoundException", "message": "Model not found"}
NO_VERSION = {"code": 404, "type": "ModelVersionNotFoundException", "message": "Model version does not exist"}


@dataclass(frozen=True)
class Received:
    """A request that a server has answered. ``version``: as it was asked for, empty for the default."""

    version: str
    attributes: str
    body: bytes
    host: str

    @property
    def is_copy(self) -> bool:
        """Whether it is marked as a copy."""
        return "shadow=1" in self.attributes.split(",")


@dataclass(eq=False)
class ModelServer:
    """One server. ``counts``: the count that each of its versions answers; the first version is the default.

    ``delay_s``: by version; ``errors``: status and body by version, where it answers with an error; ``drops``: whether
    it closes the connection in place of an answer.
    """

    url: str = ""
    counts: dict[str, int] = field(default_factory=lambda: {CHAMPION: 2, CHALLENGER: 3})
    delay_s: dict[str, float] = field(default_factory=dict)
    errors: dict[str, tuple[int, object]] = field(default_factory=dict)
    drops: bool = False
    received: list[Received] = field(default_factory=list)
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Be as at the start, and forget the requests."""
        fresh = ModelServer(self.url)
        for name in ("counts", "delay_s", "errors", "drops", "received", "most"):
            setattr(self, name, getattr(fresh, name))

    def fail(self, status: int, body: object) -> None:
        """Answer everything with this error."""
        self.errors = dict.fromkeys((CHAMPION, CHALLENGER), (status, body))

    def answer(self, request: Received) -> tuple[int, object]:
        """Wait, and give status and body of the answer."""
        version = request.version or next(iter(self.counts), "")
        with self.lock:
            self.received.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.delay_s.get(version, 0))
        with self.lock:
            self.now -= 1
        if version not in self.counts:
            return 404, NO_VERSION if self.counts else NO_MODEL
        answer = {"count": self.counts[version], "verdict": "match", "model_version": version}
        return self.errors.get(version, (200, [answer, answer] if request.body == b"two" else answer))


@contextmanager
def model_server() -> Iterator[ModelServer]:
    server = ModelServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            version = self.path.removeprefix("/predictions/bin-counter").removeprefix("/")
            request = Received(version, self.headers.get(ATTRIBUTES, ""), body, self.headers["Host"])
            if server.drops:
                server.received.append(request)
                self.close_connection = True
            else:
                respond(self, *server.answer(request))

    with serving(Handler) as server.url:
        yield server


@dataclass(eq=False)
class Promoter:
    """What gateways are told, None while there is no champion, and their reports in order."""

    url: str = ""
    routes: Routes | None = None
    reports: list[Report] = field(default_factory=list)

    def tell(self, servers: list[ModelServer], trial: Trial | None = None) -> None:
        """Publish, and wait until a gateway has taken it over."""
        routes = Routes(servers=tuple(server.url for server in servers), champion=CHAMPION, trial=trial)
        if self.routes == routes:
            return
        self.routes = routes
        heard = len(self.reports)
        wait_for(lambda: len(self.reports) >= heard + 2)

    def comparison(self) -> Comparison:
        """The comparison in the report after the next."""
        heard = len(self.reports)
        wait_for(lambda: len(self.reports) >= heard + 2)
        comparison = self.reports[-1].comparison
        assert comparison is not None
        return comparison


@contextmanager
def promoter_door() -> Iterator[Promoter]:
    promoter = Promoter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            routes = promoter.routes
            respond(self, *((200, json.loads(ROUTES.dump_json(routes))) if routes else (404, {"message": "none"})))
            promoter.reports.append(REPORT.validate_json(body))

    with serving(Handler) as promoter.url:
        yield promoter


@contextmanager
def model_servers(number: int) -> Iterator[list[ModelServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(model_server()) for _ in range(number)]


def respond(handler: BaseHTTPRequestHandler, status: int, content: object) -> None:
    """Send ``content``, bytes as they are and all else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Poll until ``condition()``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
