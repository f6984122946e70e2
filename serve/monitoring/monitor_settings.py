"""All settings of the monitor."""

from pathlib import Path

from pydantic import Field

from serve.monitoring.drift import Thresholds
from serve.settings.common import AlertSettings, CaptureSettings, MlflowSettings


class MonitorSettings(MlflowSettings, CaptureSettings, AlertSettings):
    """What scripts/monitor.py reads from the environment."""

    monitoring: Path = Field(
        default=Path("var/monitoring"),
        description="folder that monitoring.json and history.json are written to",
        json_schema_extra={"option": "out"},
    )
    thresholds: Thresholds = Thresholds()
