"""What the scripts share: options with their environment variables, output, exit codes.

Exit codes: 0 done, 1 error, 2 usage or settings, 3 the gate refused.
"""

import argparse
import json
import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping

from serve.settings import AnySettings, Settings, read, settings_of
from serve.settings.common import MlflowSettings


def parser(description: str, environ: Mapping[str, str] = os.environ) -> ArgumentParser:
    """A parser with the options that every script has."""
    root = ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    root.add_argument("--debug", action="store_true", help="show tracebacks")
    root.add_argument("--json", action="store_true", help="print the result as one JSON object")
    root.add_argument(
        "--tracking-uri",
        default=read(MlflowSettings, environ).tracking_uri,
        help="address of the MLflow server, also MLFLOW_TRACKING_URI",
    )
    return root


def add_settings(to: ArgumentParser, cls: type[Settings], *names: str) -> None:
    """Options for the settings of ``cls`` with these field names, or for all; ``read_settings`` reads them."""
    for setting in settings_of(cls):
        if names and (setting.path[-1] not in names or len(setting.path) > 1):
            continue
        option, variable = setting.option, setting.variable
        if setting.field.annotation is bool:
            help_text = f"{setting.sentence} ({variable})"
            to.add_argument(option, dest=variable, action="store_const", const="1", default=SUPPRESS, help=help_text)
            continue
        default = setting.default and f"default {setting.default}"
        details = "; ".join(filter(None, (setting.allowed, variable, default)))
        metavar = option.removeprefix("--").replace("-", "_").upper()
        help_text = f"{setting.sentence} ({details})"
        to.add_argument(option, dest=variable, default=SUPPRESS, metavar=metavar, help=help_text)


def read_settings(cls: type[AnySettings], args: Namespace, environ: Mapping[str, str] = os.environ) -> AnySettings:
    """The settings of a script: its options, which win, and the environment. Raises SettingsError."""
    options = {setting.variable: vars(args).get(setting.variable) for setting in settings_of(cls)}
    texts = {variable: text for variable, text in options.items() if text is not None}
    return read(cls, {**environ, "MLFLOW_TRACKING_URI": args.tracking_uri}, texts)


def emit(args: Namespace, result: object, text: str) -> None:
    """Print the result: one JSON object with --json, else ``text``."""
    print(json.dumps(result) if args.json else text, flush=True)
