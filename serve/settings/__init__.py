"""Settings: environment variables and command-line options as frozen, checked values.

Each service has one class, which lists all that can be set of it: ``GatewaySettings`` in serve/gateway/settings.py,
``PromoterSettings`` in trainer/promotion/promoter_settings.py, ``TrainerSettings`` in
trainer/pipeline/trainer_settings.py and ``MonitorSettings`` in serve/monitoring/monitor_settings.py. A field has a
type, a range, a default and a sentence; the sentence appears in messages, in ``--help`` and in .env.example.

Constructing a class never reads the environment; ``read`` does. This package needs pydantic, so nothing that travels in
an archive may import it: serve/*.py reads its few numbers with serve/environment.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from serve.environment import folder_or_bucket, server_address, web_address
from serve.errors import SettingsError

OFF = "off"
_OFF_IS_NONE = BeforeValidator(lambda value: None if str(value).lower() == OFF else value)
FloatOrOff = Annotated[float | None, _OFF_IS_NONE]
"""A number, or None where the variable says ``off``."""


WebAddress = Annotated[str, AfterValidator(web_address)]
"""An http:// or https:// address."""
BaseAddress = Annotated[WebAddress, AfterValidator(lambda text: text.rstrip("/"))]
"""The same, that paths are appended to: without a slash at its end."""
ServerAddress = Annotated[str, AfterValidator(server_address)]
"""The same, or unix:/PATH, a socket."""
FolderOrBucket = Annotated[str, AfterValidator(folder_or_bucket)]
"""A folder, or s3://bucket/prefix."""


class Settings(BaseSettings):
    """Base of all settings. ``validation_alias`` names the variable where prefix and field name do not."""

    model_config = SettingsConfigDict(
        env_prefix="BINWATCH_",
        frozen=True,
        populate_by_name=True,
        loc_by_alias=False,
        validate_default=False,
        allow_inf_nan=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is called with: values in code and tests do not depend on the environment."""
        return (init_settings,)


AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a settings class. ``path``: the field's name, after those of the fields that hold its class."""

    path: tuple[str, ...]
    variable: str
    field: FieldInfo

    @property
    def option(self) -> str:
        """The command-line option, for scripts that have one for this setting."""
        extra = self.field.json_schema_extra
        name = extra.get("option") if isinstance(extra, dict) else None
        return f"--{name or self.path[-1].replace('_', '-')}"

    @property
    def sentence(self) -> str:
        """What the setting is for."""
        return self.field.description or ""

    @property
    def default(self) -> str:
        """The default as the variable's text; empty for none."""
        return _text(self.field.default)

    @property
    def example(self) -> str:
        """The default, or where there is none a value that could be set."""
        return self.default or _text((self.field.examples or [None])[0])

    @property
    def allowed(self) -> str:
        """The values that can be set, such as ``a number from 0 to 1``; empty for text."""
        kinds = {self.field.annotation, *get_args(self.field.annotation)}
        if isinstance(self.field.annotation, type) and issubclass(self.field.annotation, StrEnum):
            return " or ".join(self.field.annotation)
        if bool in kinds:
            return "1 or 0"
        if not kinds & {int, float}:
            return ""
        words = ["a whole number" if int in kinds else "a number"]
        for limit in self.field.metadata:
            for name, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
                words += [f"{word} {_text(getattr(limit, name))}"] if hasattr(limit, name) else []
        return " ".join(words) + (f", or {OFF}" if _OFF_IS_NONE in self.field.metadata else "")


def settings_of(cls: type[Settings], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """All settings of a class, with those of the settings classes that its fields hold."""
    prefix = cls.model_config["env_prefix"]
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from settings_of(field.annotation, (*path, name))
        else:
            yield Setting(
                path=(*path, name), variable=str(field.validation_alias or f"{prefix}{name.upper()}"), field=field
            )


def read(cls: type[AnySettings], environ: Mapping[str, str], options: Mapping[str, str] = {}) -> AnySettings:
    """The settings that the environment sets; an empty variable counts as not set.

    ``options``: variable -> the text of its command-line option, which wins over the environment. Raises SettingsError
    that lists all values which cannot be used.
    """
    texts = {name: text.strip() for name, text in {**environ, **options}.items() if text.strip()}
    try:
        return cls.model_validate(_values(cls, texts))
    except ValidationError as error:
        raise SettingsError("; ".join(_problems(cls, error, texts, options))) from None


def problems_of(cls: type[Settings], environ: Mapping[str, str]) -> list[str]:
    """What the environment sets that ``read`` would refuse, a sentence each."""
    texts = {name: text.strip() for name, text in environ.items() if text.strip()}
    try:
        cls.model_validate(_values(cls, texts))
    except ValidationError as error:
        return list(_problems(cls, error, texts, {}))
    return []


def _problems(
    cls: type[Settings], error: ValidationError, texts: Mapping[str, str], options: Mapping[str, str]
) -> Iterator[str]:
    settings = {setting.path: setting for setting in settings_of(cls)}
    for problem in error.errors():
        location = tuple(str(part) for part in problem["loc"])
        ends = range(len(location), 0, -1)  # pydantic appends the member of a union
        setting = next(settings[location[:end]] for end in ends if location[:end] in settings)
        reason = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else ""
        yield _problem(setting, texts.get(setting.variable), reason, setting.variable in options)


def _values(cls: type[Settings], texts: Mapping[str, str]) -> dict[str, object]:
    """What ``texts``, by variable, say of the fields of ``cls``."""
    own = [setting for setting in settings_of(cls) if len(setting.path) == 1]
    source = EnvSettingsSource(cls)
    source.env_vars = {
        setting.variable.lower(): texts[setting.variable] for setting in own if setting.variable in texts
    }
    values: dict[str, object] = dict(source())
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            values[name] = _values(field.annotation, texts)
    return values


def _problem(setting: Setting, text: str | None, reason: str, is_option: bool) -> str:
    """One wrong value in words; ``reason``: what a validator says of it. Without a text, the reason says it all."""
    if text is None:
        return reason
    advice = reason or f"give {setting.allowed or 'another value'} ({setting.sentence})"
    return f"{setting.option if is_option else setting.variable} is {without_password(text)!r}; {advice}"


def without_password(text: str) -> str:
    """``text`` as it can be shown: of addresses in it, without their passwords."""
    text = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)\b(pass\w*|pwd|sslpassword)=[^&\s]+", r"\1=***", text)


def _text(value: object) -> str:
    """A value as the text of its variable."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value) if isinstance(value, str | int | Path) else ""
