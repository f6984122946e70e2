"""Settings that several services share: each is defined once, and their classes inherit it."""

from pathlib import Path

from pydantic import Field

from serve.settings import BaseAddress, FolderOrBucket, Settings, WebAddress


class MlflowSettings(Settings):
    """Where runs and versions are."""

    tracking_uri: str = Field(
        default="http://127.0.0.1:5000",
        validation_alias="MLFLOW_TRACKING_URI",
        description="address of the MLflow server",
    )


class InferenceSettings(Settings):
    """Where answers come from."""

    inference_url: BaseAddress = Field(
        default="http://127.0.0.1:8080", description="address of TorchServe's inference API"
    )


class TlsHostSettings(Settings):
    """Where the TLS proxy is reached."""

    tls_host: str = Field(
        default="localhost",
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$",
        description="name at which the TLS proxy is reached; any but localhost needs API keys",
    )


class StoreSettings(Settings):
    """Which S3 store buckets are in."""

    s3_endpoint: WebAddress | None = Field(
        default=None, description="address of an S3 store other than AWS's", examples=["https://s3.example.com"]
    )


class CaptureSettings(StoreSettings):
    """Where captured answers are."""

    capture: FolderOrBucket = Field(default="var/capture", description="data capture: a folder, or s3://bucket/prefix")


class RecountPlaceSettings(Settings):
    """Where recounts are."""

    recounts: FolderOrBucket | None = Field(
        default=None,
        description="recounts, bins that wait and what people counted: a folder, or s3://bucket/prefix; off without",
        examples=["s3://bins/recounts"],
    )


class RecountSettings(RecountPlaceSettings):
    """Where recounts are, and which bins are recounted whatever their verdict."""

    recount_random: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="the share of all checked bins that is recounted whatever their verdict, to measure without bias",
    )


class StateSettings(Settings):
    """The folder of what has to outlive a process."""

    state: Path = Field(
        default=Path("var"), description="folder of local state: prepared photos, checkpoints, keys, locks"
    )


class VerifySettings(StateSettings):
    """Which keys are trusted."""

    verify_key: Path | None = Field(
        default=None, description="public keys whose archives are accepted: a file or a folder; without, STATE/keys"
    )


class RevisionSettings(Settings):
    """Which code runs."""

    revision: str = Field(
        default="",
        description="git revision that runs are logged with where there is no .git, as in an image",
        examples=["1f0c2d9"],
    )


class AlertSettings(Settings):
    """Who is notified of alerts."""

    alert_webhook: WebAddress | None = Field(
        default=None,
        description="address that gets a JSON POST when an alert starts and when it ends",
        examples=["https://hooks.example.com/bins"],
    )
