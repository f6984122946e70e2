"""One answer among those that were captured: which version gave it.

python scripts/lineage.py EVENT_ID
"""

from serve.errors import DataError
from serve.monitoring import records
from serve.monitoring.reader import Place


def version_of(place: Place, event_id: str) -> str:
    """The version that gave the answer with this ``event_id``. Raises DataError where no such answer was captured."""
    for file in reversed(place.files(records.ANSWERS)):
        with place.open(file.name, 0) as lines:
            for line in lines:
                if version := _version(line, event_id):
                    return version
    raise DataError(
        f"no captured answer has the event_id {event_id}; was it sampled, and is --capture the right place?"
    )


def _version(line: bytes, event_id: str) -> str:
    """The version of a line that is this event's; empty for every other line."""
    if event_id.encode() not in line:  # the only ones that are worth parsing
        return ""
    try:
        row = records.parse_answer(line)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return ""  # cut off, or no answer
    return str(row[4], "ascii") if row[1] == hash(event_id) else ""
