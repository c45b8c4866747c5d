"""A slow, obvious model of the whole circuit, written from the rules alone: plain lists and ifs, one call after another.

Law: it keeps every call that ever was, and counts anew whenever it is asked.
"""

from itertools import takewhile
from math import inf

from aiobreaker.core.circuit import LEAST_LEASE, Rules
from aiobreaker.core.conditions import Condition, ConsecutiveFailures, SlowCallRate
from aiobreaker.core.eras import State, Totals
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.tallies import Reading
from aiobreaker.core.transitions import Cause, Forfeit, Transition
from aiobreaker.core.windows import LastCalls

from .model import Bucket, ConditionModel
from .records import Call, Ended, Entry, Found, Hold, Reconfigured, Refused


class Counted(ConditionModel):
    """What one condition has seen, the `aged` calls that are slow and still running, and how it goes on as another one."""

    def __init__(self, condition: Condition) -> None:
        super().__init__(condition)
        self.aged: list[Call] = []

    @property
    def watches(self) -> bool:
        return isinstance(self.condition, SlowCallRate) and self.condition.count_in_flight

    def age(self, running: list[Call], now: float) -> None:
        """Count the running calls that have become slow."""
        if isinstance(self.condition, SlowCallRate) and self.condition.count_in_flight:
            self.aged = [call for call in running if call.known and call.took(now) >= self.condition.slower_than]

    def remembered(self, now: float) -> list[bool]:
        return super().remembered(now) + [True for _ in self.aged]

    def reading(self, now: float, calls: int) -> Reading:
        """How it stands; failures in a row are among all `calls` of the era."""
        marks = self.remembered(now)
        if isinstance(self.condition, ConsecutiveFailures):
            in_a_row = len(list(takewhile(bool, reversed(marks))))
            return Reading(self.condition, in_a_row, calls, self.met(now))
        return Reading(self.condition, sum(marks), len(marks), self.met(now))

    def go_on_from(self, old: "Counted", now: float) -> None:
        """Take over what a condition of the same kind has seen, as exactly as it is known."""
        if _kind(old.condition) != _kind(self.condition):
            return
        if isinstance(old.condition, ConsecutiveFailures) or isinstance(self.condition, ConsecutiveFailures):
            self.marks = list(old.marks)
            return
        known = ConditionModel.remembered(old, now)
        by_time = [bucket for bucket in old.buckets if now < bucket.start + getattr(old.condition.window, "span", inf)]
        if isinstance(self.condition.window, LastCalls):
            # within a bucket nobody knows the order: the marked ones count as its last
            self.marks = [mark for bucket in by_time for mark in sorted(bucket.marks)] or known
        elif isinstance(old.condition.window, LastCalls):
            self.buckets = [Bucket(now, known)]
        else:
            self.buckets = [Bucket(bucket.start, list(bucket.marks)) for bucket in by_time]


def _kind(condition: Condition) -> str:
    if isinstance(condition, ConsecutiveFailures):
        return "in a row"
    return "slow" if isinstance(condition, SlowCallRate) else "failed"


