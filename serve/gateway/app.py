"""Puts the parts of the gateway together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve.gateway import routes, static, upstream
from serve.gateway.feedback import GroundTruth
from serve.gateway.health import Health
from serve.gateway.keys import Keys
from serve.gateway.metrics import Metrics
from serve.gateway.middleware import Edge
from serve.gateway.parsing import bad_fields
from serve.gateway.schemas import Refusal, response
from serve.gateway.settings import Settings
from serve.gateway.upstream import TorchServe

_KINDS = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed"}


def create(settings: Settings) -> FastAPI:
    """The gateway with these settings. Raises SettingsError for keys that cannot be read."""
    keys = Keys(settings.keys)
    page = static.router()
    paths = [
        each.path for router in (routes.api, routes.alive, page) for each in router.routes if isinstance(each, APIRoute)
    ]
    metrics = Metrics(frozenset(paths))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with upstream.client(settings) as http:
            torchserve = TorchServe(http, settings.timeout_s, metrics)
            health, truth = Health(torchserve, settings.timeout_s), GroundTruth(settings.capture)
            app.state.parts = routes.Parts(torchserve, health, truth, metrics, settings.monitoring)
            yield

    app = FastAPI(
        title="binwatch",
        version="1",
        summary="Counts the objects in bin photos and compares them with the record.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in (routes.api, routes.alive, page):
        app.include_router(router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_here)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Edge, settings=settings, keys=keys, metrics=metrics)
    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return response(error)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _KINDS.get(error.status_code, "BadRequest")
    message = f"{request.method} {request.url.path[:100]}: {error.detail}; /openapi.json lists what there is"
    return response(Refusal(error.status_code, kind, message, error.headers))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response(bad_fields(error.errors()))


async def _broken(_: Request, error: Exception) -> Response:
    """A fault of ours: uvicorn's log has the traceback, the client does not."""
    message = f"the gateway failed ({type(error).__name__}); its log says why"
    return response(Refusal(500, "Internal", message))
