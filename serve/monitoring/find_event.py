"""Finds a captured answer by its event_id, to learn which model version gave it.

python scripts/lineage.py EVENT_ID
"""

from serve.errors import DataError
from serve.monitoring import capture_rows
from serve.monitoring.reader import CaptureSource


def version_of(source: CaptureSource, event_id: str) -> str:
    """The version that gave the answer with this ``event_id``. Raises DataError if no such answer was captured."""
    for file in reversed(source.files(capture_rows.ANSWERS)):
        with source.open(file.name, 0) as lines:
            for line in lines:
                if version := _version(line, event_id):
                    return version
    raise DataError(
        f"no captured answer has the event_id {event_id}; was it sampled, and is --capture the right folder or bucket?"
    )


def _version(line: bytes, event_id: str) -> str:
    """The version if the line is this event's; empty for all other lines."""
    if event_id.encode() not in line:  # parsing every line would be slow
        return ""
    try:
        answer = capture_rows.parse_answer(line)
    except capture_rows.PARSE_ERRORS:
        return ""
    return str(answer.version, "ascii") if answer.event == hash(event_id) else ""
