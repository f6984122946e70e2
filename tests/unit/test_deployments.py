from trainer.registry.deployments import Deployment, deduplicate, previous_version
from trainer.registry.entities import Status


def records(*moves: str) -> list[Deployment]:
    """Deployments, newest first, from moves in order: ``3`` promotes version 3, ``<2`` rolls back to version 2."""
    return [
        Deployment(
            version=move.lstrip("<"),
            did=Status.ROLLED_BACK if move.startswith("<") else Status.PROMOTED,
            reason="",
            at_s=float(at_s),
            train_run=move.lstrip("<"),
        )
        for at_s, move in enumerate(moves)
    ][::-1]


def usable(*versions: str) -> dict[str, str]:
    return {version: version for version in versions}


def test_a_rollback_returns_to_the_version_below() -> None:
    assert previous_version(records("1", "2", "3"), usable("1", "2", "3")) == "2"
    assert previous_version(records("1"), usable("1")) is None
    assert previous_version([], {}) is None


def test_a_second_rollback_goes_one_further_and_the_third_has_nowhere_to_go() -> None:
    assert previous_version(records("1", "2", "3", "<2"), usable("1", "2")) == "1"
    assert previous_version(records("1", "2", "3", "<2", "<1"), usable("1")) is None


def test_after_a_rollback_a_new_version_lies_on_the_one_returned_to() -> None:
    assert previous_version(records("1", "2", "3", "<2", "4"), usable("1", "2", "4")) == "2"


def test_versions_that_are_gone_or_were_taken_back_are_passed_over() -> None:
    assert previous_version(records("1", "2", "3"), usable("1", "3")) == "1"


def test_a_version_of_another_registry_is_none_to_return_to() -> None:
    assert previous_version(records("1", "2"), {"1": "another run", "2": "2"}) is None


def test_a_record_that_was_sent_twice_counts_once_and_from_the_first_time_on() -> None:
    twice = records("1", "2", "2", "<1")
    assert [(record.version, record.at_s) for record in deduplicate(twice)] == [("1", 3.0), ("2", 1.0), ("1", 0.0)]
