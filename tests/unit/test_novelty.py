"""Not a bin: a photo whose features are unlike those that the model learned from is `unsure`, and bins hardly ever."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.environment import Variables
from serve.errors import ArchiveError
from serve.evidence.novelty import AXES, MIN_PHOTOS, FeatureSpace, stored_scores, typical
from serve.verdict import NOVELTY_LIMIT, Verdict, VerdictKind, doubt, read_novelty_limit

WIDTH = 256
MATCH = Verdict(VerdictKind.MATCH, "2 is the most probable count", 0.9, ("2",))


def bins(photos: int, seed: int, width: int = WIDTH) -> NDArray[np.float64]:
    """Features ``(photos, width)`` of drawn bins: they spread in eight directions around a common one."""
    layout, rng = np.random.default_rng(99), np.random.default_rng(seed)
    centre, axes = layout.uniform(1, 2, width), layout.normal(size=(8, width))
    shapes = rng.normal(size=(photos, 8)) * np.linspace(1, 0.2, 8) * 0.3
    light = rng.uniform(0.5, 2, (photos, 1))
    return light * (centre + shapes @ axes + rng.normal(size=(photos, width)) * 0.1)


@pytest.fixture(scope="module")
def space() -> FeatureSpace:
    return FeatureSpace.of(bins(1500, 0))


@pytest.fixture(scope="module")
def scores(space: FeatureSpace) -> tuple[float, ...]:
    return stored_scores(space, bins(800, 1))


def p_values(space: FeatureSpace, scores: tuple[float, ...], features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([typical(score, scores) for score in space.scores(features)])


def test_of_bins_hardly_more_than_the_limit_are_taken_for_something_else(
    space: FeatureSpace, scores: tuple[float, ...]
) -> None:
    values = p_values(space, scores, bins(20_000, 2))
    for limit in (NOVELTY_LIMIT, 0.05):
        assert (values <= limit).mean() <= limit + 4 * np.sqrt(limit / 800)  # the calibration photos are a sample, too
    assert (values <= 0.1).mean() == pytest.approx(0.1, abs=0.04)
    assert space.scores(bins(20_000, 2)).mean() == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("kind", ["other directions", "nothing", "one channel", "not finite"])
def test_what_is_no_bin_is_as_unlike_as_can_be(kind: str, space: FeatureSpace, scores: tuple[float, ...]) -> None:
    features = {
        "other directions": np.random.default_rng(3).uniform(1, 2, (50, WIDTH)),
        "nothing": np.zeros((1, WIDTH)),
        "one channel": np.eye(WIDTH)[:50] * 30,
        "not finite": np.full((1, WIDTH), np.nan),
    }[kind]
    values = p_values(space, scores, features)
    assert values.max() <= NOVELTY_LIMIT
    assert values.min() > 0


def test_more_light_alone_makes_no_difference(space: FeatureSpace) -> None:
    features = bins(50, 4)
    assert space.scores(5 * features) == pytest.approx(space.scores(features))


def test_it_is_stored_without_a_pickle_and_read_as_it_was(space: FeatureSpace, tmp_path: Path) -> None:
    space.write(tmp_path / "novelty.npz")
    with np.load(tmp_path / "novelty.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype for name in arrays.files} == dict.fromkeys(
            ("centre", "axes", "spreads", "residual"), np.float32
        )
    stored = FeatureSpace.read(tmp_path / "novelty.npz")
    assert stored.axes.shape == (AXES, WIDTH)
    assert stored.scores(bins(50, 5)) == pytest.approx(space.scores(bins(50, 5)), rel=1e-4)


def damaged(kind: str, space: FeatureSpace) -> bytes | dict[str, object]:
    arrays: dict[str, object] = {"centre": space.centre, "axes": space.axes, "spreads": space.spreads, "residual": 1.0}
    kinds: dict[str, bytes | dict[str, object]] = {
        "empty": b"",
        "text": b"not a zip",
        "a pickle": {**arrays, "axes": np.array([print], dtype=object)},
        "a missing array": {name: array for name, array in arrays.items() if name != "centre"},
        "another width": {**arrays, "centre": space.centre[:-1]},
        "a spread of zero": {**arrays, "spreads": np.zeros(AXES)},
        "no residual": {**arrays, "residual": np.nan},
        "one axis": {**arrays, "axes": space.axes[0]},
    }
    return kinds[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "a pickle",
        "a missing array",
        "another width",
        "a spread of zero",
        "no residual",
        "one axis",
        "no file",
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(kind: str, space: FeatureSpace, tmp_path: Path) -> None:
    path = tmp_path / "novelty.npz"
    content = b"" if kind == "no file" else damaged(kind, space)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)  # type: ignore[arg-type]
    if kind == "no file":
        path.unlink()
    with pytest.raises(ArchiveError, match=r"novelty\.npz"):
        FeatureSpace.read(path)


def test_too_few_calibration_photos_make_no_test(space: FeatureSpace) -> None:
    assert MIN_PHOTOS == 199
    assert stored_scores(space, bins(MIN_PHOTOS - 1, 6)) == ()
    scores = stored_scores(space, bins(MIN_PHOTOS, 6))
    assert list(scores) == sorted(scores)
    assert typical(1e9, scores) == NOVELTY_LIMIT


def test_the_p_value_is_rounded_up_so_that_rounding_takes_no_bin_for_something_else() -> None:
    scores = tuple(map(float, range(1983)))
    assert typical(1974.0, scores) == 0.0051  # 10 / 1984 = 0.00504
    assert typical(-1.0, scores) == 1.0


@pytest.mark.parametrize("width", [2, 16, 64])
@pytest.mark.parametrize("photos", [3, 20, 300])
def test_narrow_networks_and_few_photos_have_a_space_too(width: int, photos: int) -> None:
    space = FeatureSpace.of(bins(photos, 7, width))
    assert np.isfinite(space.scores(bins(50, 8, width))).all()


def test_equal_photos_have_a_space_too() -> None:
    space = FeatureSpace.of(np.ones((300, 64)))
    assert np.isfinite(space.scores(bins(50, 8, 64))).all()


def test_an_answer_takes_a_fraction_of_a_millisecond() -> None:
    space = FeatureSpace.of(bins(400, 0, 1280))
    scores, photo = stored_scores(space, bins(800, 1, 1280)), bins(1, 2, 1280)
    seconds = []
    for _ in range(50):
        start = time.process_time()
        typical(float(space.scores(photo)[0]), scores)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.0005


def test_a_photo_unlike_bins_is_unsure_whatever_was_to_be_said_of_its_record() -> None:
    for kind in VerdictKind:
        judgement = replace(MATCH, verdict=kind)
        doubted = doubt(judgement, 0.005, NOVELTY_LIMIT)
        assert doubted == replace(judgement, verdict=VerdictKind.UNSURE, reason=doubted.reason, not_a_bin=True)
        assert "0.50%" in doubted.reason
        assert doubt(judgement, 0.0051, NOVELTY_LIMIT) == judgement


def test_without_a_test_nothing_is_doubted() -> None:
    assert doubt(MATCH, None, NOVELTY_LIMIT) == MATCH
    assert doubt(MATCH, 0.0001, 0.0) == MATCH


@pytest.mark.parametrize(
    ("text", "limit", "problems"),
    [("", 0.005, 0), ("0", 0.0, 0), ("0.1", 0.1, 0), ("0.11", 0.005, 1), ("-0.1", 0.005, 1), ("off", 0.005, 1)],
)
def test_the_limit_is_a_setting(text: str, limit: float, problems: int) -> None:
    read = Variables({"BINWATCH_NOVELTY": text})
    assert read_novelty_limit(read) == limit
    assert len(read.problems) == problems
