"""What the services of the stack have in Swarm and not in docker-compose.yml: where they run, how they are updated,
which networks, secrets and variables they get."""

from collections.abc import Mapping
from dataclasses import dataclass

PROMOTER_PORT = 8090
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104
MANAGEMENT_NETWORK = "${BINWATCH_MANAGEMENT_NETWORK:-10.90.7.0/24}"
"""The network over which the promoter alone manages the servers, as a CIDR."""
STATE, SERVE, GATEWAY = "state", "serve", "gateway"
"""Labels of hosts, after ``binwatch.``: which of them hold the volumes, run TorchServe, and publish the gateway."""
STORE = "${BINWATCH_STORE:?give s3://bucket/prefix, where all hosts keep captured answers, recounts and monitoring}"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """``host``: the label of the hosts that may run the service. ``start_first``: an update starts the new task before
    it stops the old one, which a port or a volume of a host does not allow. ``delay_s``: between two tasks."""

    host: str
    replicas: str = "1"
    start_first: bool = False
    delay_s: int = 0


PLACEMENTS: Mapping[str, Placement] = {
    "postgres": Placement(host=STATE),
    "mlflow": Placement(host=STATE),
    "trainer": Placement(host=STATE),
    "promoter": Placement(host=STATE),
    "monitor": Placement(host=STATE),
    # a new server is empty: the promoter has to find it and load the champion before the next old one goes
    "serve": Placement(host=SERVE, replicas="${BINWATCH_SERVE_REPLICAS:-2}", start_first=True, delay_s=60),
    "gateway": Placement(host=GATEWAY, replicas="${BINWATCH_GATEWAY_REPLICAS:-2}", delay_s=10),
}
"""Every service of the stack."""

NETWORKS: Mapping[str, tuple[str, ...]] = {
    "mlflow": ("database", "tracking"),
    "promoter": ("tracking", "management", "routes"),
    "serve": ("inference", "management"),
    "gateway": ("inference", "routes"),
}
"""Where they differ: the proxy is not there, and no network has the promoter, TorchServe and the gateway in it, because
the gateway must not reach the management, and a name resolves to one of a task's addresses only."""

NEW_NETWORKS: Mapping[str, Mapping[str, object]] = {
    "management": {"internal": True, "ipam": {"config": [{"subnet": MANAGEMENT_NETWORK}]}},
    "routes": {"internal": True},
}

_AWS = {"AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws-credentials"}
_PLACES = {
    "BINWATCH_CAPTURE": f"{STORE}/capture",
    "BINWATCH_RECOUNTS": f"{STORE}/recounts",
    "BINWATCH_MONITORING": f"{STORE}/monitoring",
}
VARIABLES: Mapping[str, Mapping[str, str]] = {
    "mlflow": _AWS,
    "serve": {
        **_AWS,
        "BINWATCH_CAPTURE": _PLACES["BINWATCH_CAPTURE"],
        "BINWATCH_MANAGEMENT_NETWORK": MANAGEMENT_NETWORK,
    },
    "gateway": {
        **_AWS,
        **_PLACES,
        "PGPASSFILE": "/run/secrets/pgpass",
        "BINWATCH_GATEWAY_BIND": ALL_ADDRESSES,  # Swarm publishes at all addresses of a host, so API keys are needed
        "BINWATCH_PROMOTER_URL": f"http://promoter:{PROMOTER_PORT}",
        "BINWATCH_INFERENCE_URL": "http://serve:8080",  # until the promoter answers; it may be away
    },
    "trainer": {**_AWS, **_PLACES},
    "promoter": {
        "BINWATCH_SERVERS": "tasks.serve",
        "BINWATCH_PROMOTER_LISTEN": f"{ALL_ADDRESSES}:{PROMOTER_PORT}",
        "BINWATCH_PROMOTER_URL": f"http://promoter:{PROMOTER_PORT}",
    },
    "monitor": {**_AWS, **_PLACES},
}
"""What a service's environment has besides, or instead."""

