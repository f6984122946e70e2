"""What the scripts share: options with their environment variables, logs, errors, exit codes.

Exit codes: 0 done, 1 error, 2 usage, 3 the gate refused.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serve.errors import BinwatchError, SettingsError
from trainer import counts, prepared, signing, synthetic
from trainer.dataset import DataSpec
from trainer.recipes import PRECISIONS, RECIPES, Recipe
from trainer.rules import RULES

OK, ERROR, USAGE, REFUSED = 0, 1, 2, 3
DRAWN_PHOTOS = 1000


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
    to.add_argument("--drop-suspects", default=0.0, type=float, metavar="SHARE",
                    help="leave out the training photos that scripts/audit_labels.py doubts most")  # fmt: skip
    to.add_argument("--relabel-file", metavar="CSV", help="columns id, count: other counts for training photos")


def add_recipe_options(
    to: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ, but: Sequence[str] = ()
) -> None:  # fmt: skip
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


def stop_on(options: Mapping[str, Any]) -> frozenset[str]:
    """The rules that end a training. Raises SettingsError for one that there is not."""
    wanted = frozenset(filter(None, str(options.get("stop_on") or "").replace(" ", "").split(",")))
    unknown = sorted(wanted - set(RULES))
    _refuse([f"there is no rule {each!r}; choose of {', '.join(RULES)}" for each in unknown])
    return wanted


def data_spec(options: Mapping[str, Any], drawn: Path) -> DataSpec:
    """The data that the options name; without any, bins are drawn into ``drawn`` once."""
    problems: list[str] = []
    limit = _number(options, "limit", int, problems)
    source = _source(options.get("data"), drawn)
    prepared_counts = prepared.counts_of(source) if source else None
    try:
        wanted = counts.parse(str(options.get("counts") or prepared_counts or "1-5"))
    except BinwatchError as error:
        problems.append(str(error))
    seed = _number(options, "data_seed", int, problems)
    share = _number(options, "train_share", float, problems)
    suspects = _number(options, "drop_suspects", float, problems)
    _refuse(problems)
    relabel_file = Path(options["relabel_file"]) if options.get("relabel_file") else None
    share = 1.0 if share is None else share
    return DataSpec(source or _drawn(drawn), wanted, limit, seed or 0, share, suspects or 0.0, relabel_file)


def recipe(name: str, options: Mapping[str, Any]) -> Recipe:
    """The recipe of that name, with the numbers that the options override. Raises SettingsError."""
    problems = [] if name in RECIPES else [f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}"]
    wanted: dict[str, Any] = {
        key: _number(options, key, int, problems) for key in ("epochs", "size_px", "batch_size", "seed")
    }
    wanted["learning_rate"] = _number(options, "learning_rate", float, problems)
    for key, least in (("epochs", 1), ("size_px", 32), ("batch_size", 2)):
        if wanted[key] is not None and wanted[key] < least:
            problems.append(f"{key} is {wanted[key]}; give at least {least}")
    if wanted["learning_rate"] is not None and not 0 < wanted["learning_rate"] < 10:
        problems.append(f"learning_rate is {wanted['learning_rate']}; give a number between 0 and 10")
    wanted |= {key: options.get(key) or None for key in ("architecture", "weights", "precision")}
    if wanted["precision"] not in (None, *PRECISIONS):
        problems.append(f"precision is {wanted['precision']!r}; choose one of {', '.join(PRECISIONS)}")
    _refuse(problems)
    return replace(RECIPES[name], **{key: value for key, value in wanted.items() if value is not None})


def _number(options: Mapping[str, Any], key: str, kind: Callable[[str], Any], problems: list[str]) -> Any:
    text = options.get(key)
    if text is None or text == "":
        return None
    try:
        return kind(text)
    except (TypeError, ValueError):
        problems.append(f"{key} is {text!r}, which is not a number")
        return None


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SettingsError("; ".join(problems))


def _source(data: str | None, drawn: Path) -> Path | None:
    """The folder that was named; one that mirrors the bucket where an S3 address was."""
    if data and data.startswith("s3://"):
        from trainer import transfer  # boto3 takes half a second, and most calls do without

        return transfer.mirror(data, drawn.with_name("s3"))
    return Path(data) if data else None


def _drawn(folder: Path) -> Path:
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        synthetic.draw_dataset(partial, DRAWN_PHOTOS)
        partial.rename(folder)
    return folder


def emit(args: argparse.Namespace, result: Any, text: str) -> None:
    """The result on stdout: one JSON object with --json, else ``text``."""
    print(json.dumps(result) if args.json else text, flush=True)


def log_to_stderr() -> None:
    """Our own words, and the warnings of libraries."""
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    for ours in ("trainer", "serve"):
        logging.getLogger(ours).setLevel(logging.INFO)


def leave_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that contexts are left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def run(main: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run a script's main and exit with its code; an error becomes one readable line on stderr."""
    log_to_stderr()
    leave_on_sigterm()
    try:
        sys.exit(main(args))
    except BinwatchError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE if isinstance(error, SettingsError) else ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