class CircuitModel:
    """What a circuit must do. `log` is everything that has happened, in order; reasons are left out."""

    def __init__(self, rules: Rules, now: float = 0.0, draw: float = 0.5) -> None:
        self.rules = rules
        self.draw = draw
        self.state = State.CLOSED
        self.era = 0
        self.since = now
        self.until = 0.0
        self.attempt = 0
        self.lease = 0.0
        self.quiet_until: float | None = None
        self.conditions = self.fresh()
        self.running: list[Call] = []
        self.verdicts: list[bool] = []
        self.inconclusive = 0
        self.holds: list[Hold] = []
        self.found: Found | None = None
        self.log: list[Entry] = []
        self.disabled_eras: list[int] = []

    def fresh(self) -> list[Counted]:
        return [Counted(condition) for condition in self.rules.conditions] if self.state is not State.DISABLED else []

    # -- what there is to see

    @property
    def transitions(self) -> list[Transition]:
        return [entry for entry in self.log if isinstance(entry, Transition) and not entry.shadow]

    @property
    def endings(self) -> list[Ended]:
        """Of this era, in time."""
        here = [entry for entry in self.log if isinstance(entry, Ended) and entry.era == self.era and not entry.late]
        return [] if self.state is State.DISABLED else here

    @property
    def last_ending(self) -> Ended:
        return [entry for entry in self.log if isinstance(entry, Ended)][-1]

    @property
    def failures(self) -> int:
        return [entry.outcome for entry in self.endings].count(Outcome.FAILURE)

    @property
    def calls(self) -> int:
        return [entry.outcome for entry in self.endings].count(Outcome.SUCCESS) + self.failures

    @property
    def refused(self) -> int:
        return len([entry for entry in self.log if isinstance(entry, Refused) and entry.era == self.era])

    @property
    def totals(self) -> Totals:
        ended = [entry for entry in self.log if isinstance(entry, Ended) and entry.era not in self.disabled_eras]
        outcomes = [entry.outcome for entry in ended if not entry.late]
        return Totals(
            successes=outcomes.count(Outcome.SUCCESS),
            failures=outcomes.count(Outcome.FAILURE),
            ignored=outcomes.count(Outcome.IGNORED),
            cancelled=outcomes.count(Outcome.CANCELLED),
            late=len([entry for entry in ended if entry.late]),
            refused=len([entry for entry in self.log if isinstance(entry, Refused)]),
        )

    def readings(self, now: float) -> tuple[Reading, ...]:
        """Running calls that have become slow by now are in it. What follows from that is for the next call to see."""
        flows = self.state in (State.CLOSED, State.METRICS_ONLY)
        for each in self.conditions:
            each.age([call for call in self.running if call.era == self.era], now)
        return tuple(condition.reading(now, self.calls) for condition in self.conditions) if flows else ()

    @property
    def trials(self) -> list[Call]:
        """Those that hold a slot."""
        return [call for call in self.running if call.era == self.era and call.state is State.HALF_OPEN and not call.forfeited]

    @property
    def wants_trial(self) -> bool:
        rules, running = self.rules.trials, len(self.trials)
        return running < rules.concurrent and running + len(self.verdicts) < rules.count

    def retry_after(self, now: float) -> float | None:
        if self.state is State.OPEN:
            return max(0.0, self.until - now)
        if self.state is not State.HALF_OPEN:
            return None
        return 0.0 if self.wants_trial else max(0.0, min(call.lease_until for call in self.trials) - now)

    # -- transitions

    def enter(self, state: State, now: float, cause: Cause, open_for: float | None = None) -> None:
        if state is not self.state:
            attempt = self.attempt if state is State.OPEN else 0
            self.log.append(Transition(self.state, state, cause, "", now, self.readings(now), open_for, attempt))
        self.state, self.since, self.era = state, now, self.era + 1
        if state is State.DISABLED:
            self.disabled_eras.append(self.era)
        self.conditions = self.fresh()
        self.verdicts, self.inconclusive, self.quiet_until = [], 0, None

    def open_time(self, attempt: int) -> float:
        return self.rules.schedule.seconds(attempt) * (1 + self.rules.jitter * (2 * self.draw - 1))

    def open(self, now: float, cause: Cause, attempt: int, duration: float | None = None) -> None:
        open_for = self.open_time(attempt) if duration is None else duration
        self.until, self.attempt = now + open_for, attempt
        self.enter(State.OPEN, now, cause, open_for)

    def half_open(self, now: float, cause: Cause) -> None:
        if self.state is not State.OPEN:
            self.attempt = 0
        usual = self.until - self.since if self.state is State.OPEN else self.rules.schedule.seconds(0)
        self.lease = max(usual, LEAST_LEASE) if self.rules.trials.lease is None else self.rules.trials.lease
        self.enter(State.HALF_OPEN, now, cause)

    def expire(self, now: float) -> None:
        """Trials that have run for longer than their lease have failed."""
        if self.state is not State.HALF_OPEN:
            return
        over = [call for call in self.trials if now >= call.lease_until]
        for call in over:
            call.forfeited = True
            self.verdicts.append(False)
        if over:
            self.log.append(Forfeit(len(over), now))
            self.decide(now, Cause.LEASE_EXPIRED)

    def decide(self, now: float, cause: Cause) -> None:
        rules = self.rules.trials
        required = rules.count if rules.required is None else rules.required
        if self.verdicts.count(True) >= required:
            self.enter(State.CLOSED, now, Cause.RECOVERED)
        elif self.verdicts.count(False) > rules.count - required:
            self.open(now, cause, self.attempt + 1)

    def look(self, now: float) -> None:
        """Where running calls count, those that have become slow count at once."""
        if not any(each.watches for each in self.conditions):
            return
        self.count_afresh(now)
        for each in self.conditions:
            each.age([call for call in self.running if call.era == self.era], now)
        self.judge(now)

    def count_afresh(self, now: float) -> None:
        """A circuit that only measures does so when it would no longer be open."""
        if self.quiet_until is not None and now >= self.quiet_until:
            self.quiet_until, self.conditions = None, self.fresh()

    def judge(self, now: float) -> None:
        if any(each.met(now) for each in self.conditions):
            self.trip(now, Cause.TRIPPED, None)

    def trip(self, now: float, cause: Cause, hint: float | None) -> None:
        if self.state is State.CLOSED:
            self.open(now, cause, 0, hint)
        elif self.state is State.METRICS_ONLY and self.quiet_until is None:
            open_for = self.open_time(0) if hint is None else hint
            readings = self.readings(now)
            self.log.append(Transition(State.CLOSED, State.OPEN, cause, "", now, readings, open_for, shadow=True))
            self.quiet_until = now + open_for

    # -- calls

    def start(self, now: float, *, timed: bool = True) -> Call | Refused:
        self.expire(now)
        if self.state is State.OPEN and now >= self.until:
            self.half_open(now, Cause.DUE)
        self.look(now)
        stopped = self.state in (State.OPEN, State.FORCED_OPEN)
        if stopped or (self.state is State.HALF_OPEN and not self.wants_trial):
            refused = Refused(self.state, self.retry_after(now), self.era, now)
            self.log.append(refused)
            return refused
        call = Call(now if timed else None, self.era, self.state, any(each.watches for each in self.conditions))
        if self.state is State.HALF_OPEN:
            call.lease_until = now + self.lease
        self.running.append(call)
        return call

    def finish(self, call: Call, outcome: Outcome, now: float, hint: float | None = None) -> None:
        told = len(self.log)
        if call.era == self.era:
            self.expire(now)
        self.running.remove(call)
        for each in self.conditions:
            each.aged = [other for other in each.aged if other is not call]
        late = call.era != self.era or call.forfeited
        elapsed = None if call.began is None else now - call.began
        slow = call.took(now) >= self.rules.slow_after
        ended = Ended(outcome, elapsed, slow, call.state is State.HALF_OPEN, late, call.era, now)
        self.log.insert(told, ended)  # it is told before what it brings about
        if late:
            return
        if self.state is State.HALF_OPEN:
            self._finish_trial(outcome, slow, now, hint)
        elif self.state is not State.DISABLED:
            self._finish_flowing(outcome, call.took(now), now, hint)

    def _finish_trial(self, outcome: Outcome, slow: bool, now: float, hint: float | None) -> None:
        most = self.rules.trials.max_inconclusive
        if hint is not None:
            self.open(now, Cause.HINTED, self.attempt + (outcome is Outcome.FAILURE), hint)
        elif outcome is Outcome.IGNORED or (outcome is Outcome.CANCELLED and not slow):
            self.inconclusive += 1
            if self.inconclusive >= (2 * self.rules.trials.count if most is None else most):
                self.open(now, Cause.INCONCLUSIVE, self.attempt)
        else:
            self.verdicts.append(outcome is Outcome.SUCCESS and not slow)
            self.decide(now, Cause.TRIAL_FAILED)

    def _finish_flowing(self, outcome: Outcome, elapsed: float, now: float, hint: float | None) -> None:
        self.count_afresh(now)
        recorded = False
        if outcome is not Outcome.IGNORED:
            failed, cancelled = outcome is Outcome.FAILURE, outcome is Outcome.CANCELLED
            for each in self.conditions:
                recorded = each.record(now, failed=failed, elapsed=elapsed, cancelled=cancelled) or recorded
        if hint is not None:
            self.trip(now, Cause.HINTED, hint)
        elif outcome is not Outcome.IGNORED and any(each.watches for each in self.conditions):
            self.look(now)
        elif recorded:
            self.judge(now)

    # -- orders

    def open_by_hand(self, now: float, duration: float | None = None) -> None:
        if self.state is State.OPEN and duration is None and now < self.until:
            return
        self.holds = []
        self.open(now, Cause.MANUAL, self.attempt + 1 if self.state is State.HALF_OPEN else 0, duration)

    def half_open_by_hand(self, now: float) -> None:
        if self.state is not State.HALF_OPEN:
            self.holds = []
            self.half_open(now, Cause.MANUAL)

    def put(self, state: State, now: float) -> None:
        """FORCED_OPEN, CLOSED, DISABLED or METRICS_ONLY, with fresh counts."""
        self.holds = []
        self.enter(state, now, Cause.MANUAL)

    def hold(self, now: float) -> Hold:
        hold = Hold()
        if not self.holds:
            self.found = Found(self.state, self.until if self.state is State.OPEN else now, self.attempt)
            self.enter(State.FORCED_OPEN, now, Cause.MANUAL)
        self.holds.append(hold)
        return hold

    def release(self, hold: Hold, now: float) -> None:
        """After the last hold it is as it was found; a round of trials begins anew. An order given meanwhile stands."""
        if hold not in self.holds:
            return
        self.holds.remove(hold)
        if self.holds:
            return
        assert self.found is not None
        if self.found.state in (State.OPEN, State.HALF_OPEN):
            self.until, self.attempt = max(self.found.until, now), self.found.attempt
            self.enter(State.OPEN, now, Cause.MANUAL, self.until - now)
        else:
            self.enter(self.found.state, now, Cause.MANUAL)

    def reconfigure(self, rules: Rules, now: float) -> None:
        self.log.append(Reconfigured(now))
        before, self.rules = self.conditions, rules
        self.conditions = self.fresh()
        for each in self.conditions:
            for old in before:
                each.go_on_from(old, now)
        if self.state is State.HALF_OPEN:
            if rules.trials.lease is not None:
                self.lease = rules.trials.lease
            self.decide(now, Cause.MANUAL)
