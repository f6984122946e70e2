"""The routes below /recounts: what waits, the next bin and its photo, what was found, undo.

The store is read and written in threads, since both block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as PathParameter
from starlette.concurrency import run_in_threadpool

from serve.errors import DataError, RequestError, UnavailableError, sentence
from serve.evidence.fields import MAX_STATION
from serve.gateway import parsing
from serve.gateway.keys import RECOUNT
from serve.gateway.recounts.recount_schemas import (
    NextBin,
    RecountInput,
    RecountProgress,
    SettledBin,
    WaitingBin,
    progress_json,
    settled_bin,
    waiting_bin,
)
from serve.gateway.routes import SECURED, ServicesDep, key_name
from serve.gateway.schemas import Refusal, error_responses, json_response, retry_later
from serve.recount.queue_store import RecountStore
from serve.recount.recount_entities import EVENT_ID, Outcome
from serve.recount.recount_progress import progress_of

DAY = r"^\d{4}-\d{2}-\d{2}$"
CLIENT = "^[A-Za-z0-9_-]{1,64}$"
AWAY_S = 5
"""After so many seconds a client asks again, while a bucket does not answer."""
PNG_MAGIC = b"\x89PNG"
Result = TypeVar("Result")

api = APIRouter(dependencies=SECURED)


@dataclass(frozen=True)
class Recounter:
    """Who counts, by the name of the API key, empty where none is needed; and the store of the recounts."""

    name: str
    store: RecountStore

    def client(self, window: str) -> str:
        """The holder of leases: of several people with the same key each has a ``window`` of their own."""
        return f"{self.name}/{window}"


def get_recounter(request: Request, services: ServicesDep) -> Recounter:
    """Raises Refusal where the key has not the right, or where there are no recounts."""
    name = key_name(request)
    if services.keys.required() and not services.keys.may(name, RECOUNT):
        message = f"the API key {name!r} may not recount; add one that may, with `scripts/api_key.py add NAME --may"
        raise Refusal(403, "NoRight", f"{message} {RECOUNT}`, on the gateway's machine")
    return Recounter(name, services.recounts.store)


RecounterDep = Annotated[Recounter, Depends(get_recounter)]
EventInPath = Annotated[str, PathParameter(pattern=EVENT_ID, description="event_id of the answer")]
StationFilter = Annotated[str, Query(max_length=MAX_STATION, description="only bins of this station")]
DayFilter = Annotated[str, Query(pattern=DAY, description="only bins of this day in UTC, yyyy-mm-dd")]
WindowInQuery = Annotated[str, Query(pattern=CLIENT, description="tells apart those who count with the same key")]


async def in_thread(call: Callable[[], Result]) -> Result:
    """The result of a call that reads or writes the store. Raises Refusal."""
    try:
        return await run_in_threadpool(call)
    except RequestError as error:
        raise Refusal(error.status, error.kind, str(error)) from error
    except UnavailableError as error:
        raise retry_later("StoreAway", f"the recounts cannot be reached: {sentence(error)}", AWAY_S) from error
    except (DataError, OSError) as error:
        raise retry_later("NoRoom", f"the store of the recounts fails: {sentence(error)}", 60) from error


@api.get(
    "/recounts",
    summary="How far are the recounts?",
    responses={200: {"model": RecountProgress}, **error_responses(409)},
)
async def progress(recounter: RecounterDep, station: StationFilter = "", day: DayFilter | None = None) -> Response:
    """What waits, wrong records found and expected, and what the random share says of records and model."""
    store = recounter.store
    report = await in_thread(lambda: progress_of(store.pending(), store.settled(), station, day or ""))
    return json_response(progress_json(report))


@api.get(
    "/recounts/next",
    summary="Which bin is to be recounted next?",
    responses={200: {"model": NextBin}, **error_responses(409)},
)
async def next_bin(
    recounter: RecounterDep,
    station: StationFilter = "",
    day: DayFilter | None = None,
    client: WindowInQuery = "page",
    shown: Annotated[
        str | None, Query(pattern=EVENT_ID, description="the bin on the screen: its lease is renewed")
    ] = None,
) -> Response:
    """The best bin, leased to this client for 3 minutes: nobody else gets it. Asking again renews the lease."""
    lease = partial(
        recounter.store.lease,
        recounter.client(client),
        datetime.now(UTC),
        station=station,
        day=day or "",
        shown=(shown,) if shown else (),
    )
    candidate = await in_thread(lease)
    pending = await in_thread(lambda: progress_of(recounter.store.pending(), (), station, day or "").pending)
    return json_response({"bin": candidate and waiting_bin(candidate), "pending": pending})


@api.get(
    "/recounts/{event_id}/photo",
    summary="The photo of a bin to recount",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}, "image/png": {}}}, **error_responses(404, 409)},
)
async def photo(recounter: RecounterDep, event_id: EventInPath) -> Response:
    """As it was sent. 404 where it was sent as a link into a bucket that the gateway does not read."""
    content = await in_thread(lambda: recounter.store.photo(event_id))
    if content is None:
        raise Refusal(404, "NoSuchPhoto", f"the photo of event {event_id} was sent as a link; look at it there")
    return Response(content, media_type="image/png" if content.startswith(PNG_MAGIC) else "image/jpeg")


@api.post(
    "/recounts/{event_id}",
    summary="How many objects are really in the bin?",
    status_code=201,
    responses={201: {"model": SettledBin}, **error_responses(400, 404, 408, 409, 415, 422)},
    openapi_extra={
        "requestBody": {"required": True, "content": {parsing.JSON: {"schema": RecountInput.model_json_schema()}}}
    },
)
async def settle(request: Request, services: ServicesDep, recounter: RecounterDep, event_id: EventInPath) -> Response:
    """Settle a bin: a count, or that nobody can tell, or that the photo is bad. The same again changes nothing."""
    content = await parsing.parse_json(request, RecountInput)
    outcome, now = Outcome(content.outcome), datetime.now(UTC)
    recount = await in_thread(lambda: recounter.store.settle(event_id, outcome, content.count, recounter.name, now))
    services.metrics.recount(outcome)
    return json_response(settled_bin(recount), 201)


@api.delete(
    "/recounts/{event_id}",
    summary="Undo a recount",
    responses={200: {"model": WaitingBin}, **error_responses(404, 409)},
)
async def undo(recounter: RecounterDep, event_id: EventInPath, client: WindowInQuery = "page") -> Response:
    """The bin waits again, leased to this client; its label is gone."""
    now = datetime.now(UTC)
    candidate = await in_thread(lambda: recounter.store.undo(event_id, recounter.client(client), now))
    return json_response(waiting_bin(candidate))
