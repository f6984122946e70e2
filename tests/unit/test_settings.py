"""Every setting has one place, and docker-compose.yml and .env.example agree with it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from serve import capture, verdict
from serve.errors import SettingsError
from serve.gateway.settings import GatewaySettings
from serve.monitoring.monitor_settings import MonitorSettings
from serve.observe.observe_settings import AlertmanagerSettings
from serve.proxy.proxy_settings import ProxySettings
from serve.settings import FloatOrOff, Setting, Settings, WebAddress, read, settings_of
from trainer.pipeline.trainer_settings import TrainerSettings
from trainer.promotion.promoter_settings import PromoterSettings

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(COMPOSE_TEXT)["services"]
EXAMPLE = (ROOT / ".env.example").read_text()
CLASSES: dict[str, tuple[type[Settings], str]] = {
    "alertmanager": (AlertmanagerSettings, "serve/observe/Dockerfile"),
    "gateway": (GatewaySettings, "serve/gateway/Dockerfile"),
    "proxy": (ProxySettings, "serve/proxy/Dockerfile"),
    "monitor": (MonitorSettings, "trainer/Dockerfile"),
    "promoter": (PromoterSettings, "trainer/Dockerfile"),
    "trainer": (TrainerSettings, "trainer/Dockerfile"),
}
CONTAINER_DEFAULTS = {
    "BINWATCH_AUTOSCALE": "1",  # scripts/promote.py scales only where it is told to
    "BINWATCH_CAPTURE": "/capture",  # the volume; without containers TorchServe captures only where it is told to
    "BINWATCH_RECOUNTS": "/recounts",  # volumes, too
    "BINWATCH_MONITORING": "/monitoring",
}
"""Where the containers set another default than the class, on purpose."""
PUBLISHED = {"gateway", "mlflow", "proxy", "prometheus", "alertmanager"}
"""The services that publish ports, the last three in profiles."""
ARCHIVE_DEFAULTS = {
    "BINWATCH_ALPHA": f"{verdict.ALPHA:g}",
    "BINWATCH_NOVELTY": f"{verdict.NOVELTY_LIMIT:g}",
    "BINWATCH_CAPTURE_SHARE": f"{capture.Settings().share:g}",
    "BINWATCH_CAPTURE_PHOTOS": str(int(capture.Settings().photos)),
    "BINWATCH_CAPTURE_DISK": f"{capture.Settings().max_disk_use:g}",
}
"""Defaults of what travels in archives, which has no settings class."""


def environment(service: str) -> dict[str, str]:
    """The binwatch variables that docker-compose.yml passes to a service, as they are written there."""
    variables = SERVICES[service]["environment"]
    return {name: str(text) for name, text in variables.items() if name.startswith(("BINWATCH_", "MLFLOW_TRACKING"))}


def image_variables(dockerfile: str) -> set[str]:
    """The variables that an image sets."""
    lines = re.findall(r"^ENV (.+)$", (ROOT / dockerfile).read_text(), re.MULTILINE)
    return set(re.findall(r"(\w+)=", " ".join(lines)))


def settings() -> Iterator[tuple[str, Setting]]:
    """All settings, with their services."""
    for service, (cls, _) in CLASSES.items():
        yield from ((service, setting) for setting in settings_of(cls))


def entry(setting: Setting) -> str:
    """A setting as .env.example lists it."""
    sentence = setting.sentence[0].upper() + setting.sentence[1:]
    allowed = f" ({setting.allowed})" if setting.allowed else ""
    value = CONTAINER_DEFAULTS.get(setting.variable, setting.example)
    return f"# {sentence}{allowed}.\n# {setting.variable}={value}\n"


@pytest.mark.parametrize("service", CLASSES)
def test_a_container_gets_the_settings_of_its_service_and_no_others(service: str) -> None:
    cls, dockerfile = CLASSES[service]
    variables = {setting.variable for setting in settings_of(cls)}
    assert environment(service).keys() - variables == set(), "no code of this service reads these"
    assert variables - environment(service).keys() - image_variables(dockerfile) == set(), "not passed to the container"


def test_the_server_gets_what_its_archives_read() -> None:
    code = "".join(path.read_text() for path in (ROOT / "serve").glob("*.py"))
    variables = set(re.findall(r'"(BINWATCH_[A-Z0-9_]+)"', code))
    assert environment("serve").keys() - variables == set(), "no code in serve/*.py reads these"
    assert variables - environment("serve").keys() == {"BINWATCH_MODEL_VERSION"}  # SageMaker's containers have it


@pytest.mark.parametrize("service", [*CLASSES, "serve"])
def test_docker_compose_passes_each_variable_under_its_name_with_its_default(service: str) -> None:
    defaults = {setting.variable: setting.default for name, setting in settings() if name == service}
    for variable, text in environment(service).items():
        passed = re.fullmatch(r"\$\{(\w+)(?::?-([^{}]*))?\}", text)
        if passed and passed[2]:
            assert passed[2] == CONTAINER_DEFAULTS.get(variable, defaults.get(variable)), variable
        assert not passed or passed[1] == variable


def test_published_ports_and_addresses_have_the_defaults_of_the_gateway() -> None:
    defaults = {setting.variable: setting.default for setting in settings_of(GatewaySettings)}
    first, second = SERVICES["gateway"]["ports"]
    published = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", first))
    assert published == {name: defaults[name] for name in ("BINWATCH_GATEWAY_BIND", "BINWATCH_GATEWAY_PORT")}
    assert re.fullmatch(r"127\.0\.0\.1:\$\{BINWATCH_PORT:-8080\}:8000", second)
    assert {name for name, service in SERVICES.items() if service.get("ports")} == PUBLISHED


def test_every_container_has_a_limit_of_memory() -> None:
    assert {name for name, service in SERVICES.items() if not service.get("mem_limit")} == set()
    defaults = re.findall(r"mem_limit: \$\{(\w+):-(\w+)\}", COMPOSE_TEXT)
    assert all(f"\n# {name}={value}\n" in EXAMPLE for name, value in defaults)


def test_the_example_lists_what_docker_compose_takes_and_nothing_else() -> None:
    listed = re.findall(r"^# ([A-Z][A-Z0-9_]+)=", EXAMPLE, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT)) | {"COMPOSE_PROFILES"}


def test_the_example_has_the_sentence_and_the_default_of_each_setting() -> None:
    listed = set(re.findall(r"^# (BINWATCH_\w+)=", EXAMPLE, re.MULTILINE))
    entries: dict[str, list[str]] = {}
    for _, setting in settings():
        entries.setdefault(setting.variable, []).append(entry(setting))
    missing = [texts[0] for name, texts in entries.items() if name in listed and not any(map(EXAMPLE.count, texts))]
    assert missing == [], "\n".join(["add to .env.example, in place of what it says of these:", *missing])


def test_the_example_has_the_defaults_of_what_travels_in_archives() -> None:
    values = dict(re.findall(r"^# (BINWATCH_\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert {name: values[name] for name in ARCHIVE_DEFAULTS} == ARCHIVE_DEFAULTS
    of_classes = {setting.variable: setting.default for _, setting in settings()}
    assert {name: value for name, value in ARCHIVE_DEFAULTS.items() if of_classes.get(name, value) != value} == {}


def test_every_setting_has_a_sentence_and_every_number_a_range() -> None:
    for _, setting in settings():
        assert setting.sentence, setting.variable
        assert not setting.sentence.endswith("."), setting.variable
        assert not setting.allowed.endswith("number"), f"{setting.variable} has no range"


def test_one_variable_means_the_same_everywhere() -> None:
    defaults: dict[str, set[str]] = {}
    for _, setting in settings():
        defaults.setdefault(setting.variable, set()).add(setting.default)
    differing = {variable for variable, values in defaults.items() if len(values) > 1}
    # the gateway keeps no feedback and shows no monitoring unless it is told where they are
    assert differing == {"BINWATCH_CAPTURE", "BINWATCH_MONITORING"}


def test_a_new_champion_is_watched_as_long_everywhere() -> None:
    assert read(PromoterSettings, {}).probation.duration_s == 30


def test_defaults_are_within_their_ranges() -> None:
    for cls, _ in CLASSES.values():
        environ = {setting.variable: setting.default for setting in settings_of(cls)}
        assert read(cls, environ) == read(cls, {}) == cls()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BINWATCH_WATCH_ERROR_SHARE", "1.1"),
        ("BINWATCH_WATCH_ERROR_SHARE", "nan"),
        ("BINWATCH_WATCH_MIN_REQUESTS", "2.5"),
        ("BINWATCH_TARGET_UTILISATION", "inf"),
        ("BINWATCH_WORKERS", "0"),
        ("BINWATCH_AUTOSCALE", "perhaps"),
        ("BINWATCH_INFERENCE_URL", "serve:8080"),
        ("BINWATCH_GATE_POLICY", "best"),
        ("BINWATCH_GATE_LEVEL", "off"),
        ("BINWATCH_GATE_MAX_RMSE_RISE", "of"),
    ],
)
def test_a_value_outside_its_range_is_named(variable: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(PromoterSettings, {variable: text})
    assert f"{variable} is {text!r}; give " in str(caught.value)


class Inner(Settings):
    """Settings with a prefix of their own."""

    share: FloatOrOff = Field(default=0.5, ge=0, le=1, description="a share", validation_alias="BINWATCH_SHARE")


class Outer(Settings):
    """Settings that hold others."""

    number: int = Field(default=3, gt=0, lt=10, description="a number")
    switch: bool = Field(default=False, description="a switch")
    address: WebAddress | None = Field(default=None, description="an address")
    inner: Inner = Inner()


def test_all_problems_are_listed_at_once_in_words() -> None:
    environ = {"BINWATCH_NUMBER": "10", "BINWATCH_SHARE": "much", "BINWATCH_ADDRESS": "example.com"}
    with pytest.raises(SettingsError) as caught:
        read(Outer, environ, {"BINWATCH_SWITCH": "perhaps"})
    assert str(caught.value).split("; ") == [
        "BINWATCH_NUMBER is '10'",
        "give a whole number above 0 below 10 (a number)",
        "--switch is 'perhaps'",
        "give 1 or 0 (a switch)",
        "BINWATCH_ADDRESS is 'example.com'",
        "give an address that starts with http:// or https://",
        "BINWATCH_SHARE is 'much'",
        "give a number from 0 to 1, or off (a share)",
    ]


def test_an_empty_variable_is_not_set() -> None:
    environ = {"BINWATCH_NUMBER": "", "BINWATCH_SHARE": " ", "BINWATCH_ADDRESS": ""}
    assert read(Outer, environ) == Outer()


def test_an_option_wins_over_the_environment() -> None:
    assert read(Outer, {"BINWATCH_NUMBER": "4"}, {"BINWATCH_NUMBER": "5"}).number == 5
    assert read(Outer, {"BINWATCH_NUMBER": "many"}, {"BINWATCH_NUMBER": "5"}).number == 5


def test_values_are_read_with_their_types() -> None:
    environ = {"BINWATCH_NUMBER": " 4 ", "BINWATCH_SWITCH": "1", "BINWATCH_SHARE": "OFF"}
    assert read(Outer, environ) == Outer(number=4, switch=True, inner=Inner(share=None))


def test_constructing_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINWATCH_NUMBER", "4")
    assert Outer().number == 3
    assert read(Outer, {}).number == 3
