"""What the scripts share: options with their environment variables, output, exit codes.

Exit codes: 0 done, 1 error, 2 usage or settings, 3 the gate refused.
"""

import argparse
import json
import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Collection, Mapping
from pathlib import Path

from serve.settings import AnySettings, Settings, read, settings_of
from serve.settings.common import MlflowSettings, StateSettings
from trainer.pipeline.trainer_settings import PhotoSettings
from trainer.training.recipes import PRECISIONS
from trainer.training.rules import RULES


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


def add_state_option(to: ArgumentParser, purpose: str, environ: Mapping[str, str] = os.environ) -> None:
    """--state; ``purpose``: what the script does with the folder."""
    to.add_argument(
        "--state", type=Path, default=read(StateSettings, environ).state, help=f"{purpose}; also BINWATCH_STATE"
    )


def add_data_options(
    to: ArgumentParser, environ: Mapping[str, str] = os.environ, exclude: Collection[str] = ()
) -> None:
    """--data, --counts, --limit, unless ``exclude`` names them, --data-seed, and what changes the training photos."""
    for setting in settings_of(PhotoSettings):
        if setting.path[-1] not in exclude:
            default = environ.get(setting.variable) or None
            to.add_argument(setting.option, default=default, help=f"{setting.sentence}; also {setting.variable}")
    to.add_argument("--data-seed", default=0, type=int, help="seed of the subset and the split")
    to.add_argument("--train-share", default=1.0, type=float, help="share of the training photos that is used")
    to.add_argument(
        "--drop-suspects",
        default=0.0,
        type=float,
        metavar="SHARE",
        help="share of the training photos to leave out: those that scripts/audit_labels.py doubts most",
    )
    to.add_argument(
        "--relabel-file", metavar="CSV", help="corrected counts of training photos, with the columns id and count"
    )


def add_recipe_options(
    to: ArgumentParser, environ: Mapping[str, str] = os.environ, exclude: Collection[str] = ()
) -> None:
    """Options that override parts of a recipe, except those in ``exclude``."""
    descriptions = {
        "epochs": "number of epochs; also BINWATCH_EPOCHS",
        "size-px": "side of the square that a photo is resized to, in pixels",
        "batch-size": "photos per step",
        "learning-rate": "peak of the learning rate",
        "seed": "seed of weights, order and augmentation",
        "architecture": "another network than the recipe's",
        "weights": "weights of the network's body: none, pretrained, or a file",
        "precision": f"precision of the training: {', '.join(PRECISIONS)}",
    }
    for name, description in descriptions.items():
        if name not in exclude:
            default = environ.get("BINWATCH_EPOCHS") or None if name == "epochs" else None
            to.add_argument(f"--{name}", default=default, help=description)


def add_training_options(to: ArgumentParser) -> None:
    """Options of a training run."""
    to.add_argument("--stop-on", default="", metavar="RULES", help=f"rules that stop it, of {', '.join(RULES)}")
    to.add_argument("--checkpoints", type=Path, help="folder to resume an interrupted training from; without, --out")


def emit(args: Namespace, result: object, text: str) -> None:
    """Print the result: one JSON object with --json, else ``text``."""
    print(json.dumps(result) if args.json else text, flush=True)
