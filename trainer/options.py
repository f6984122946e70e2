"""From options, of a command line or as hyperparameters, to values: the data, the recipe and the stopping rules."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from serve.errors import BinwatchError, SettingsError
from trainer.data import counts, prepared, synthetic
from trainer.data.dataset import DataSpec
from trainer.training.recipes import PRECISIONS, RECIPES, Recipe
from trainer.training.rules import RULES

DRAWN_PHOTOS = 1500
"""Enough that each count has the 19 calibration photos or more that 5 % of false alarms take
(``min_calibration_photos`` in ``serve/verdict.py``), whatever the seed of the split."""
MIN_VALUES = {"epochs": 1, "size_px": 32, "batch_size": 2}

Number = TypeVar("Number", int, float)


def stop_on(options: Mapping[str, object]) -> frozenset[str]:
    """The names of the rules that stop a training early. Raises SettingsError."""
    names = frozenset(filter(None, str(options.get("stop_on") or "").replace(" ", "").split(",")))
    unknown = sorted(names - set(RULES))
    _refuse([f"there is no rule {name!r}; choose from {', '.join(RULES)}" for name in unknown])
    return names


def data_spec(options: Mapping[str, object], drawn: Path) -> DataSpec:
    """The data that the options name; if they name none, bins are drawn, once, into a folder beside ``drawn``.

    That folder is named after ``drawn`` and the version of the code that draws: other code draws other bins, and
    what was prepared from earlier ones stays valid.

    Raises SettingsError, and DataError if a bucket cannot be mirrored.
    """
    problems: list[str] = []
    data = str(options.get("data") or "")
    is_bucket = data.startswith("s3://")
    source = Path(data) if data and not is_bucket else drawn
    prepared_counts = prepared.counts_of(source)
    parsed_counts = counts.Counts()
    try:
        parsed_counts = counts.parse(str(options.get("counts") or prepared_counts or "1-5"))
    except BinwatchError as error:
        problems.append(str(error))
    limit = _number(options, "limit", int, problems)
    seed = _number(options, "data_seed", int, problems)
    train_share = _number(options, "train_share", float, problems)
    drop_suspects = _number(options, "drop_suspects", float, problems)
    _refuse(problems)
    spec = DataSpec(
        source,
        counts=parsed_counts,
        limit=limit,
        seed=seed or 0,
        train_share=1.0 if train_share is None else train_share,
        drop_suspects=drop_suspects or 0.0,
        relabel_file=Path(str(options["relabel_file"])) if options.get("relabel_file") else None,
        recounts=_recounts(str(options["recounts"]), drawn) if options.get("recounts") else None,
    )
    if is_bucket:
        return _mirrored(data, spec, drawn.with_name("s3"), bool(options.get("counts")))
    return spec if data else replace(spec, source=_draw(drawn))


def recipe(name: str, options: Mapping[str, object]) -> Recipe:
    """The recipe ``name`` with the values that the options override. Raises SettingsError."""
    problems = [] if name in RECIPES else [f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}"]
    values: dict[str, Any] = {
        key: _number(options, key, int, problems) for key in ("epochs", "size_px", "batch_size", "seed")
    }
    values["learning_rate"] = _number(options, "learning_rate", float, problems)
    for key, minimum in MIN_VALUES.items():
        if values[key] is not None and values[key] < minimum:
            problems.append(f"{key} is {values[key]}; give at least {minimum}")
    if values["learning_rate"] is not None and not 0 < values["learning_rate"] < 10:
        problems.append(f"learning_rate is {values['learning_rate']}; give a number between 0 and 10")
    values |= {key: options.get(key) or None for key in ("architecture", "weights", "precision")}
    if values["precision"] not in (None, *PRECISIONS):
        problems.append(f"precision is {values['precision']!r}; choose one of {', '.join(PRECISIONS)}")
    _refuse(problems)
    return replace(RECIPES[name], **{key: value for key, value in values.items() if value is not None})


def _number(
    options: Mapping[str, object], key: str, parse: Callable[[Any], Number], problems: list[str]
) -> Number | None:
    """The number that ``key`` is set to; None, and a problem, if it is not a number."""
    value = options.get(key)
    if value is None or value == "":
        return None
    try:
        return parse(value)
    except (TypeError, ValueError):
        problems.append(f"{key} is {value!r}, which is not a number")
        return None


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SettingsError("; ".join(problems))


def _mirrored(uri: str, spec: DataSpec, cache: Path, has_counts: bool) -> DataSpec:
    """``spec`` with a local copy of a bucket, and the counts of a prepared dataset unless it has others."""
    from trainer.data import transfer  # importing boto3 takes half a second, and most calls do not need it

    source = transfer.mirror(uri, cache, spec)
    prepared_counts = None if has_counts else prepared.counts_of(source)
    return replace(spec, source=source, counts=counts.parse(prepared_counts) if prepared_counts else spec.counts)


def _recounts(place: str, drawn: Path) -> Path:
    from trainer.data.mirrors.recount_mirror import RECOUNT_CACHE, recount_folder

    return recount_folder(place, drawn.with_name(RECOUNT_CACHE))


def _draw(drawn: Path) -> Path:
    folder = drawn.with_name(f"{drawn.name}-{synthetic.version()}")
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        synthetic.draw_dataset(partial, DRAWN_PHOTOS)
        partial.rename(folder)
    return folder
