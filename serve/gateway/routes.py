"""The gateway's endpoints."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi import Path as PathParameter
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool

from serve.errors import DataError
from serve.evidence import Evidence
from serve.evidence.fields import MAX_STATION
from serve.gateway import parsing, upstream
from serve.gateway.feedback import GroundTruth
from serve.gateway.health import Health
from serve.gateway.keys import RECOUNT, Keys
from serve.gateway.metrics import Metrics
from serve.gateway.middleware import KEY_NAME
from serve.gateway.records.location import BIN_ID
from serve.gateway.records.lookup import RecordLookup
from serve.gateway.records.record_fields import STATION_TEXT, UNIT, Fields, StationName
from serve.gateway.recounts.intake import RecountIntake
from serve.gateway.schemas import (
    MAX_QUANTITY,
    Alive,
    Answer,
    Feedback,
    Healthy,
    RecordOfBin,
    RecordsConfigured,
    Refusal,
    Verified,
    error_responses,
    json_response,
)
from serve.gateway.upstream import TorchServe
from serve.objects.object_store import ObjectStore

MONITORING, HISTORY = "monitoring.json", "history.json"
PHOTO_ERRORS = (400, 404, 408, 415, 422, 502, 504)
"""Statuses of requests with a photo, besides those that every route has."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes use, created when the process starts. ``monitoring``: place of the monitoring's files."""

    torchserve: TorchServe
    health: Health
    ground_truth: GroundTruth
    records: RecordLookup
    recounts: RecountIntake
    keys: Keys
    metrics: Metrics
    monitoring: ObjectStore | None


def get_services(request: Request) -> Services:
    """The services of the running application."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
BinInPath = Annotated[str, PathParameter(description="the bin's id", json_schema_extra={"pattern": BIN_ID})]
StationInQuery = Annotated[StationName | None, Query(min_length=1, max_length=MAX_STATION, description=STATION_TEXT)]
AttentionInQuery = Annotated[bool | None, Query(description="whether to show where the model looked")]
# AdmissionMiddleware checks the keys; these only declare them in the OpenAPI document.
SECURED = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="X-API-Key", auto_error=False))]
api = APIRouter(dependencies=SECURED)
public = APIRouter()


def query_fields(
    expected_quantity: Annotated[int | None, Query(ge=0, le=MAX_QUANTITY, description="the recorded quantity")] = None,
    weight: Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="of the bin's contents")] = None,
    expected_weight: Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="recorded weight")] = None,
    weight_unit: Annotated[str | None, Query(pattern=UNIT, description="kg, g, lb or oz")] = None,
    attention: AttentionInQuery = None,
    station: StationInQuery = None,
) -> Fields:
    """The fields in the query; fields in the body take precedence."""
    return Fields(
        expected_quantity=expected_quantity,
        weight=weight,
        expected_weight=expected_weight,
        weight_unit=weight_unit,
        attention=attention,
        station=station,
    )


def key_name(request: Request) -> str:
    """The name of the request's API key; empty if it needs none."""
    return str(request.scope.get(KEY_NAME, ""))


@api.post(
    "/verify",
    summary="Does a photo agree with the record?",
    responses={200: {"model": Verified}, **error_responses(*PHOTO_ERRORS, 409)},
    openapi_extra=parsing.body_schema(parsing.VERIFY),
)
async def verify(
    request: Request,
    services: ServicesDep,
    query: Annotated[Fields, Depends(query_fields)],
    bin_id: Annotated[str | None, Query(pattern=BIN_ID, description="of the bin whose record is meant")] = None,
) -> Response:
    """Send a photo, or a link to one in S3, and the recorded quantity or the bin's id, in the body or in the query."""
    model_request = await parsing.parse_photo(request, parsing.VERIFY, query.model_copy(update={"bin_id": bin_id}))
    model_request = parsing.with_station(model_request, key_name(request))
    bin_id = model_request.fields.bin_id
    bin_record = None if bin_id is None else await services.records.find_instead(model_request.fields)
    if bin_record is not None:
        fields = model_request.fields.model_copy(update={"bin_id": None, **bin_record.fields})
        model_request = replace(model_request, fields=fields)
    answer = await services.torchserve.predict(parsing.with_record(model_request))
    if "evidence" not in answer:  # from an archive that was exported before there was more than one kind
        answer["evidence"] = Evidence.PHOTO_WEIGHT if "weight" in answer else Evidence.PHOTO
    services.metrics.verdict(answer)
    services.recounts.offer(model_request, answer, bin_id)
    if bin_record is not None:
        answer |= {"bin_id": bin_id, "record": bin_record.to_json()}
    return json_response(answer)


@api.get(
    "/records",
    summary="Are records looked up?",
    responses={200: {"model": RecordsConfigured}, **error_responses()},
)
async def records(services: ServicesDep) -> Response:
    """Whether ``BINWATCH_RECORDS`` is set, so that a bin's id can be given in place of the recorded quantity."""
    return json_response({"configured": services.records.configured})


@api.get(
    "/records/{bin_id}",
    summary="What does a bin hold, by its record?",
    responses={200: {"model": RecordOfBin}, **error_responses(404, 409, 502, 504)},
)
async def record(services: ServicesDep, bin_id: BinInPath) -> Response:
    """The record of a bin from ``BINWATCH_RECORDS``: its products with quantity, sides in cm and weight in kg."""
    bin_record = await services.records.find(bin_id)
    return json_response({"bin_id": bin_id, "record": bin_record.to_json()})


