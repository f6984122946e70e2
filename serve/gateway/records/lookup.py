"""Finds the record of a bin. Sources block, so they run in a few threads, each with a limit on its time."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from serve.gateway.records.bin_record import BinRecord
from serve.gateway.records.location import BIN_ID, is_database
from serve.gateway.records.record_fields import Fields, present_fields
from serve.gateway.records.record_files import RecordFiles
from serve.gateway.refusal import Refusal
from serve.gateway.settings import GatewaySettings

QUERY_S, WAIT_S = 3.0, 5.0
"""Seconds for a query, and for a record with all waiting; less where BINWATCH_TIMEOUT_S is."""
THREADS = 4
"""Lookups at the same time, and connections to a database."""
_REPLACED = frozenset({"expected_quantity", "record", "products"})


class Source(Protocol):
    """Where records are."""

    def find(self, bin_id: str) -> BinRecord | None:
        """The record of a bin, None where there is none. Raises Refusal where that cannot be said."""

    def close(self) -> None:
        """Release connections."""


class RecordLookup:
    """Records by the ids of their bins. ``source``: None where BINWATCH_RECORDS is not set."""

    def __init__(self, source: Source | None, wait_s: float = WAIT_S) -> None:
        self._source, self._wait_s = source, wait_s
        self._threads = ThreadPoolExecutor(THREADS, "records")

    @property
    def configured(self) -> bool:
        """Whether there are records to look up."""
        return self._source is not None

    async def find_instead(self, fields: Fields) -> BinRecord:
        """The record of the bin that ``fields`` names, in place of all that says what it holds. Raises Refusal."""
        repeated = sorted(present_fields(fields).keys() & _REPLACED)
        if repeated:
            message = f"bin_id is {fields.bin_id!r}, and there is {' and '.join(repeated)} too; give one of them"
            raise Refusal(422, "BadField", message)
        return await self.find(fields.bin_id or "")

    async def find(self, bin_id: str) -> BinRecord:
        """The record of a bin. Raises Refusal."""
        if self._source is None:
            message = "records are not looked up here; set BINWATCH_RECORDS to a folder, a CSV or a database"
            raise Refusal(409, "NoRecords", message)
        if not re.fullmatch(BIN_ID, bin_id):
            message = f"bin_id is {bin_id[:80]!r}; give 1 to 64 letters, digits or any of _ . : - (no dot in front)"
            raise Refusal(422, "BadField", message)
        try:
            async with asyncio.timeout(self._wait_s):
                record = await asyncio.get_running_loop().run_in_executor(self._threads, self._source.find, bin_id)
        except TimeoutError as error:
            message = f"the record of bin {bin_id} was not found within {self._wait_s:g} s; try again"
            raise Refusal(504, "RecordsTimeout", message) from error
        if record is None:
            raise Refusal(404, "NoSuchBin", f"there is no record of bin {bin_id}; is the id right?")
        return record

    def close(self) -> None:
        """Release threads and connections; what is being looked up is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._source is not None:
            self._source.close()


def open_records(settings: GatewaySettings) -> RecordLookup:
    """The records that the settings name. Raises SettingsError for an address that SQLAlchemy cannot read."""
    wait_s = min(WAIT_S, settings.timeout_s)
    if not settings.records:
        return RecordLookup(None)
    if not is_database(settings.records):
        return RecordLookup(RecordFiles(Path(settings.records)), wait_s)
    from serve.gateway.records.record_query import RecordQuery  # needs SQLAlchemy, half a second to import

    query_s = min(QUERY_S, settings.timeout_s)
    return RecordLookup(RecordQuery(settings.records, settings.records_query, query_s, THREADS), wait_s)
