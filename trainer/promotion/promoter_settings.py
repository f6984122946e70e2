"""All settings of the promoter."""

from pathlib import Path

from pydantic import Field

from serve.rollout.autoscale import ScalingPolicy
from serve.rollout.probation import ProbationPolicy
from serve.settings import ServerAddress
from serve.settings.common import InferenceSettings, MlflowSettings, VerifySettings
from trainer.evaluation.policy import GatePolicy
from trainer.promotion.fleet.fleet_settings import FleetSettings
from trainer.promotion.rollout_policy import RolloutPolicy


class PromoterSettings(MlflowSettings, InferenceSettings, VerifySettings):
    """What scripts/promote.py reads from the environment."""

    management_url: ServerAddress = Field(
        default="http://127.0.0.1:8081",
        description="address of TorchServe's management API, which only the promoter reaches",
    )
    metrics_url: ServerAddress = Field(
        default="http://127.0.0.1:8082", description="address of TorchServe's metrics API"
    )
    model_store: Path = Field(default=Path("var/models"), description="TorchServe's model store")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="worker processes that a version starts with; unless set, one per core, at most 3",
        examples=[2],
    )
    autoscale: bool = Field(default=False, description="whether the number of workers follows the load")
    scaling: ScalingPolicy = ScalingPolicy()
    probation: ProbationPolicy = ProbationPolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    fleet: FleetSettings = FleetSettings()
    gate: GatePolicy = GatePolicy()
