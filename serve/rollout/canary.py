"""The canary: golden photos, and the answers that their archive promises."""

from collections.abc import Iterable
from pathlib import Path

from serve.archives.archive import golden_photos, manifest_of
from serve.errors import CanaryError, PhotoError, RefusedError
from serve.rollout.torchserve_client import Inference


def check(inference: Inference, path: Path, version: str) -> None:
    """Ask ``version`` about all golden photos of its archive. Raises CanaryError where an answer is off."""
    photos = golden_photos(path)
    if not photos:
        raise CanaryError(f"version {version} has no golden photo to be tried with")
    for number in range(len(photos)):
        try:
            check_one(inference, path, version, number, version)
        except RefusedError as error:
            raise CanaryError(f"version {version} does not answer golden photo {number}: {error}") from error


def check_one(inference: Inference, path: Path, version: str, number: int, asked: str | None = None) -> None:
    """Ask about one golden photo (the first again after the last): the version ``asked``, or the one that answers.

    Raises CanaryError where the answer is not the one that the archive of ``version`` promises, ServerError where there
    is none.
    """
    manifest, photos = manifest_of(path), golden_photos(path)
    number %= len(photos)
    try:
        answer = inference.predict(photos[number][0], asked, probe=True)
    except PhotoError as error:
        raise CanaryError(f"version {version} cannot read golden photo {number}: {error}") from error
    try:
        off = min(_furthest(answer["probabilities"].values(), each) for each in manifest.promised(number))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CanaryError(f"version {version} answers golden photo {number} with {answer!r:.200}") from error
    if off > manifest.tolerance or answer.get("model_version") != version:
        raise CanaryError(
            f"version {version} answers golden photo {number} with probabilities {off:.3f} off "
            f"(at most {manifest.tolerance} allowed), as version {answer.get('model_version')}"
        )


def _furthest(found: Iterable[float], promised: Iterable[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, promised, strict=True))
