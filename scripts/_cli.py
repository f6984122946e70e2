"""What the scripts share: options with their environment variables, logs, errors, exit codes.

Exit codes: 0 done, 1 error, 2 usage, 3 the gate refused.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.registry import signing
from trainer.training.recipes import PRECISIONS
from trainer.training.rules import RULES


def parser(description: str, environ: Mapping[str, str] = os.environ) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    made.add_argument("--json", action="store_true", help="print the result as one JSON object")
    made.add_argument(
        "--tracking-uri", default=environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000"), help="MLflow server"
    )
    return made


def add_data_options(to: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ) -> None:
    """--data, --counts, --limit, --data-seed, and what changes the training photos."""
    get = environ.get
    to.add_argument("--data", default=get("BINWATCH_DATA"), help="folder with bin-images/ and metadata/; drawn without")
    to.add_argument(
        "--counts",
        default=get("BINWATCH_COUNTS") or None,
        help="the counts to tell apart: 0-5, 1-8+; 1-5 without",
    )
    to.add_argument("--limit", default=get("BINWATCH_LIMIT") or None, help="a stratified subset of so many photos")
    to.add_argument("--data-seed", default=0, type=int, help="seed of the subset and the split")
    to.add_argument("--train-share", default=1.0, type=float, help="share of the training photos that is used")
    to.add_argument(
        "--drop-suspects",
        default=0.0,
        type=float,
        metavar="SHARE",
        help="leave out the training photos that scripts/audit_labels.py doubts most",
    )
    to.add_argument("--relabel-file", metavar="CSV", help="columns id, count: other counts for training photos")


def add_recipe_options(
    to: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ, but: Sequence[str] = ()
) -> None:
    """What may be changed of a recipe, ``but`` some."""
    options = {
        "epochs": {"default": environ.get("BINWATCH_EPOCHS") or None},
        "size-px": {"help": "side of the squashed photo"},
        "batch-size": {},
        "learning-rate": {"help": "the peak"},
        "seed": {"help": "of weights, order and augmentation"},
        "architecture": {"help": "another network than the recipe's"},
        "weights": {"help": "of the network's body: none, pretrained, or a file"},
        "precision": {"help": f"of the sums: {', '.join(PRECISIONS)}"},
    }
    for name, about in options.items():
        if name not in but:
            to.add_argument(f"--{name}", **about)  # type: ignore[arg-type]


def add_promoter_options(to: argparse.ArgumentParser, workers: int, environ: Mapping[str, str] = os.environ) -> None:
    """Where TorchServe and its model store are, and how the promoter watches; ``workers``: how many a version starts
    with, where nothing says it."""
    get = environ.get
    for name, port in (("inference", 8080), ("management", 8081), ("metrics", 8082)):
        to.add_argument(f"--{name}-url", default=get(f"BINWATCH_{name.upper()}_URL", f"http://127.0.0.1:{port}"))
    to.add_argument("--model-store", type=Path, default=Path(get("BINWATCH_MODEL_STORE", "var/models")))
    workers = int(get("BINWATCH_WORKERS") or workers)
    to.add_argument("--workers", type=int, default=workers, help="a version starts with")
    keys = signing.trusted(Path(get("BINWATCH_STATE") or "var"), environ)
    to.add_argument("--verify-key", type=Path, default=keys, help="keys whose archives are taken: file or folder")
    to.add_argument("--autoscale", action="store_true", default=get("BINWATCH_AUTOSCALE") == "1", help="by load")
    to.add_argument("--dry-run", action="store_true", help="only log what autoscaling would do")
    to.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    to.add_argument("--interval", type=float, default=3.0, help="seconds between two rounds")
    to.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-promoter"))


def add_training_options(to: argparse.ArgumentParser) -> None:
    """What may be said of how a training goes."""
    to.add_argument("--stop-on", default="", metavar="RULES", help=f"rules that end it, of {', '.join(RULES)}")
    to.add_argument("--checkpoints", type=Path, help="where an interrupted training is resumed from; --out without")


def emit(args: argparse.Namespace, result: Any, text: str) -> None:
    """The result on stdout: one JSON object with --json, else ``text``."""
    print(json.dumps(result) if args.json else text, flush=True)
