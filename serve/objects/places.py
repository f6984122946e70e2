"""Which store of objects a place names."""

from pathlib import Path

from serve.objects.bucket_objects import BucketObjects
from serve.objects.folder_objects import FolderObjects
from serve.objects.object_store import MAX_DISK_USE, ObjectStore


def open_objects(place: str, endpoint_url: str | None = None, max_disk_use: float = MAX_DISK_USE) -> ObjectStore:
    """The store that ``place`` names: a folder, or ``s3://bucket/prefix`` at ``endpoint_url`` or AWS.

    ``max_disk_use``: how full the disk of a folder may be (0-1).
    """
    if place.startswith("s3://"):
        return BucketObjects(place, endpoint_url)
    return FolderObjects(Path(place), max_disk_use)
