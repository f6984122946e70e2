"""The stages in which a challenger gets its traffic before it becomes the champion: a small state machine.

The promoter calls ``step`` in each round, once the challenger is loaded and has passed its canary. The stage is told to
the gateways through a ``RouteBoard``, which also holds what they report. Nothing is stored but a status for people: a
promoter that was killed begins with the first stage again, and so does one that could not finish a round, because
while it cannot judge a challenger, the champion answers alone.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from serve.errors import TrackingError
from serve.rollout.probation import ProbationPolicy
from serve.routing.comparison import Comparison
from serve.routing.route_board import RouteBoard
from serve.routing.route_table import Trial
from trainer.promotion.expected_disagreement import expected_disagreement
from trainer.promotion.notices import Notices
from trainer.promotion.rollout_policy import RolloutPolicy, Stage
from trainer.promotion.trial_decision import Expected, TrialDecision, TrialStep, decide
from trainer.promotion.trial_status import TrialStatus
from trainer.registry.entities import Version
from trainer.registry.mlflow_registry import Registry

log = logging.getLogger(__name__)

STATUS_S = 10.0
"""Time between two writes of the status, while a stage goes on."""


@dataclass(kw_only=True)
class _Rollout:
    """A rollout under way. ``before``: the comparison of the stages that are over; ``decision``: the last one."""

    challenger: Version
    champion: Version
    expected: Mapping[str, Expected]
    before: Comparison
    stage: int = -1
    trial: Trial | None = None
    start_s: float = 0.0
    decision: TrialDecision
    noted_s: float = float("-inf")

    def is_of(self, challenger: Version, champion: Version) -> bool:
        """Whether it is about this pair; the tags of versions change, their runs do not."""
        pairs = ((self.challenger, challenger), (self.champion, champion))
        return all((own.number, own.run_id) == (current.number, current.run_id) for own, current in pairs)


class Trials:
    """The rollout that is under way, if any. ``board``: None where this process talks to no gateway; ``clock``: in
    seconds, monotonic."""

    def __init__(
        self,
        registry: Registry,
        policy: RolloutPolicy | None = None,
        limits: ProbationPolicy | None = None,
        board: RouteBoard | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._board, self._clock = registry, board, clock
        self._policy, self._limits = policy or RolloutPolicy(), limits or ProbationPolicy()
        self._rollout: _Rollout | None = None
        self._stepped = False
        self._notices = Notices()

    @property
    def version(self) -> str:
        """The challenger whose rollout is under way, or empty."""
        return self._rollout.challenger.number if self._rollout else ""

    @contextmanager
    def round(self) -> Iterator[None]:
        """One round of the promoter: a rollout that it does not continue ends."""
        self._stepped = False
        try:
            yield
        finally:
            if not self._stepped:
                self.end()

    def step(self, challenger: Version, champion: Version | None) -> TrialDecision:
        """Go on with the rollout of a challenger that is loaded beside the champion.

        PROCEED means that it may become the champion. Raises TrackingError.
        """
        if champion is None or not self._policy.stages:
            return TrialDecision(step=TrialStep.PROCEED, reason="all of the traffic at once")
        if self._board is None:
            reason = f"version {challenger.number} waits for the promoter that watches: it gets its traffic in stages"
            return TrialDecision(step=TrialStep.WAIT, reason=reason)
        self._stepped = True
        rollout = self._rollout
        if rollout is None or not rollout.is_of(challenger, champion):
            rollout = self._rollout = self._begin(challenger, champion)
            self._enter_stage(rollout, self._board)
        if rollout.decision.step == TrialStep.WAIT:
            self._go_on(rollout, self._board)
        if rollout.decision.step != TrialStep.WAIT:  # it stays the decision, until the promoter has acted on it
            self._board.set_trial(None)
        return rollout.decision

    def end(self) -> None:
        """End the rollout that is under way, if any: the champion answers alone."""
        if self._rollout and self._board:
            self._board.set_trial(None)
        self._rollout = None

    def _begin(self, challenger: Version, champion: Version) -> _Rollout:
        return _Rollout(
            challenger=challenger,
            champion=champion,
            expected=expected_disagreement(self._registry, champion, challenger),
            before=Comparison(trial=""),
            decision=TrialDecision(step=TrialStep.WAIT, reason="it begins"),
        )

    def _enter_stage(self, rollout: _Rollout, board: RouteBoard) -> None:
        """Begin the next stage."""
        rollout.stage += 1
        stage = self._policy.stages[rollout.stage]
        number = rollout.challenger.number
        rollout.trial = Trial(
            id=f"{number}-{rollout.stage}-{uuid.uuid4().hex[:12]}", version=number, mode=stage.mode, share=stage.share
        )
        rollout.decision = replace(rollout.decision, step=TrialStep.WAIT, look=-1)
        rollout.start_s, rollout.noted_s = self._clock(), float("-inf")
        board.set_trial(rollout.trial)
        log.info("version %s beside version %s: %s", number, rollout.champion.number, stage)

    def _go_on(self, rollout: _Rollout, board: RouteBoard) -> None:
        """Decide about the current stage, and begin the next one where it is over."""
        assert rollout.trial
        comparison = board.comparison(rollout.trial.id)
        rollout.decision = decide(
            self._policy,
            self._limits,
            comparison,
            rollout.expected,
            self._clock() - rollout.start_s,
            rollout.decision.look,
        )
        self._warn_of_silence(rollout, board)
        self._note(rollout, comparison)
        if rollout.decision.step == TrialStep.PROCEED:
            log.info("version %s, %s: %s", self.version, self._stage(rollout), rollout.decision.reason)
            if not self._is_last(rollout):
                rollout.before = rollout.before.plus(comparison)
                self._enter_stage(rollout, board)

    def _warn_of_silence(self, rollout: _Rollout, board: RouteBoard) -> None:
        if board.gateways(self._clock()):
            self._notices.clear("gateways")
            return
        text = "no gateway reports to this promoter; set BINWATCH_PROMOTER_URL of the gateways"
        self._notices.warn("gateways", f"version {rollout.challenger.number} waits: {text}")
        if rollout.decision.step == TrialStep.WAIT:
            rollout.decision = replace(rollout.decision, reason=f"{rollout.decision.reason}; no gateway reports")

    def _note(self, rollout: _Rollout, comparison: Comparison) -> None:
        """Store the state for people. MLflow may be away: that is no reason to return a challenger, or to keep it."""
        now_s, step = self._clock(), rollout.decision.step
        if step == TrialStep.WAIT and now_s - rollout.noted_s < STATUS_S:
            return
        status = TrialStatus(
            version=rollout.challenger.number,
            champion=rollout.champion.number,
            plan=self._policy.plan,
            stage=str(self._stage(rollout)),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            step=TrialStep.WAIT if step == TrialStep.PROCEED and not self._is_last(rollout) else step,
            reason=rollout.decision.reason,
            comparison=rollout.before.plus(comparison),
            expected=rollout.expected,
        )
        try:
            self._registry.set_trial_status(rollout.challenger.number, status.to_text())
        except TrackingError as error:
            self._notices.warn("status", f"the state of the rollout is not stored: {error}")
        else:
            rollout.noted_s = now_s
            self._notices.clear("status")

    def _is_last(self, rollout: _Rollout) -> bool:
        return rollout.stage + 1 == len(self._policy.stages)

    def _stage(self, rollout: _Rollout) -> Stage:
        return self._policy.stages[rollout.stage]
