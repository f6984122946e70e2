"""From the words of a command line or of hyperparameters to values: which data, which recipe, which rules."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from serve.errors import BinwatchError, SettingsError
from trainer.data import counts, prepared, synthetic
from trainer.data.dataset import DataSpec
from trainer.training.recipes import PRECISIONS, RECIPES, Recipe
from trainer.training.rules import RULES

DRAWN_PHOTOS = 1000


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
        from trainer.data import transfer  # boto3 takes half a second, and most calls do without

        return transfer.mirror(data, drawn.with_name("s3"))
    return Path(data) if data else None


def _drawn(folder: Path) -> Path:
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        synthetic.draw_dataset(partial, DRAWN_PHOTOS)
        partial.rename(folder)
    return folder
