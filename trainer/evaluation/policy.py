"""What the gate demands: a rule for accuracy, and guards that can each be switched off.

    --policy significant     BINWATCH_GATE_POLICY     a higher accuracy, by more than luck (the default)
    --policy greater                                  any higher accuracy, as in the report (docs/background.md)

and one option and variable for each number of ``GatePolicy``; ``off`` switches a guard off.
"""

from enum import StrEnum

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from serve import verdict
from serve.settings import FloatOrOff, Settings

UNDEPLOYED_ACCURACY = 0.1
"""The accuracy that a first challenger is compared with, as no champion is deployed."""


class Rule(StrEnum):
    """What makes a challenger better than the champion."""

    GREATER = "greater"
    SIGNIFICANT = "significant"


GREATER, SIGNIFICANT = Rule.GREATER, Rule.SIGNIFICANT


class GatePolicy(Settings):
    """The limits of the gate. Guards, None where off, say how much may get worse compared with the champion, unless
    luck explains it.

    The default of ``min_effect`` is as much as the int8 form of a model may lose (``trainer/training/quantise.py``).
    False alarms are counted above the champion's share or above ``alpha``, whichever is more, both by the photo alone
    and with a record's products.
    """

    model_config = SettingsConfigDict(env_prefix="BINWATCH_GATE_", extra="ignore")  # decisions of later versions

    rule: Rule = Field(
        default=SIGNIFICANT,
        validation_alias="BINWATCH_GATE_POLICY",
        description="when a challenger is better: its accuracy is greater, or greater by more than luck",
        json_schema_extra={"option": "policy"},
    )
    level: float = Field(
        default=0.05, ge=1e-6, le=0.49, description="the share of equally good challengers that luck may promote"
    )
    min_effect: float = Field(
        default=0.005, ge=0, le=1, description="the smallest gain in accuracy that is worth a promotion"
    )
    guard_level: float = Field(default=0.01, ge=0.001, le=0.49, description="how often luck alone may trip a guard")
    max_class_loss: FloatOrOff = Field(
        default=0.1, ge=0, le=1, description="guard: how much accuracy and F1 one count may lose"
    )
    max_calibration_rise: FloatOrOff = Field(
        default=0.05, ge=0, le=1, description="guard: by how much the calibration error may rise"
    )
    max_rmse_rise: FloatOrOff = Field(
        default=0.05, ge=0, le=1000, description="guard: by how many objects the RMSE may rise"
    )
    max_false_alarm_rise: FloatOrOff = Field(
        default=0.05, ge=0, le=1, description="guard: by how much the share of false alarms may rise"
    )
    max_record_loss: FloatOrOff = Field(
        default=0.05, ge=0, le=1, description="guard: by how much the share of wrong records caught may fall"
    )
    max_latency_factor: FloatOrOff = Field(
        default=3.0,
        ge=1,
        le=1000,
        description="guard: how many times the champion's milliseconds per photo are allowed",
    )
    max_archive_mb: FloatOrOff = Field(
        default=1500.0, ge=1, le=100_000, description="guard: the largest size of an archive, in 10^6 bytes"
    )
    alpha: float = Field(
        default=verdict.ALPHA,
        ge=verdict.MIN_ALPHA,
        le=1,
        validation_alias="BINWATCH_ALPHA",
        description="the share of right records that may raise the alarm",
    )

    def without_guards(self) -> "GatePolicy":
        """The rule for accuracy alone."""
        return self.model_copy(update=dict.fromkeys(GUARDS))


GUARDS = tuple(name for name in GatePolicy.model_fields if name.startswith("max_"))
DEFAULT = GatePolicy()
