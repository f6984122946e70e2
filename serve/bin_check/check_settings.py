"""The settings of scripts/check_bins.py that the gateway has, too."""

from serve.settings.common import RecountSettings, StoreSettings


class CheckSettings(RecountSettings, StoreSettings):
    """Where recounts are, and which store buckets are in."""
