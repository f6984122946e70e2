"""The check before a start: every value that a service could not use is named, and every sensible one passes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serve import verdict
from serve.environment import Variables, server_address
from serve.gateway.settings import GatewaySettings
from serve.monitoring.monitor_settings import MonitorSettings
from serve.observe.observe_settings import AlertmanagerSettings
from serve.proxy.proxy_settings import ProxySettings
from serve.settings import problems_of
from serve.settings.worker_check import worker_problems
from tests.unit.test_settings import COMPOSE_TEXT, environment
from trainer.pipeline.source_check import source_problems
from trainer.pipeline.trainer_settings import TrainerSettings
from trainer.promotion.promoter_settings import PromoterSettings

CLASSES = (TrainerSettings, PromoterSettings, MonitorSettings, GatewaySettings, ProxySettings, AlertmanagerSettings)

UNUSABLE = [
    *(("BINWATCH_ALPHA", text) for text in ("5", "-0.1", "1.01", "nan", "inf", "a lot", "0,05", "5%")),
    *(("BINWATCH_NOVELTY", text) for text in ("0.2", "-0.001", "nan", "off", "0,005", "1%")),
    *(("BINWATCH_WORKERS", text) for text in ("-3", "0", "x", "2.5", "65", "1e3", "two")),
    *(("BINWATCH_CAPTURE_SHARE", text) for text in ("7", "-1", "nan", "all", "1/2")),
    *(("BINWATCH_CAPTURE_DISK", text) for text in ("abc", "75", "75%", "-0.5")),
    *(("BINWATCH_CAPTURE_PHOTOS", text) for text in ("perhaps", "2", "-1", "none")),
    *(("BINWATCH_CAPTURE", text) for text in ("gs://bins", "s3://", "s3:/bins", "file:///capture", "S3://bins/x")),
    *(
        ("BINWATCH_S3_ENDPOINT", text)
        for text in ("notaurl", "store:9000", "ftp://store", "http://", "http://a b", "http://store:99999", "//store")
    ),
    *(("BINWATCH_S3_BUCKETS", text) for text in ("My Bins", "bins;others", "s3://bins", "a", "bins,-x")),
    *(("BINWATCH_COUNTS", text) for text in ("abc", "5", "1-", "-1", "3-1", "1..5", "one-five")),
    *(("BINWATCH_LIMIT", text) for text in ("0", "-1", "many", "1e3", "1.5")),
    *(("BINWATCH_EPOCHS", text) for text in ("0", "none", "2.5")),
    *(("BINWATCH_RECIPE", text) for text in ("worst", "Best", "resnet")),
    *(("BINWATCH_DATA", text) for text in ("http://example.com/bins", "gs://bins", "s3://")),
    *(("BINWATCH_GATE_LEVEL", text) for text in ("0", "0.5", "off", "high")),
    ("BINWATCH_GATE_POLICY", "best"),
    ("BINWATCH_GATE_MAX_RMSE_RISE", "-1"),
    *(("BINWATCH_RETRAIN_ON_DRIFT", text) for text in ("maybe", "3")),
    *(("BINWATCH_KEEP_DAYS", text) for text in ("0.5", "-1", "for ever")),
    *(("BINWATCH_ALERT_WEBHOOK", text) for text in ("hooks.example.com", "mailto:x@example.com", "https://")),
    *(("BINWATCH_RATE", text) for text in ("-1", "inf", "fast")),
    *(("BINWATCH_IN_FLIGHT", text) for text in ("0", "10001", "1.5")),
    *(("BINWATCH_TIMEOUT_S", text) for text in ("0", "1h", "3601")),
    ("BINWATCH_TARGET_UTILISATION", "70"),
    ("BINWATCH_MAX_WORKERS", "0"),
    *(("BINWATCH_TLS", text) for text in ("on", "cert.pem", "Acme")),
    *(("BINWATCH_TLS_HOST", text) for text in ("https://bins", "a b", "bins.example.com/", "-x")),
    ("BINWATCH_TLS_PORT", "0"),
    ("BINWATCH_ALERTMANAGER_WEBHOOK", "hooks.example.com"),
]
USABLE = [
    ("BINWATCH_ALPHA", " 0.05 "),
    ("BINWATCH_WORKERS", "64"),
    ("BINWATCH_CAPTURE_PHOTOS", "No"),
    ("BINWATCH_CAPTURE", "s3://bins"),
    ("BINWATCH_CAPTURE", "s3://bins/a/b"),
    ("BINWATCH_CAPTURE", "/srv/my capture"),
    ("BINWATCH_S3_ENDPOINT", "https://s3.example.com:9000/base"),
    ("BINWATCH_S3_ENDPOINT", "http://[::1]:9000"),
    ("BINWATCH_S3_BUCKETS", "aft-vbi-pds, my-bins,"),
    ("BINWATCH_COUNTS", "1-8+"),
    ("BINWATCH_DATA", "s3://aft-vbi-pds"),
    ("BINWATCH_DATA", "C:/bins"),
    ("BINWATCH_GATE_MAX_RMSE_RISE", "off"),
    ("BINWATCH_RATE", "0"),
    *(("BINWATCH_ALPHA", text) for text in ("", "   ")),
]


def problems(environ: dict[str, str]) -> Iterator[str]:
    """What the check finds, of all services."""
    for cls in CLASSES:
        yield from problems_of(cls, environ)
    yield from worker_problems(environ)


@pytest.mark.parametrize(("variable", "text"), UNUSABLE)
def test_a_value_that_cannot_be_used_is_named(variable: str, text: str) -> None:
    sentences = list(problems({variable: text}))
    assert sentences
    assert all(sentence.startswith(f"{variable} is {text!r}; ") for sentence in sentences), sentences


@pytest.mark.parametrize(("variable", "text"), USABLE)
def test_a_value_that_can_be_used_passes(variable: str, text: str) -> None:
    assert list(problems({variable: text})) == []


def test_all_unusable_values_are_found_at_once() -> None:
    first = dict(reversed(UNUSABLE))
    sentences = list(problems(first))
    assert {sentence.partition(" is ")[0] for sentence in sentences} == first.keys()


def test_workers_and_classes_have_the_same_ranges() -> None:
    for text in ("-0.01", "0", "0.00001", "0.5", "1", "1.01"):
        read = Variables({"BINWATCH_ALPHA": text})
        verdict.read_alpha(read)
        assert bool(read.problems) == bool(problems_of(PromoterSettings, {"BINWATCH_ALPHA": text})), text


@pytest.mark.parametrize("address", ["serve:8081", "unix:management.sock", "unix:", "ftp://serve", ""])
def test_an_address_of_a_server_is_http_or_a_socket(address: str) -> None:
    with pytest.raises(ValueError, match="unix:/PATH"):
        server_address(address)
    assert server_address("unix:/management/management.sock") == "unix:/management/management.sock"
    assert server_address("http://serve:8081/") == "http://serve:8081"


def test_the_check_gets_all_that_services_get() -> None:
    checked = dict(line.split("=", 1) for line in yaml.safe_load(COMPOSE_TEXT)["x-settings"].splitlines())
    passed: dict[str, set[str]] = {}
    for service in ("alertmanager", "gateway", "monitor", "promoter", "proxy", "serve", "trainer"):
        for name, text in environment(service).items():
            if "$" in text:
                passed.setdefault(name, set()).add(text)
    assert checked.keys() == passed.keys()
    assert {name for name, text in checked.items() if text not in passed[name]} == set()


def test_every_service_waits_for_the_check() -> None:
    services = yaml.safe_load(COMPOSE_TEXT)["services"]

    def waits(service: str) -> bool:
        needed = services[service].get("depends_on", {})
        return "settings" in needed or any(map(waits, needed))

    assert {service for service in services if not waits(service)} == {"settings"}
    conditions = [service.get("depends_on", {}).get("settings") for service in services.values()]
    assert all(condition in (None, {"condition": "service_completed_successfully"}) for condition in conditions)


def test_photos_in_any_layout_pass(tmp_path: Path) -> None:
    (tmp_path / "own" / "bin-images").mkdir(parents=True)
    (tmp_path / "counts" / "train" / "3").mkdir(parents=True)
    (tmp_path / "table.csv").write_text("path,count\n")
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("own", "counts", "table.csv", "link"):
        assert source_problems(tmp_path / name) == []


def test_photos_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for name in ("empty", "loop", "gone", "none", "x" * 300):
        (sentence,) = source_problems(tmp_path / name)
        assert sentence.startswith("BINWATCH_DATA: "), sentence
        assert name in sentence


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "bin-images"
    folder.mkdir()
    folder.chmod(0)
    assert str(folder) in source_problems(tmp_path)[0]
