"""docker-stack.yml: what Swarm gets is docker-compose.yml, and every difference is meant."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.errors import SettingsError
from serve.settings import settings_of
from serve.swarm import stack_file, swarm_plan
from serve.swarm.swarm_secrets import GENERATED, OPTIONAL
from tests.unit.test_settings import CLASSES

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
STACK: dict[str, Any] = stack_file.make_stack(COMPOSE)
SERVICES: dict[str, Any] = STACK["services"]


def targets(volumes: list[Any]) -> set[str]:
    """Where volumes are mounted."""
    return {entry["target"] if isinstance(entry, dict) else entry.split(":")[1] for entry in volumes}


def test_the_stack_is_up_to_date() -> None:
    current = (ROOT / "docker-stack.yml").read_text()
    assert current == stack_file.render(COMPOSE_TEXT), "run `python scripts/make_stack.py`"
    assert yaml.safe_load(current) == STACK


def test_all_services_but_the_one_shots_are_in_it() -> None:
    long_lived = {name for name, service in COMPOSE["services"].items() if not service.get("profiles")}
    assert set(SERVICES) == long_lived - {"settings", "secrets"} == set(swarm_plan.PLACEMENTS)


def test_no_service_has_what_swarm_ignores_or_refuses() -> None:
    refused = {
        "tmpfs",
        "build",
        "depends_on",
        "restart",
        "security_opt",
        "network_mode",
        "mem_limit",
        "pull_policy",
        "profiles",
    }
    assert {key for service in SERVICES.values() for key in service} & refused == set()
    assert "name" not in STACK
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    assert {mount["type"] for mount in mounts if isinstance(mount, dict)} == {"tmpfs"}, "no folder of a host"


def test_a_key_that_the_stack_does_not_know_is_an_error() -> None:
    service = {**COMPOSE["services"]["gateway"], "init": True}
    with pytest.raises(SettingsError, match="init"):
        stack_file.make_service("gateway", service)
    with pytest.raises(SettingsError, match="cache"):
        stack_file.make_service("cache", {"image": "cache"})


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_runs_and_how_it_is_fenced_is_the_same(name: str) -> None:
    compose, stack = COMPOSE["services"][name], SERVICES[name]
    for key in ("command", "user", "read_only", "cap_drop", "logging", "stop_grace_period"):
        assert stack.get(key) == compose.get(key), key
    assert stack["cap_drop"] == ["ALL"]
    memory = [mount["target"] for mount in stack.get("volumes", ()) if isinstance(mount, dict)]
    assert memory == compose.get("tmpfs", [])
    assert stack["deploy"]["resources"]["limits"]["memory"] == compose["mem_limit"]
    assert stack["deploy"]["restart_policy"]["condition"] == "any"


@pytest.mark.parametrize("name", SERVICES)
def test_every_update_rolls_back_by_itself(name: str) -> None:
    update = SERVICES[name]["deploy"]["update_config"]
    assert (update["failure_action"], update["parallelism"]) == ("rollback", 1)
    alone = bool(SERVICES[name].get("ports")) or swarm_plan.PLACEMENTS[name].host == swarm_plan.STATE
    assert update["order"] == ("stop-first" if alone else "start-first")


@pytest.mark.parametrize("name", sorted(CLASSES.keys() & SERVICES.keys()))
def test_a_service_gets_variables_that_its_code_reads(name: str) -> None:
    known = {setting.variable for setting in settings_of(CLASSES[name][0])}
    added = swarm_plan.VARIABLES[name].keys()
    assert {variable for variable in added if variable.startswith("BINWATCH_")} - known == set()
    differing = swarm_plan.WITHOUT.get(name, frozenset()) | swarm_plan.NOWHERE | added
    compose = COMPOSE["services"][name]["environment"]
    assert {variable for variable in compose if variable not in SERVICES[name]["environment"]} <= differing


@pytest.mark.parametrize("name", SERVICES)
def test_docker_can_fill_in_every_variable(name: str) -> None:
    """Its interpolation of stacks knows neither one variable inside another nor ``:+``."""
    text = yaml.safe_dump(SERVICES[name])
    assert re.findall(r"\$\{[^}]*\$\{|:\+", text) == []


def test_no_variable_holds_a_secret() -> None:
    names = {variable for service in SERVICES.values() for variable in service["environment"]}
    secret = {name for name in names if re.search(r"(PASSWORD|SECRET|TOKEN|ACCESS_KEY)", name)}
    assert secret == {"POSTGRES_PASSWORD_FILE"}


def test_secrets_are_files_where_the_volumes_of_docker_compose_had_them() -> None:
    volumes = {"secrets", "signing", "verifying", "trainer-account", "promoter-account", "monitor-account", "keys"}
    for name, service in SERVICES.items():
        mounted = [entry for entry in COMPOSE["services"][name].get("volumes", ()) if isinstance(entry, str)]
        folders = {entry.split(":")[1] for entry in mounted if entry.partition(":")[0] in volumes}
        files = {Path(secret["target"]) for secret in service.get("secrets", ())}
        inside = {str(folder) for file in files for folder in file.parents} & folders
        assert inside == folders, name
        assert all(secret["mode"] == 0o400 for secret in service.get("secrets", ()))
    assert set(STACK["secrets"]) == {*GENERATED, *OPTIONAL, "api-keys"}
    assert all(secret["external"] for secret in STACK["secrets"].values())


def test_volumes_of_a_host_are_mounted_only_where_the_host_is_the_same() -> None:
    users: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for entry in filter(lambda mount: isinstance(mount, str), service.get("volumes", ())):
            users.setdefault(entry.partition(":")[0], set()).add(swarm_plan.PLACEMENTS[name].host)
    assert {volume for volume, hosts in users.items() if hosts != {swarm_plan.STATE}} == {"capture"}


def test_what_all_hosts_share_is_in_the_store() -> None:
    for name in ("serve", "gateway", "trainer", "monitor"):
        for variable in ("BINWATCH_CAPTURE", "BINWATCH_RECOUNTS", "BINWATCH_MONITORING"):
            if variable in COMPOSE["services"][name]["environment"]:
                place = SERVICES[name]["environment"][variable]
                assert place == f"{swarm_plan.STORE}/{variable.removeprefix('BINWATCH_').lower()}"


def test_only_the_promoter_is_in_a_network_with_the_management() -> None:
    members = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name in members if "management" in members[name]} == {"promoter", "serve"}
    assert members["promoter"] & members["serve"] == {"management"}
    assert members["gateway"] & members["serve"] == {"inference"}
    assert members["gateway"] & members["promoter"] == {"routes"}
    assert {name for name in members if "database" in members[name]} == {"postgres", "mlflow"}
    assert STACK["networks"]["database"]["internal"]
    assert all(network["driver"] == "overlay" for network in STACK["networks"].values())


def test_only_the_gateway_is_published_and_it_needs_keys() -> None:
    assert [name for name, service in SERVICES.items() if service.get("ports")] == ["gateway"]
    (port,) = SERVICES["gateway"]["ports"]
    assert port == {"target": 8000, "published": "${BINWATCH_GATEWAY_PORT:-8000}", "mode": "host"}
    assert SERVICES["gateway"]["environment"]["BINWATCH_GATEWAY_BIND"] == "0.0.0.0"


def test_an_update_is_a_new_tag() -> None:
    for name, service in SERVICES.items():
        if name != "postgres":
            assert re.fullmatch(r"\$\{BINWATCH_REGISTRY:-\}binwatch-[a-z]+:\$\{BINWATCH_TAG:\?.+\}", service["image"])
