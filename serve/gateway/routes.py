"""What is answered at which path."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool

from serve.gateway import parsing
from serve.gateway.feedback import GroundTruth
from serve.gateway.health import Health
from serve.gateway.metrics import Metrics
from serve.gateway.schemas import MAX_QUANTITY, Alive, Answer, Feedback, Healthy, Refusal, Verified, as_json, errors
from serve.gateway.upstream import TorchServe

MONITORING, HISTORY = "monitoring.json", "history.json"
WORKERS = (400, 404, 408, 415, 422, 502, 504)


@dataclass(frozen=True)
class Parts:
    """What the routes work with, for as long as the process lives."""

    torchserve: TorchServe
    health: Health
    ground_truth: GroundTruth
    metrics: Metrics
    monitoring: Path | None


def parts(request: Request) -> Parts:
    """Those of the running process."""
    found: Parts = request.app.state.parts
    return found


Working = Annotated[Parts, Depends(parts)]
# Edge checks the keys; these say so in the OpenAPI document.
SECURED = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="X-API-Key", auto_error=False))]
api = APIRouter(dependencies=SECURED)
alive = APIRouter()


def fields(
    expected_quantity: Annotated[int | None, Query(ge=0, le=MAX_QUANTITY, description="the recorded quantity")] = None,
    weight: Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="of the bin's contents")] = None,
    expected_weight: Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="by the record")] = None,
) -> parsing.Fields:
    """The fields of the query; those of the body, where it can have some, go before them."""
    return parsing.Fields(expected_quantity=expected_quantity, weight=weight, expected_weight=expected_weight)


@api.post(
    "/verify",
    summary="Does a photo agree with the record?",
    responses={200: {"model": Verified}, **errors(*WORKERS)},
    openapi_extra=parsing.body_schema(parsing.VERIFY),
)
async def verify(request: Request, at: Working, query: Annotated[parsing.Fields, Depends(fields)]) -> Response:
    """A photo, or a link to one in S3, and the recorded quantity, in the body or in the query."""
    question = await parsing.question(request, parsing.VERIFY, query)
    if question.fields.expected_quantity is None:
        text = f"expected_quantity, the recorded quantity, is missing; give a whole number from 0 to {MAX_QUANTITY}"
        raise Refusal(422, "BadField", text)
    answer = await at.torchserve.predict(question)
    at.metrics.verdict(str(answer.get("verdict")))
    return as_json(answer)


@api.post(
    "/predict",
    summary="How many objects does a photo show?",
    responses={200: {"model": Answer}, **errors(*WORKERS)},
    openapi_extra=parsing.body_schema(parsing.PREDICT),
)
async def predict(request: Request, at: Working) -> Response:
    """A photo, or a link to one in S3, without a record to compare with."""
    return as_json(await at.torchserve.predict(await parsing.question(request, parsing.PREDICT, parsing.NOTHING)))


@api.post(
    "/feedback",
    summary="What was really in the bin?",
    status_code=201,
    responses={201: {"model": Feedback}, **errors(400, 408, 409, 415, 422)},
    openapi_extra={
        "requestBody": {"required": True, "content": {parsing.JSON: {"schema": Feedback.model_json_schema()}}}
    },
)
async def feedback(request: Request, at: Working) -> Response:
    """The count by hand, for the answer with that event_id; it may come days later."""
    found = await parsing.feedback(request)
    await run_in_threadpool(at.ground_truth.append, UUID(found.event_id), found.count, datetime.now(UTC))
    at.metrics.feedback()
    return as_json(found.model_dump(), 201)


@api.get("/healthz", summary="Does the champion answer?", responses={200: {"model": Healthy}, **errors()})
async def healthz(at: Working) -> Response:
    """Healthy when a real prediction of a tiny drawn photo came back; the outcome counts for 3 s."""
    return as_json({"status": "ok", "model_version": await at.health.version()})


@api.get(
    "/metrics",
    summary="For Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors()},
)
async def metrics(at: Working) -> Response:
    """Requests by route and status, times, verdicts, failures of TorchServe."""
    return Response(at.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@api.get(
    "/monitoring",
    summary="What happened to the model lately",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **errors(404)},
)
def monitoring(at: Working) -> Response:
    """What scripts/monitor.py wrote last: confidence, counts, verdicts, latency, drift, accuracy, alerts."""
    return as_json(written(at.monitoring, MONITORING, "Monitoring"))


@api.get(
    "/history",
    summary="Which model served when, and what the pipeline did",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **errors(404)},
)
def history(at: Working) -> Response:
    """What scripts/monitor.py wrote last: stretches in which a version served, executions with their steps."""
    return as_json(written(at.monitoring, HISTORY, "History"))


@alive.get("/livez", summary="Does the gateway run?", responses={200: {"model": Alive}, **errors()})
async def livez() -> Response:
    """Whether this process answers, and nothing else."""
    return as_json({"status": "ok"})


def written(folder: Path | None, name: str, kind: str) -> dict[str, Any]:
    """The content of a file that the monitoring writes. ``kind``: what an error calls it. Raises Refusal."""
    todo = "run `python scripts/monitor.py`, which reads the data capture"
    if folder is None:
        raise Refusal(404, f"No{kind}", f"BINWATCH_MONITORING names no folder; name one and {todo}")
    try:
        found = json.loads((folder / name).read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}, no object")
        return found
    except FileNotFoundError as error:
        raise Refusal(404, f"No{kind}", f"there is no {name} yet; {todo}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(
            503, f"{kind}Unreadable", f"{name} cannot be read: {error}; {todo}", {"Retry-After": "60"}
        ) from error
