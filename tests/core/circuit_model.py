"""A slow, obvious model of the whole circuit, written from the rules alone: plain lists and ifs, one call after another."""

from dataclasses import dataclass, field

from aiobreaker.core.circuit import LEAST_LEASE, Rules
from aiobreaker.core.conditions import SlowCallRate
from aiobreaker.core.eras import State
from aiobreaker.core.outcomes import Outcome

from .model import ConditionModel


@dataclass
class Call:
    """An admitted call: when it began, and in which era."""

    began: float
    era: int
    trial: bool


@dataclass
class CircuitModel:
    """What a circuit must do. `states` are all states so far, in order."""

    rules: Rules
    state: State = State.CLOSED
    era: int = 0
    until: float = 0.0
    attempt: int = 0
    lease: float = 0.0
    quiet_until: float | None = None
    conditions: list[ConditionModel] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)
    forfeited: list[Call] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)
    inconclusive: int = 0
    states: list[State] = field(default_factory=lambda: [State.CLOSED])
    late: int = 0

    def __post_init__(self) -> None:
        self.conditions = [ConditionModel(condition) for condition in self.rules.conditions]

    # -- transitions

    def enter(self, state: State) -> None:
        if state is not self.state:
            self.states.append(state)
        self.state = state
        self.era += 1
        self.conditions = [ConditionModel(condition) for condition in self.rules.conditions]
        self.verdicts, self.inconclusive, self.quiet_until = [], 0, None

    def open(self, now: float, attempt: int, duration: float | None = None) -> None:
        open_for = self.rules.schedule.seconds(attempt) if duration is None else duration
        self.until, self.attempt, self.lease = now + open_for, attempt, max(open_for, LEAST_LEASE)
        self.enter(State.OPEN)

    def half_open(self, now: float) -> None:
        if self.state is State.HALF_OPEN:
            return
        if self.state is not State.OPEN:
            self.attempt, self.lease = 0, max(self.rules.schedule.seconds(0), LEAST_LEASE)
        if self.rules.trials.lease is not None:
            self.lease = self.rules.trials.lease
        self.enter(State.HALF_OPEN)

    # -- calls

    @property
    def trials(self) -> list[Call]:
        return [call for call in self.running if call.trial and call.era == self.era and call not in self.forfeited]

    def start(self, now: float) -> Call | None:
        self.expire(now)
        if self.state is State.OPEN and now >= self.until:
            self.half_open(now)
        if self.state in (State.OPEN, State.FORCED_OPEN):
            return None
        if self.state is State.HALF_OPEN:
            rules = self.rules.trials
            if len(self.trials) >= rules.concurrent or len(self.trials) + len(self.verdicts) >= rules.count:
                return None
        call = Call(now, self.era, self.state is State.HALF_OPEN)
        self.running.append(call)
        return call

    def expire(self, now: float) -> None:
        if self.state is not State.HALF_OPEN:
            return
        over = [call for call in self.trials if now >= call.began + self.lease]
        self.forfeited += over
        self.verdicts += [False] * len(over)
        self.decide(now)

    def decide(self, now: float) -> None:
        rules = self.rules.trials
        required = rules.count if rules.required is None else rules.required
        if self.verdicts.count(True) >= required:
            self.enter(State.CLOSED)
        elif self.verdicts.count(False) > rules.count - required:
            self.open(now, self.attempt + 1)

    def finish(self, call: Call, outcome: Outcome, now: float, hint: float | None = None) -> None:
        if call.era == self.era:
            self.expire(now)
        self.running.remove(call)
        if call.era != self.era or call in self.forfeited:
            self.late += 1
            return
        elapsed = now - call.began
        if call.trial:
            self._finish_trial(outcome, elapsed, now, hint)
        elif self.state is not State.DISABLED:
            self._finish_closed(outcome, elapsed, now, hint)

    def _finish_trial(self, outcome: Outcome, elapsed: float, now: float, hint: float | None) -> None:
        thresholds = [condition.slower_than for condition in self.rules.conditions if isinstance(condition, SlowCallRate)]
        slow = any(elapsed >= threshold for threshold in thresholds)
        if hint is not None:
            self.open(now, self.attempt + (outcome is Outcome.FAILURE), hint)
        elif outcome is Outcome.IGNORED or (outcome is Outcome.CANCELLED and not slow):
            self.inconclusive += 1
            most = self.rules.trials.max_inconclusive
            if self.inconclusive >= (2 * self.rules.trials.count if most is None else most):
                self.open(now, self.attempt)
        else:
            self.verdicts.append(outcome is Outcome.SUCCESS and not slow)
            self.decide(now)

    def _finish_closed(self, outcome: Outcome, elapsed: float, now: float, hint: float | None) -> None:
        if self.quiet_until is not None and now >= self.quiet_until:
            self.quiet_until = None
            self.conditions = [ConditionModel(condition) for condition in self.rules.conditions]
        met = False
        for condition in self.conditions:
            if outcome is not Outcome.IGNORED:
                failed, cancelled = outcome is Outcome.FAILURE, outcome is Outcome.CANCELLED
                if condition.record(now, failed=failed, elapsed=elapsed, cancelled=cancelled):
                    met = condition.met(now) or met
        if hint is None and not met:
            return
        if self.state is State.CLOSED:
            self.open(now, 0, hint)
        elif self.quiet_until is None:
            self.quiet_until = now + (self.rules.schedule.seconds(0) if hint is None else hint)
