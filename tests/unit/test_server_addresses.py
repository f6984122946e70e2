"""Where several servers are."""

from collections.abc import Sequence

import pytest

from serve.errors import ServerError, SettingsError
from serve.settings import read
from trainer.promotion.fleet.fleet_settings import FleetSettings
from trainer.promotion.fleet.server_addresses import ServerAddress, find_servers, parse_servers

TASK = "binwatch_serve.2.n5ib9mgyy4i3dh1yfv0vlnqk3"


def look_up(name: str) -> Sequence[str]:
    return {"serve": ["10.0.0.3", "10.0.0.2"], "alone": ["10.0.0.4"]}.get(name, [])


def test_a_name_with_several_addresses_is_several_servers() -> None:
    servers = find_servers(parse_servers("serve, alone:9000"), look_up, lambda ip: [f"host-{ip}.example.com"])
    assert servers[0] == ServerAddress(
        inference="http://10.0.0.2:8080",
        management="http://10.0.0.2:8081",
        metrics="http://10.0.0.2:8082",
        published="http://10.0.0.2:8080",
    )
    assert [server.published for server in servers] == [
        "http://10.0.0.2:8080",
        "http://10.0.0.3:8080",
        "http://10.0.0.4:9000",
    ]


def test_a_task_of_swarm_is_published_by_the_name_that_it_has_in_all_its_networks() -> None:
    (server,) = find_servers([("alone", 8080)], look_up, lambda ip: [f"{TASK}.binwatch_management"])
    assert server.management == "http://10.0.0.4:8081"
    assert server.published == f"http://{TASK}:8080"


def test_a_name_without_an_address_is_no_server_and_none_at_all_is_an_error() -> None:
    assert len(find_servers(parse_servers("gone,alone"), look_up, lambda ip: [])) == 1
    with pytest.raises(ServerError, match="gone"):
        find_servers(parse_servers("gone"), look_up, lambda ip: [])


@pytest.mark.parametrize("text", ["http://serve:8080", "serve:0", "serve:65535", "serve:x", "a b"])
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give names of hosts"):
        parse_servers(text)


def test_servers_need_an_address_at_which_they_fetch_archives() -> None:
    environ = {"BINWATCH_SERVERS": "serve", "BINWATCH_PROMOTER_LISTEN": "0.0.0.0:8090"}
    with pytest.raises(SettingsError, match="BINWATCH_PROMOTER_URL"):
        read(FleetSettings, environ)
    assert read(FleetSettings, {**environ, "BINWATCH_PROMOTER_URL": "http://promoter:8090"}).are_set
    assert not FleetSettings().are_set


@pytest.mark.parametrize(
    ("variable", "text"),
    [("BINWATCH_PROMOTER_LISTEN", "8090"), ("BINWATCH_PROMOTER_LOCK", "mysql://owner:secret@database/binwatch")],
)
def test_an_address_that_cannot_be_used_is_named_without_its_password(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable) as caught:
        read(FleetSettings, {variable: text})
    assert "secret" not in str(caught.value)
