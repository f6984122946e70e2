"""Builds the gateway's FastAPI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from serve.gateway import routes, static
from serve.gateway.exposition.monitoring_collector import MonitoringCollector
from serve.gateway.feedback import GroundTruth
from serve.gateway.health import Health
from serve.gateway.keys import Keys
from serve.gateway.metrics import Metrics
from serve.gateway.middleware import AdmissionMiddleware
from serve.gateway.parsing import invalid_fields
from serve.gateway.records.lookup import open_records
from serve.gateway.recounts import recount_routes
from serve.gateway.recounts.intake import RecountIntake
from serve.gateway.schemas import Refusal, error_response
from serve.gateway.settings import GatewaySettings
from serve.gateway.upstreams.connection import connect
from serve.objects.places import open_objects

_ERROR_KINDS = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed"}


def create_app(settings: GatewaySettings) -> FastAPI:
    """Build the application. Raises SettingsError for API keys, records or recounts that are unusable."""
    keys, records = Keys(settings.keys), open_records(settings)
    routers = (routes.api, recount_routes.api, routes.public, static.router())
    endpoints = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    metrics = Metrics(frozenset(route.path for route in endpoints))
    recounts = RecountIntake(settings, metrics)
    monitoring = open_objects(settings.monitoring, settings.s3_endpoint) if settings.monitoring else None
    if monitoring:
        metrics.registry.register(MonitoringCollector(monitoring))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ground_truth = GroundTruth(settings.capture, spool=settings.capture_spool, endpoint_url=settings.s3_endpoint)
        async with connect(settings, metrics) as torchserve:
            app.state.services = routes.Services(
                torchserve=torchserve,
                health=Health(torchserve, settings.timeout_s),
                ground_truth=ground_truth,
                records=records,
                recounts=recounts,
                keys=keys,
                metrics=metrics,
                monitoring=monitoring,
            )
            yield
        ground_truth.close()
        records.close()
        recounts.close()

    app = FastAPI(
        title="binwatch",
        version="1",
        summary="Counts the objects in bin photos and compares them with the record.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.endpoints = endpoints
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(Exception, _on_crash)
    app.add_middleware(AdmissionMiddleware, settings=settings, keys=keys, metrics=metrics)
    return app


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _ERROR_KINDS.get(error.status_code, "BadRequest")
    message = f"{request.method} {request.url.path[:100]}: {error.detail}; /openapi.json lists the routes"
    methods = _allowed_methods(request) if error.status_code == 405 else ""
    return error_response(Refusal(error.status_code, kind, message, {"Allow": methods} if methods else error.headers))


def _allowed_methods(request: Request) -> str:
    """The methods of a path, which may have a route for each; FastAPI names those of the first route alone."""
    endpoints: list[APIRoute] = request.app.state.endpoints
    path = next((route.path for route in endpoints if route.matches(request.scope)[0] is not Match.NONE), None)
    return ", ".join(sorted({method for route in endpoints if route.path == path for method in route.methods or ()}))


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_fields(error.errors()))


async def _on_crash(_: Request, error: Exception) -> Response:
    """A bug in the gateway: uvicorn logs the traceback, the client does not see it."""
    message = f"the gateway failed ({type(error).__name__}); its log has the traceback"
    return error_response(Refusal(500, "Internal", message))
