"""The settings of scripts/check_bins.py that the gateway has, too."""

from pathlib import Path

from pydantic import Field

from serve.settings.common import StoreSettings


class CheckSettings(StoreSettings):
    """Where recounts are, and which bins are recounted whatever their verdict."""

    recounts: Path | None = Field(
        default=None, description="folder of the recounts, whose queue gets the alarms; without, none are put there"
    )
    recount_random: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="the share of all checked bins that is recounted whatever their verdict, to measure without bias",
    )
