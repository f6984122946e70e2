"""The settings of a promoter of several servers, or with several gateways."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from serve.rollout.instances import InstancePolicy
from serve.settings import BaseAddress, Settings
from trainer.promotion.fleet.server_addresses import parse_servers


def _listen_address(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+:\d{1,5}", text) or int(text.rpartition(":")[2]) not in range(1, 65536):
        raise ValueError("give ADDRESS:PORT, such as 0.0.0.0:8090")
    return text


def _postgresql(text: str) -> str:
    if not re.match(r"postgresql(\+psycopg2)?://", text):
        raise ValueError("give an address that starts with postgresql://")
    return text


class FleetSettings(Settings):
    """All are unset on a single machine with one TorchServe."""

    promoter_listen: Annotated[str, AfterValidator(_listen_address)] | None = Field(
        default=None,
        description="where the promoter tells gateways the routes, and gives servers their archives",
        examples=["0.0.0.0:8090"],
    )
    promoter_url: BaseAddress | None = Field(
        default=None,
        description="address of the promoter where servers fetch archives, as they reach it",
        examples=["http://promoter:8090"],
    )
    promoter_lock: Annotated[str, AfterValidator(_postgresql)] | None = Field(
        default=None,
        description="PostgreSQL database whose lock lets one promoter of several hosts work; without, one host has one",
        examples=["postgresql://promoter@database/binwatch"],
    )
    servers: str | None = Field(
        default=None,
        description="names of the hosts with TorchServe, separated by commas; a name with several addresses is several",
        examples=["tasks.serve"],
    )
    instances: InstancePolicy = InstancePolicy()

    @field_validator("servers")
    @classmethod
    def _servers_that_fetch(cls, servers: str, info: ValidationInfo) -> str:
        parse_servers(servers)
        missing = [name for name in ("promoter_url", "promoter_listen") if not info.data.get(name)]
        if missing:
            raise ValueError(f"set {' and '.join(f'BINWATCH_{name.upper()}' for name in missing)}, too")
        return servers

    @property
    def are_set(self) -> bool:
        """Whether the promoter has more than one TorchServe, gateways to talk to, or another promoter."""
        return bool(self.servers or self.promoter_listen or self.promoter_lock)
