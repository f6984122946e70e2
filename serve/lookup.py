"""One answer among those that were captured: which version gave it.

python scripts/lineage.py EVENT_ID
"""

from serve import records
from serve.errors import DataError
from serve.places import Place


def version_of(place: Place, event_id: str) -> str:
    """The version that gave the answer with this ``event_id``. Raises DataError where no such answer was captured."""
    wanted = event_id.encode()
    for file in reversed(place.files(records.ANSWERS)):
        with place.open(file.name, 0) as lines:
            for line in lines:
                # the id comes before the photo, and a photo is base64: no dash in it
                if wanted in line and (version := records.parse_answer(line)[4]):
                    return str(version, "ascii")
    raise DataError(
        f"no captured answer has the event_id {event_id}; was it sampled, and is --capture the right place?"
    )
