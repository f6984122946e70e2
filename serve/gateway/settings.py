"""All settings of the gateway, which come from the environment alone."""

import ipaddress
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator, model_validator

from serve import links
from serve.environment import web_address
from serve.gateway.keys import Keys
from serve.gateway.records import location
from serve.recount.queue_store import MAX_CANDIDATES
from serve.settings import BaseAddress, FolderOrBucket
from serve.settings.common import InferenceSettings, RecountSettings, StoreSettings, TlsHostSettings

MAX_BODY = 6_500_000
"""Bytes of a request's body; TorchServe's own limit is 6,553,500."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BIND, LISTEN = "BINWATCH_GATEWAY_BIND", "BINWATCH_GATEWAY_LISTEN"
TLS_HOST = "BINWATCH_TLS_HOST"
ADD_KEY = "add one with `python scripts/api_key.py add NAME`, or bind 127.0.0.1"


class GatewaySettings(InferenceSettings, StoreSettings, RecountSettings, TlsHostSettings):
    """What ``python -m serve.gateway`` reads from the environment. Other machines need API keys."""

    inference_url: str = Field(
        default="http://127.0.0.1:8080",
        description="addresses of TorchServe's inference API, separated by commas; a name with several counts as all",
    )
    promoter_url: BaseAddress | None = Field(
        default=None,
        description="address of the promoter where it says which servers and versions answer; without, the champion of "
        "BINWATCH_INFERENCE_URL does",
        examples=["http://promoter:8090"],
    )
    bind: str = Field(
        default="127.0.0.1",
        validation_alias=BIND,
        description="address at which the gateway is reached; any but loopback needs API keys",
    )
    listen: str = Field(
        default="127.0.0.1",
        validation_alias=LISTEN,
        description="address that the process listens on where it is another one, as in a container; alone, it is both",
    )
    port: int = Field(
        default=8000, ge=1, le=65535, validation_alias="BINWATCH_GATEWAY_PORT", description="port of the gateway"
    )
    proxy_socket: Path | None = Field(
        default=None,
        description="socket that the TLS proxy alone reaches; what it forwards of its clients' addresses is trusted",
    )
    extra_hosts: str = Field(
        default="",
        validation_alias="BINWATCH_GATEWAY_HOSTS",
        description="names that requests may use, separated by commas; addresses and localhost always may",
        examples=["bins.example.com"],
    )
    keys: Path | None = Field(
        default=None,
        validate_default=True,
        validation_alias="BINWATCH_API_KEYS",
        description="file with the hashes of the API keys, written by scripts/api_key.py",
    )
    capture: FolderOrBucket = Field(
        default="", description="the data capture, which feedback is added to: a folder, or s3://bucket/prefix"
    )
    capture_spool: Path | None = Field(
        default=None, description="folder in which feedback waits for the bucket; without, a temporary one"
    )
    s3_buckets: str = Field(
        default="",
        description="buckets that a request's links to photos may name, separated by commas; none without",
        examples=["aft-vbi-pds,my-bins"],
    )
    monitoring: FolderOrBucket | None = Field(
        default=None, description="place of monitoring.json and history.json: a folder, or s3://bucket/prefix"
    )
    records: str = Field(
        default="",
        repr=False,
        description="records of bins: a folder of JSON files, a CSV, or a database, postgresql://... or sqlite:////PATH",
        examples=["/srv/bins/records"],
    )
    records_query: str = Field(
        default="",
        validate_default=True,
        description="the query of a database of records, in one line: a SELECT with :bin_id",
        examples=["'SELECT id, name, quantity FROM stock WHERE bin_id = :bin_id'"],
    )
    recount_queue: int = Field(
        default=MAX_CANDIDATES,
        ge=1,
        le=100_000,
        description="bins that wait for a recount; of more, the likeliest stay",
    )
    timeout_s: float = Field(
        default=30.0, ge=0.1, le=3600, description="seconds for one answer, and for one request's body"
    )
    in_flight: int = Field(default=64, ge=1, le=10_000, description="requests at the same time; more get 503")
    rate: float = Field(
        default=100.0, ge=0, le=1e6, description="requests per second and client, more get 429; 0: no limit"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_address_counts_as_both(cls, values: Mapping[str, object]) -> dict[str, object]:
        bind, listen = (values.get(name) or values.get(alias) for name, alias in (("bind", BIND), ("listen", LISTEN)))
        rest = {name: value for name, value in values.items() if name not in ("bind", "listen", BIND, LISTEN)}
        return {**rest, "bind": bind or listen, "listen": listen or bind} if bind or listen else rest

    @field_validator("inference_url")
    @classmethod
    def _addresses(cls, text: str) -> str:
        return ",".join(web_address(part.strip()).rstrip("/") for part in text.split(","))

    @field_validator("keys")
    @classmethod
    def _keys_where_other_machines_reach_it(cls, keys: Path | None, info: ValidationInfo) -> Path | None:
        addresses = (str(info.data["bind"]), str(info.data.get("tls_host", "localhost")))
        address = next((address for address in addresses if not is_loopback(address)), "")
        if not address or (keys and Keys(keys).names()):
            return keys
        reason = f"the gateway is reached at {address}, which is not loopback"
        if keys is None:
            raise ValueError(f"{reason}, and BINWATCH_API_KEYS names no file of API keys; name one, and {ADD_KEY}")
        raise ValueError(f"{reason}, and {keys} holds no API key; {ADD_KEY}")

    @field_validator("records")
    @classmethod
    def _a_place_of_records(cls, records: str) -> str:
        return location.check_location(records)

    @field_validator("records_query")
    @classmethod
    def _a_query_where_there_is_a_database(cls, query: str, info: ValidationInfo) -> str:
        records = info.data.get("records")
        if query:
            return location.check_query(query)
        if records and location.is_database(records):
            raise ValueError("BINWATCH_RECORDS names a database, so BINWATCH_RECORDS_QUERY has to say what to select")
        return query

    @property
    def inference_urls(self) -> tuple[str, ...]:
        """The addresses of TorchServe."""
        return tuple(dict.fromkeys(self.inference_url.split(",")))

    @field_validator("s3_buckets")
    @classmethod
    def _names_of_buckets(cls, text: str) -> str:
        return ",".join(sorted(links.parse_buckets(text)))

    @property
    def link_buckets(self) -> frozenset[str]:
        """The buckets whose photos are fetched for recounts."""
        return links.parse_buckets(self.s3_buckets)

    @property
    def needs_keys(self) -> bool:
        """Whether other machines reach it."""
        return not is_loopback(self.bind)

    @cached_property
    def hosts(self) -> frozenset[str]:
        """The names, in lower case, that requests may use."""
        names = {name.strip().lower() for name in self.extra_hosts.split(",")}
        return LOOPBACK | (names - {""}) | {self.bind.lower(), self.tls_host.lower()}


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches ``address``. A name other than localhost may be anything: no."""
    if address.lower() == "localhost":
        return True
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
