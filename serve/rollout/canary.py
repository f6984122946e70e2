"""The canary: golden photos, whose answers must be those that the archive promises."""

import math
from collections.abc import Iterable
from pathlib import Path

from serve.archives.archive import golden_photos, manifest_of
from serve.errors import CanaryError, PhotoError, RefusedError
from serve.rollout.torchserve_client import Inference


def check_all(inference: Inference, path: Path, version: str) -> None:
    """Ask ``version`` about every golden photo of its archive. Raises CanaryError where an answer is off."""
    photos = golden_photos(path)
    if not photos:
        raise CanaryError(f"the archive of version {version} has no golden photo to check it with")
    for number in range(len(photos)):
        try:
            check_one(inference, path, version, number, version)
        except RefusedError as error:
            raise CanaryError(f"version {version} does not answer golden photo {number}: {error}") from error


def check_one(
    inference: Inference, path: Path, version: str, number: int, addressed_version: str | None = None
) -> None:
    """Ask about golden photo ``number`` (modulo how many there are).

    The request goes to ``addressed_version``, or to the default version. Raises CanaryError where the answer is not the
    one that the archive of ``version`` promises for the form of the network that gave it, ServerError where there is
    none.
    """
    manifest, photos = manifest_of(path), golden_photos(path)
    number %= len(photos)
    try:
        answer = inference.predict(photos[number][0], addressed_version, probe=True)
    except PhotoError as error:
        raise CanaryError(f"version {version} cannot read golden photo {number}: {error}") from error
    try:
        probabilities = answer["probabilities"].values()
        promised = manifest.accepted_answers(number, str(answer.get("form", "")))
        off = min((_largest_difference(probabilities, accepted) for accepted in promised), default=math.inf)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CanaryError(f"version {version} answers golden photo {number} with {answer!r:.200}") from error
    if not off <= manifest.tolerance or answer.get("model_version") != version:
        raise CanaryError(
            f"version {version} answers golden photo {number} with probabilities {off:.3f} off "
            f"(at most {manifest.tolerance} allowed), as version {answer.get('model_version')}"
        )


def _largest_difference(probabilities: Iterable[float], expected: Iterable[float]) -> float:
    differences = [abs(a - b) for a, b in zip(probabilities, expected, strict=True)]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf
