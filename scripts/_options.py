"""The options of scripts that train or promote: data, recipe, training run, state folder, promoter."""

import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Collection, Mapping
from pathlib import Path

from serve.settings import read, settings_of
from serve.settings.common import StateSettings
from trainer.pipeline.trainer_settings import PhotoSettings
from trainer.promotion.decisions import NEWEST
from trainer.training.recipes import PRECISIONS
from trainer.training.rules import RULES


def add_state(to: ArgumentParser, purpose: str, environ: Mapping[str, str] = os.environ) -> None:
    """--state; ``purpose``: what the script does with the folder."""
    to.add_argument(
        "--state", type=Path, default=read(StateSettings, environ).state, help=f"{purpose}; also BINWATCH_STATE"
    )


def add_data(to: ArgumentParser, environ: Mapping[str, str] = os.environ, exclude: Collection[str] = ()) -> None:
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


def add_recounts(to: ArgumentParser) -> None:
    """--recounts, for scripts that read photos themselves."""
    to.add_argument("--recounts", metavar="PLACE", help="folder or bucket of recounts, which are trained on, too")


def add_recipe(to: ArgumentParser, environ: Mapping[str, str] = os.environ, exclude: Collection[str] = ()) -> None:
    """Options that override parts of a recipe, except those in ``exclude``."""
    descriptions = {
        "epochs": "number of epochs; also BINWATCH_EPOCHS",
        "size-px": "side of the square that a photo is resized to, in pixels",
        "batch-size": "photos per step",
        "learning-rate": "peak of the learning rate",
        "seed": "seed of weights, order and augmentation",
        "architecture": "another network than the recipe's",
        "weights": "weights of the network's body: none, pretrained, or a file",
        "precision": f"number format of the training: {', '.join(PRECISIONS)}; auto chooses by a trial",
    }
    for name, description in descriptions.items():
        if name not in exclude:
            default = environ.get("BINWATCH_EPOCHS") or None if name == "epochs" else None
            to.add_argument(f"--{name}", default=default, help=description)


def add_training(to: ArgumentParser) -> None:
    """Options of a training run."""
    to.add_argument("--stop-on", default="", metavar="RULES", help=f"rules that stop it, of {', '.join(RULES)}")
    to.add_argument("--checkpoints", type=Path, help="folder to resume an interrupted training from; without, --out")


def add_promoter(to: ArgumentParser) -> None:
    """The options of scripts/promote.py that are no settings."""
    to.add_argument("--dry-run", action="store_true", help="only log what autoscaling would do")
    to.add_argument("--watch", action="store_true", help="run until SIGTERM")
    to.add_argument("--interval", type=float, default=3.0, help="seconds between two rounds")
    beat = Path(tempfile.gettempdir(), "binwatch-promoter")
    to.add_argument("--heartbeat", type=Path, default=beat, help="file that each round touches")
    to.add_argument("--rollback", nargs="?", const="by hand", metavar="WHY", help="return to the previous version")
    to.add_argument("--explain", nargs="?", const=NEWEST, metavar="VERSION", help="explain a decision")
    to.add_argument("--history", action="store_true", help="list which version served when")