WITHOUT: Mapping[str, frozenset[str]] = {
    "promoter": frozenset({"BINWATCH_INFERENCE_URL", "BINWATCH_MANAGEMENT_URL", "BINWATCH_METRICS_URL"}),
    "gateway": frozenset({"BINWATCH_PROXY_SOCKET", "BINWATCH_TLS_HOST"}),
    "mlflow": frozenset({"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"}),
}
"""The one TorchServe of a single machine, and the proxy, which is not part of the stack."""
NOWHERE = frozenset(
    {"NO_PROXY", "no_proxy", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD"}
)
"""What no service gets: Docker passes a proxy to containers, not to services, and keys are a secret, because everybody
who may ask the manager reads a service's variables."""

LOCAL_VOLUMES = frozenset({"postgres", "artifacts", "models", "state", "capture"})
"""Volumes that stay volumes of a host. ``capture`` holds what waits for the bucket."""
WITHOUT_VOLUMES: Mapping[str, frozenset[str]] = {"serve": frozenset({"models"})}
"""TorchServe gets its archives from the promoter; each task has a model store of its own."""

START_PERIOD = "600s"
"""Time to start, in which failed checks do not count; the first that succeeds ends it."""
HEALTHCHECKS: Mapping[str, list[str]] = {
    "promoter": [
        "CMD",
        "python3",
        "-c",
        f"import urllib.request as u; u.urlopen('http://127.0.0.1:{PROMOTER_PORT}/livez', timeout=5)",
    ]
}
"""Swarm gives a task its name only once it is healthy, and servers fetch the champion from ``promoter`` in its first
round, so the first round cannot be what makes it healthy."""


@dataclass(frozen=True, kw_only=True)
class SecretFile:
    """A secret as a file of a container, which only ``uid`` can read."""

    name: str
    target: str
    uid: int = 10001

    def to_compose(self) -> dict[str, object]:
        """As a stack file says it."""
        return {"source": self.name, "target": self.target, "uid": f"{self.uid}", "gid": f"{self.uid}", "mode": 0o400}


ACCOUNTS = ("admin", "reader", "trainer", "promoter", "monitor")
SERVICE_ACCOUNTS = ("trainer", "promoter", "monitor")
"""The accounts of MLflow, and those that services use."""
_DATABASE_FILE = "/secrets/postgres-password"


def _credentials(service: str) -> SecretFile:
    return SecretFile(name=f"{service}-credentials", target="/home/binwatch/.mlflow/credentials")


_AWS_FILE = SecretFile(name="aws-credentials", target="/run/secrets/aws-credentials")
_VERIFY_FILE = SecretFile(name="verify-key", target="/verifying/verify.pem")
SECRET_FILES: Mapping[str, tuple[SecretFile, ...]] = {
    "postgres": (SecretFile(name="postgres-password", target=_DATABASE_FILE, uid=999),),
    "mlflow": (
        _AWS_FILE,
        SecretFile(name="postgres-password", target=_DATABASE_FILE),
        SecretFile(name="mlflow-key", target="/secrets/mlflow-key"),
        *(SecretFile(name=f"{name}-password", target=f"/secrets/accounts/{name}") for name in ACCOUNTS),
    ),
    "serve": (_AWS_FILE,),
    "gateway": (
        _AWS_FILE,
        SecretFile(name="pgpass", target="/run/secrets/pgpass"),
        SecretFile(name="api-keys", target="/keys/api-keys.json"),
    ),
    "trainer": (
        _AWS_FILE,
        _VERIFY_FILE,
        _credentials("trainer"),
        SecretFile(name="signing-key", target="/signing/signing.key"),
    ),
    "promoter": (_VERIFY_FILE, _credentials("promoter")),
    "monitor": (_AWS_FILE, _credentials("monitor")),
}
"""The secrets of each service, where docker-compose.yml has a volume with the same files."""


def secret_names() -> list[str]:
    """All secrets of the stack."""
    return sorted({file.name for files in SECRET_FILES.values() for file in files})


def external_name(name: str) -> str:
    """The name by which Swarm knows a secret. Secrets cannot be changed: new API keys are a new secret."""
    return "${BINWATCH_API_KEYS_SECRET:-binwatch-api-keys}" if name == "api-keys" else f"binwatch-{name}"
