"""Photos for schemathesis: whole ones, truncated ones, and ones with some bytes changed.

SCHEMATHESIS_HOOKS=tests.integration.photos_to_fuzz schemathesis run URL
"""

import io
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from serve.gateway.health import gradient_png


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
    with Image.open(io.BytesIO(gradient_png())) as image:
        image.save(out, "JPEG")
    return out.getvalue()


@schemathesis.hook
def filter_body(_: schemathesis.HookContext, body: object) -> bool:
    """Drop bodies that are meant to be invalid, but are valid.

    No part of a form is made of None, [] or {}: what is sent then is another form, perhaps a valid one. And 3.0, in
    place of null, is an integer to JSON Schema (draft 2020-12, 4.2.3).
    """
    if not isinstance(body, dict):
        return True
    empty = "photo" in body and any(value in (None, [], {}) for value in body.values())
    quantity = body.get("expected_quantity")
    return not empty and not (isinstance(quantity, float) and quantity.is_integer())


@schemathesis.hook
def before_add_examples(context: schemathesis.HookContext, examples: "list[schemathesis.Case[Any]]") -> None:
    """Ask what clients ask: fields are drawn independently, so that few drawn requests to /verify go together."""
    operation = context.operation
    if operation and operation.path == "/verify":
        query: dict[str, object] = {"expected_quantity": 3}
        examples.append(operation.Case(body=jpeg(), media_type="image/jpeg", query=query))


schemathesis.openapi.media_type("image/jpeg", mutated(jpeg()))
schemathesis.openapi.media_type("image/png", mutated(gradient_png()))
schemathesis.openapi.media_type("application/octet-stream", st.binary(max_size=200) | mutated(jpeg()))
