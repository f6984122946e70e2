"""All settings of the monitor."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from serve import verdict
from serve.settings import FolderOrBucket, Settings
from serve.settings.common import AlertSettings, CaptureSettings, MlflowSettings, RecountPlaceSettings

ALPHA = verdict.ALPHA
"""What BINWATCH_ALPHA is by default."""


class Thresholds(Settings):
    """When to raise an alert. All but the index are measured over the last ``recent_s`` seconds."""

    model_config = SettingsConfigDict(env_prefix="BINWATCH_ALERT_")

    psi: float = Field(
        default=0.2,
        gt=0,
        description="population stability index of counts, confidence, brightness or sharpness over a day",
    )
    confidence_drop: float = Field(
        default=0.1, gt=0, description="by how much the mean confidence may be below the model's reference"
    )
    mismatch_share: float = Field(
        default=0.25, gt=0, description="share of verdicts that are mismatches, 0-1, while recounts are too few to tell"
    )
    error_share: float = Field(default=0.05, gt=0, description="share of requests without an answer, 0-1")
    latency_p99_ms: float = Field(default=1000.0, gt=0, description="99th percentile of the latency, in milliseconds")
    min_records: int = Field(default=200, gt=0, description="fewer records raise no alert")
    recent_s: float = Field(default=3600.0, gt=0, description="seconds of records that are measured, except for drift")


class MonitorSettings(MlflowSettings, CaptureSettings, RecountPlaceSettings, AlertSettings):
    """What scripts/monitor.py reads from the environment."""

    monitoring: FolderOrBucket = Field(
        default="var/monitoring",
        description="where monitoring.json and history.json are written: a folder, or s3://bucket/prefix",
        json_schema_extra={"option": "out"},
    )
    alpha: float = Field(
        default=ALPHA, ge=verdict.MIN_ALPHA, le=1, description="the share of right records that may raise the alarm"
    )
    thresholds: Thresholds = Thresholds()
