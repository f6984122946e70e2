"""The benchmark of the recount list: how many wrong records its first bins hold, and how many it expects.

On the test split a share of the records is made wrong (``trainer/data/bin_records/wrong_records.py``), anew in each of
DRAWS draws; the archive has judged every right and every wrong record once. The list is compared with one by the
model's own probability of the recorded count, and with chance.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve import verdict
from serve.archives.archive import ask, manifest_of
from serve.errors import DataError
from serve.manifest import Manifest
from serve.recount.ranking import Judged, rank
from tests.benchmarks.bench_novelty import RECIPE
from tests.benchmarks.results import COUNTS, Result, machine, rounded
from trainer.data import prepared
from trainer.data.bin_records.records import right_records
from trainer.data.bin_records.wrong_records import Catalogue, Pairs, make_pairs
from trainer.data.dataset import DataSpec, Part
from trainer.training.run import run_training

SHARES, WRONG, DRAWS, MIN_RECORDS = (0.01, 0.02, 0.05, 0.1), 0.02, 200, 100
OWN, CHANCE = "ranking by the model's own probability", "chance"


def bench_recount(data: Path, archive: Path | None = None) -> Result:
    """How many times as many wrong records the first 2 % of the list hold as those of other lists.

    ``archive``: what to measure in place of a model that is trained here. It holds when they are no fewer than by the
    model's own probability.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        spec = DataSpec(data, counts=COUNTS)
        archive = archive or run_training(spec, RECIPE, Path(folder) / "out", None).archive
        manifest = manifest_of(archive)
        test = prepared.load_any(spec, manifest.size_px).test
        right = right_records(test.photos, COUNTS)
        if len(right) < MIN_RECORDS:
            raise DataError(f"{data} has {len(right)} test photos with sizes; it takes {MIN_RECORDS}")
        pairs = make_pairs(right, Catalogue(list(right.values())), seed=0, errors=1).within(manifest.classes)
        judged = judge(archive, test, pairs, manifest)
    draws = [draw(pairs, judged, seed) for seed in tqdm(range(DRAWS), "drawing")]
    return result_of(draws)


def judge(archive: Path, test: Part, pairs: Pairs, manifest: Manifest) -> list[Judged]:
    """What the archive's answers say of each pair; where it has too few calibration photos, the photo alone."""
    rows = sorted(set(pairs.rows.tolist()))
    places = [np.flatnonzero(pairs.rows == row) for row in rows]
    supposed = [[pairs.records[place].to_products() for place in members] for members in places]
    answers = ask(archive, [test.photos[row].path for row in rows], supposed=supposed)
    judged: dict[int, Judged] = {}
    for members, answer in zip(places, tqdm(answers, "judging records", len(rows), unit="photo"), strict=True):
        for place, with_products in zip(members.tolist(), answer["records"], strict=True):
            name = manifest.name_of(pairs.records[place].quantity)
            enough = len(manifest.record_scores.get(name, ())) >= verdict.min_calibration_photos(verdict.ALPHA)
            source, scores = (
                (with_products, manifest.record_scores) if with_products and enough else (answer, manifest.scores)
            )
            judged[place] = Judged(
                p_value=source["fit"][name],
                calibration_photos=len(scores.get(name, ())),
                scores=f"{name} {source is answer}",
                probability=source["probabilities"][name],
            )
    return [judged[place] for place in range(len(pairs.records))]


@dataclass(frozen=True)
class Draw:
    """Wrong records at each of SHARES: ``found`` in the list, by the model's ``own`` probability, ``expected`` in the
    list with the ``intervals``; ``chance``: in any order."""

    found: tuple[int, ...]
    own: tuple[int, ...]
    expected: tuple[float, ...]
    intervals: tuple[tuple[int, int], ...]
    chance: tuple[float, ...]


def draw(pairs: Pairs, judged: Sequence[Judged], seed: int) -> Draw:
    """Make the share WRONG of the records wrong, by each kind of error alike, and rank all."""
    chosen, wrong = _choose(pairs, np.random.default_rng(seed))
    bins = [judged[place] for place in chosen.tolist()]
    ranking = rank(bins)
    own = np.argsort([item.probability for item in bins], kind="stable")
    budgets = [max(1, round(share * len(bins))) for share in SHARES]
    expectations = [ranking.budget(budget, seed) for budget in budgets]
    return Draw(
        found=tuple(int(wrong[ranking.order[:budget]].sum()) for budget in budgets),
        own=tuple(int(wrong[own[:budget]].sum()) for budget in budgets),
        expected=tuple(item.wrong for item in expectations),
        intervals=tuple(item.interval for item in expectations),
        chance=tuple(budget * float(wrong.mean()) for budget in budgets),
    )


def _choose(pairs: Pairs, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of one pair for each photo, and which of them are wrong."""
    chosen = {int(row): place for place, row in enumerate(pairs.rows) if pairs.kinds[place] is None}
    rows = rng.permutation(list(chosen))[: round(WRONG * len(chosen))].tolist()
    for row in rows:
        places = np.flatnonzero((pairs.rows == row) & ~pairs.right)
        if len(places):
            chosen[row] = int(rng.choice(places))
    places = np.array(list(chosen.values()))
    return places, ~pairs.right[places]


def result_of(draws: Sequence[Draw]) -> Result:
    """The result of all draws."""
    found, own, chance, expected = (
        np.array([getattr(item, name) for item in draws]) for name in ("found", "own", "chance", "expected")
    )
    means, place = {OWN: own.mean(axis=0), CHANCE: chance.mean(axis=0)}, SHARES.index(0.02)
    ratios = {name: float(found[:, place].mean() / max(values[place], 1e-9)) for name, values in means.items()}
    covered = [
        [low <= number <= high for number, (low, high) in zip(item.found, item.intervals, strict=True)]
        for item in draws
    ]
    runs = {"found": found, "expected": expected, OWN: own, CHANCE: chance, "intervals that hold it": np.array(covered)}
    return Result(
        name="recount",
        ratio=rounded(ratios[OWN]),
        target=1.0,
        holds=ratios[OWN] >= 1.0,
        peers={name: rounded(ratio) for name, ratio in ratios.items()},
        runs={
            **{
                f"{name}, in the first {share:.0%}": [rounded(float(values[:, n].mean()))]
                for name, values in runs.items()
                for n, share in enumerate(SHARES)
            },
            **{
                f"5 % and 95 % of found, in the first {share:.0%}": np.quantile(found[:, n], (0.05, 0.95)).tolist()
                for n, share in enumerate(SHARES)
            },
        },
        machine=machine(),
        compared="times as many wrong records in the first 2 % as",
    )
