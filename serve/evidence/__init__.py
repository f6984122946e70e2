"""What else than the photo is evidence for or against a record: its products, their sizes and weights, a scale.

Travels in an archive, as ``serve/*.py`` does.
"""

from collections.abc import Mapping
from enum import StrEnum


class Evidence(StrEnum):
    """On what a verdict rests, as answers spell it."""

    PHOTO = "photo"
    PHOTO_PRODUCTS = "photo+products"
    PHOTO_WEIGHT = "photo+weight"
    PHOTO_PRODUCTS_WEIGHT = "photo+products+weight"

    @classmethod
    def of(cls, answer: Mapping[str, object]) -> "Evidence":
        """On what the verdict of an answer rests: the photo, where the answer says nothing that is known here."""
        name = answer.get("evidence")
        return cls(name) if isinstance(name, str) and name in tuple(cls) else cls.PHOTO

    @property
    def and_weight(self) -> "Evidence":
        """The same together with a scale."""
        return self if self.endswith("weight") else Evidence(f"{self}+weight")
