"""Tells schemathesis what photos look like: whole ones, cut off ones, and ones with some bytes changed.

SCHEMATHESIS_HOOKS=tests.integration.photos_to_fuzz schemathesis run URL
"""

import io
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from serve.gateway.health import drawn_png


def mutated(photo: bytes) -> st.SearchStrategy[bytes]:
    """``photo`` with up to eight bytes changed, whole or cut off."""

    def change(edits: list[tuple[int, int]], length: int) -> bytes:
        data = bytearray(photo)
        for at, value in edits:
            data[at] = value
        return bytes(data[:length])

    edits = st.lists(st.tuples(st.integers(0, len(photo) - 1), st.integers(0, 255)), max_size=8)
    return st.builds(change, edits, st.sampled_from([len(photo)] * 4 + [len(photo) // 2, 100, 1, 0]))


def jpeg() -> bytes:
    """The drawn photo as a JPEG."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(drawn_png())) as image:
        image.save(out, "JPEG")
    return out.getvalue()


@schemathesis.hook
def filter_body(_: schemathesis.HookContext, body: Any) -> bool:
    """Not what is called wrong, but is right.

    No part of a form is made of None, [] or {}: what is sent then is another form, perhaps a right one. And 3.0, in
    place of null, is an integer to JSON Schema (draft 2020-12, 4.2.3).
    """
    if not isinstance(body, dict):
        return True
    empty = "photo" in body and any(each in (None, [], {}) for each in body.values())
    quantity = body.get("expected_quantity")
    return not empty and not (isinstance(quantity, float) and quantity.is_integer())


schemathesis.openapi.media_type("image/jpeg", mutated(jpeg()))
schemathesis.openapi.media_type("image/png", mutated(drawn_png()))
schemathesis.openapi.media_type("application/octet-stream", st.binary(max_size=200) | mutated(jpeg()))
