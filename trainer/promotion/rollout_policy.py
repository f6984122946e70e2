"""How a new champion gets its traffic: all at once, in growing shares (canary), or after its answers were compared in
the background (shadow)."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from serve.routing.route_table import TrialMode
from serve.settings import Settings

ALL = "all"
_HINT = "give all, shadow, or canary: and rising percentages that end with 100, such as canary:10,50,100"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a rollout. ``share``: of the photos that the challenger gets, 0-1."""

    mode: TrialMode
    share: float

    def __str__(self) -> str:
        return "shadow" if self.mode == TrialMode.SHADOW else f"{self.share:.3g} of the photos"


def parse_plan(text: str) -> tuple[Stage, ...]:
    """The stages that BINWATCH_ROLLOUT names, none for ``all``. Raises ValueError."""
    if text == ALL:
        return ()
    if text == TrialMode.SHADOW:
        return (Stage(mode=TrialMode.SHADOW, share=1.0),)
    if not re.fullmatch(r"canary:[1-9]\d{0,2}(,[1-9]\d{0,2}){0,9}", text, re.ASCII):
        raise ValueError(_HINT)
    percentages = [int(part) for part in text.removeprefix("canary:").split(",")]
    if percentages != sorted(set(percentages)) or percentages[-1] != 100:
        raise ValueError(_HINT)
    return tuple(Stage(mode=TrialMode.CANARY, share=percentage / 100) for percentage in percentages)


def _checked_plan(text: str) -> str:
    parse_plan(text)
    return text


class RolloutPolicy(Settings):
    """The stages between a challenger's golden photos and its becoming the champion, and what ends a stage."""

    model_config = SettingsConfigDict(env_prefix="BINWATCH_ROLLOUT_")

    plan: Annotated[str, AfterValidator(_checked_plan)] = Field(
        default=ALL,
        validation_alias="BINWATCH_ROLLOUT",
        description="how a new champion gets its traffic: all, canary:10,50,100 (percent of the photos), or shadow",
    )
    photos: int = Field(
        default=400,
        ge=20,
        le=1_000_000,
        description="photos that champion and challenger must both have answered before a stage may end",
    )
    margin: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="by how much the share of photos with another count than the champion's may exceed the expected",
    )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in their order."""
        return parse_plan(self.plan)