@api.post(
    "/predict",
    summary="How many objects does a photo show?",
    responses={200: {"model": Answer}, **error_responses(*PHOTO_ERRORS)},
    openapi_extra=parsing.body_schema(parsing.PREDICT),
)
async def predict(
    request: Request, services: ServicesDep, attention: AttentionInQuery = None, station: StationInQuery = None
) -> Response:
    """Send a photo, or a link to one in S3, without a recorded quantity."""
    query = Fields(attention=attention, station=station)
    model_request = await parsing.parse_photo(request, parsing.PREDICT, query)
    return json_response(await services.torchserve.predict(parsing.with_station(model_request, key_name(request))))


@api.api_route(upstream.PATH, methods=["POST", "PUT"], include_in_schema=False)  # PUT: curl -T
async def predictions(request: Request, services: ServicesDep) -> Response:
    """TorchServe's own route, with all its formats, behind the gateway's admission control."""
    model_request = parsing.with_station(await parsing.parse_any(request), key_name(request))
    answer = await services.torchserve.predict_any(model_request)
    return Response(answer, media_type=parsing.JSON)


@api.api_route("/invocations", methods=["POST", "PUT"], include_in_schema=False)
async def invocations(
    request: Request,
    services: ServicesDep,
    query: Annotated[Fields, Depends(query_fields)],
    model_name: Literal["bin-counter"] = "bin-counter",  # noqa: ARG001 - checked, and there is no other
) -> Response:
    """The same as SageMaker has it, where TorchServe reads the fields in the query, too."""
    model_request = parsing.with_station(replace(await parsing.parse_any(request), fields=query), key_name(request))
    return Response(await services.torchserve.predict_any(model_request), media_type=parsing.JSON)


@api.post(
    "/feedback",
    summary="How many objects were in the bin?",
    status_code=201,
    responses={201: {"model": Feedback}, **error_responses(400, 408, 409, 415, 422)},
    openapi_extra={
        "requestBody": {"required": True, "content": {parsing.JSON: {"schema": Feedback.model_json_schema()}}}
    },
)
async def feedback(request: Request, services: ServicesDep) -> Response:
    """Send the manual count for the answer with that event_id; it may arrive days later."""
    content = await parsing.parse_json(request, Feedback)
    await run_in_threadpool(services.ground_truth.append, UUID(content.event_id), content.count, datetime.now(UTC))
    services.metrics.feedback()
    name = key_name(request)
    if not services.keys.required() or services.keys.may(name, RECOUNT):
        await run_in_threadpool(services.recounts.settle_from_feedback, content.event_id, content.count, name)
    return json_response(content.model_dump(), 201)


@api.get("/healthz", summary="Does the champion answer?", responses={200: {"model": Healthy}, **error_responses()})
async def healthz(services: ServicesDep) -> Response:
    """Healthy if the model answers a prediction of a tiny generated photo; the result is cached for 3 s."""
    return json_response({"status": "ok", "model_version": await services.health.version()})


@api.get("/ping", include_in_schema=False)
async def ping(services: ServicesDep) -> Response:
    """``/healthz`` in TorchServe's words, for those who ask it there."""
    await services.health.version()
    return json_response({"status": "Healthy"})


@api.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **error_responses()},
)
def metrics(services: ServicesDep) -> Response:
    """Requests by route and status, durations, verdicts, errors of TorchServe, and what the monitoring reports."""
    return Response(services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@api.get(
    "/monitoring",
    summary="The monitoring report",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **error_responses(404)},
)
def monitoring(services: ServicesDep) -> Response:
    """The latest report of scripts/monitor.py: confidence, counts, verdicts, latency, drift, accuracy, alerts."""
    return json_response(read_monitoring_file(services.monitoring, MONITORING, "Monitoring"))


@api.get(
    "/history",
    summary="Which model served when, and what the pipeline did",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **error_responses(404)},
)
def history(services: ServicesDep) -> Response:
    """The latest history from scripts/monitor.py: when each version served, and executions with their steps."""
    return json_response(read_monitoring_file(services.monitoring, HISTORY, "History"))


@public.get("/livez", summary="Does the gateway run?", responses={200: {"model": Alive}, **error_responses()})
async def livez() -> Response:
    """Whether this process answers, without checking anything else."""
    return json_response({"status": "ok"})


def read_monitoring_file(objects: ObjectStore | None, name: str, kind: str) -> dict[str, object]:
    """The JSON object in a file of the monitoring. ``kind``: used in the type of errors. Raises Refusal."""
    fix = "run `python scripts/monitor.py`, which reads the data capture"
    if objects is None:
        raise Refusal(404, f"No{kind}", f"BINWATCH_MONITORING is not set; set it to a folder or bucket and {fix}")
    try:
        stored = objects.read(name)
        if stored is None:
            raise Refusal(404, f"No{kind}", f"there is no {name} yet; {fix}")
        content = json.loads(stored.content)
        if not isinstance(content, dict):
            raise ValueError(f"it contains {type(content).__name__}, not an object")
        return content
    except (OSError, DataError, ValueError, RecursionError) as error:
        message = f"{name} cannot be read: {error}; {fix}"
        raise Refusal(503, f"{kind}Unreadable", message, {"Retry-After": "60"}) from error
