"""docker-compose.yml -> docker-stack.yml, with every difference that Swarm needs.

Swarm refuses or ignores much of a compose file. Each key of a service is therefore listed here, as one that stays or as
one that goes and why; a key that is in neither list is an error, so that nothing is lost in silence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from serve.errors import SettingsError
from serve.swarm import swarm_plan as plan

STAYS = frozenset({"command", "user", "read_only", "cap_drop", "logging", "stop_grace_period"})
CHANGES = frozenset({"image", "environment", "volumes", "tmpfs", "networks", "ports", "healthcheck"})
GOES = {
    "build": "images come from a registry",
    "pull_policy": "images come from a registry",
    "depends_on": "services retry, and a task that ends is started again",
    "restart": "deploy.restart_policy",
    "mem_limit": "deploy.resources.limits",
    "security_opt": "Swarm has no such option: set no-new-privileges in each engine's daemon.json",
    "group_add": "only the service that makes secrets has it",
    "network_mode": "only services that are left out have it",
}
ONE_SHOT = frozenset({"settings", "secrets"})
"""Swarm runs services, not steps: each service checks its settings when it starts, and secrets are Swarm's."""
HEADER = """\
# Made by `python scripts/make_stack.py` from docker-compose.yml and serve/swarm/swarm_plan.py: change those, not this.
#
#   docker stack deploy --compose-file docker-stack.yml binwatch
#
# Hosts, labels, secrets, images and variables: docs/operations.md, "Docker Swarm".
"""
Service: TypeAlias = dict[str, Any]


def render(compose_text: str) -> str:
    """The text of docker-stack.yml. Raises SettingsError."""
    stack = json.loads(
        json.dumps(make_stack(yaml.safe_load(compose_text)))
    )  # nothing is shared, so YAML needs no anchors
    return HEADER + str(yaml.safe_dump(stack, sort_keys=False, width=120))


def make_stack(compose: Mapping[str, Any]) -> dict[str, Any]:
    """The stack for a compose file. Services of profiles are not part of it. Raises SettingsError."""
    services = {
        name: make_service(name, service)
        for name, service in compose["services"].items()
        if name not in ONE_SHOT and not service.get("profiles")
    }
    networks = {network for service in services.values() for network in service["networks"]}
    mounts = [entry for service in services.values() for entry in service.get("volumes", ())]
    volumes = {entry.partition(":")[0] for entry in mounts if isinstance(entry, str)}
    known = {**compose["networks"], **plan.NEW_NETWORKS}
    return {
        "version": "3.8",
        "services": services,
        "networks": {name: {"driver": "overlay", **known[name]} for name in sorted(networks)},
        "volumes": {name: {} for name in sorted(volumes)},
        "secrets": {name: {"external": True, "name": plan.external_name(name)} for name in plan.secret_names()},
    }


def make_service(name: str, service: Mapping[str, Any]) -> Service:
    """One service of the stack. Raises SettingsError."""
    unknown = service.keys() - STAYS - CHANGES - GOES.keys()
    if unknown or name not in plan.PLACEMENTS:
        what = f"the keys {sorted(unknown)}" if unknown else "a service without a placement"
        raise SettingsError(
            f"docker-compose.yml has {what} in {name}; say in serve/swarm/ what becomes of it in the stack"
        )
    stack = {
        "image": image(service["image"]),
        **{key: value for key, value in service.items() if key in STAYS},
        "healthcheck": healthcheck(name, service["healthcheck"]),
        "environment": environment(name, service.get("environment", {})),
        "volumes": volumes(name, service.get("volumes", ())) + in_memory(service.get("tmpfs", ())),
        "secrets": [file.to_compose() for file in plan.SECRET_FILES[name]],
        "networks": list(plan.NETWORKS.get(name, service["networks"])),
        "ports": ports(service.get("ports", ())),
        "deploy": deploy(plan.PLACEMENTS[name], service["mem_limit"]),
    }
    return {key: value for key, value in stack.items() if value != []}


def healthcheck(name: str, check: Service) -> Service:
    """A service's check. Swarm ends a task that is not healthy, which Compose does not: a slow start gets time."""
    test = {"test": plan.HEALTHCHECKS[name]} if name in plan.HEALTHCHECKS else {}
    return {**check, **test, "start_period": plan.START_PERIOD}


def image(name: str) -> str:
    """Images that are built here get a registry and a tag, since an update is a new tag."""
    if ":" in name:
        return name
    return f"${{BINWATCH_REGISTRY:-}}{name}:${{BINWATCH_TAG:?give the tag of the images, a new one for each update}}"


def environment(service: str, variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """A service's variables: those of the compose file, but for what the plan says."""
    without = plan.NOWHERE | plan.WITHOUT.get(service, frozenset())
    stays = {name: without_folder(text) for name, text in variables.items() if name not in without}
    return {**stays, **plan.VARIABLES.get(service, {})}


def without_folder(text: str | None) -> str | None:
    """``${X_URL:-${X:+/folder}}``, a bucket or else a folder of this host, as ``${X_URL:-}``: a stack has no folder."""
    return text and re.sub(r"\$\{(\w+_URL):-\$\{\w+:\+[^{}]*\}\}", r"${\1:-}", text)


def in_memory(paths: Sequence[str]) -> list[Service]:
    """Folders in memory as mounts: Swarm ignores ``tmpfs`` in silence."""
    return [{"type": "tmpfs", "target": path} for path in paths]


def volumes(service: str, entries: Sequence[str | Service]) -> list[str | Service]:
    """The volumes that stay: no folder of a host, and nothing that is a secret or in the store."""
    stays = plan.LOCAL_VOLUMES - plan.WITHOUT_VOLUMES.get(service, frozenset())
    return [entry for entry in entries if isinstance(entry, str) and entry.partition(":")[0] in stays]


def ports(entries: Sequence[str]) -> list[Service]:
    """What is published on its hosts. Swarm publishes at all addresses, so what was for loopback alone stays closed."""
    return [
        {"target": int(entry.rpartition(":")[2]), "published": published(entry), "mode": "host"}
        for entry in entries
        if not entry.startswith("127.")
    ]


def published(entry: str) -> str:
    """The published port of ADDRESS:PORT:TARGET, whose parts may be ``${NAME:-default}``."""
    parts = re.findall(r"\$\{[^}]*\}|[^:]+", entry)
    return str(parts[-2])


def deploy(placement: plan.Placement, memory: str) -> Service:
    """How Swarm runs, limits, places and updates a service. Names are DNS round robin: without a virtual address, which
    not every kernel can do, and so that the gateway and the promoter see each server."""
    order = "start-first" if placement.start_first else "stop-first"
    step = {"parallelism": 1, "delay": f"{placement.delay_s}s", "order": order, "monitor": "60s"}
    return {
        "replicas": placement.replicas if placement.replicas.startswith("$") else int(placement.replicas),
        "endpoint_mode": "dnsrr",
        "placement": {
            "constraints": [f"node.labels.binwatch.{placement.host} == 1"],
            "preferences": [{"spread": "node.id"}],
        },
        "resources": {"limits": {"memory": memory}},
        "restart_policy": {"condition": "any", "delay": "5s"},
        "update_config": {**step, "failure_action": "rollback"},
        "rollback_config": dict(step),
    }
