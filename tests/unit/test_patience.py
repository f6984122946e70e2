"""What fails again and again waits longer each time, and is said once."""

import logging

import pytest

from trainer.promotion.notices import Notices
from trainer.promotion.patience import FIRST_WAIT_S, MAX_WAIT_S, Patience


def test_the_wait_doubles_up_to_a_limit_and_begins_again_after_a_success() -> None:
    now_s = 0.0
    patience = Patience(lambda: now_s)
    assert not patience.waits("7")
    waits_s = []
    for _ in range(12):
        waits_s.append(patience.fail("7"))
        assert patience.waits("7")
        assert not patience.waits("8")
        now_s += waits_s[-1]
        assert not patience.waits("7")
    assert waits_s[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits_s[-1] == MAX_WAIT_S
    patience.succeed("7")
    assert patience.fail("7") == FIRST_WAIT_S


def test_a_problem_is_logged_when_it_begins_and_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    with caplog.at_level(logging.WARNING):
        for text in ("lost", "lost", "lost", "away", "lost"):
            notices.warn("champion", text)
        notices.warn("scale", "lost")
        notices.clear("champion")
        notices.warn("champion", "lost")
    assert [record.getMessage() for record in caplog.records] == ["lost", "away", "lost", "lost", "lost"]
