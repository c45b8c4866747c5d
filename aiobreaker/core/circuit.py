"""The state machine: admit, settle, and every transition. Pure and synchronous; `now` is an argument; never waits.

A transition begins a new era. A result reports to the era that admitted its call; when that era is over it changes nothing.
Callers from several threads must not enter at once: the shell holds a lock around every method here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from .conditions import Condition, slow_after
from .eras import Door, Era, Flowing, HalfOpen, Permit, Refusal, State, Stopped, Totals, Trials
from .outcomes import Outcome
from .schedules import Schedule, jittered
from .tallies import Reading, SlowTally, Tally, tally
from .transitions import Cause, Forfeit, Transition
from .windows import LONG_AGO

_NONE_YET = Totals()

LEAST_LEASE = 30.0  # seconds; the default lease of a trial is never shorter


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the machine goes by, checked elsewhere."""

    conditions: tuple[Condition, ...]
    schedule: Schedule
    jitter: float
    trials: Trials

    @property
    def slow_after(self) -> float:
        """From how many seconds on a call is slow; infinity when no condition asks."""
        return slow_after(self.conditions)


class Circuit:
    """One circuit. `draw` gives random numbers in [0, 1); `log` collects what happened until the shell takes it.

    With `personal`, every call needs a permit of its own; with `watched`, every refusal must be told.
    """

    __slots__ = (
        "_draw",
        "_found",
        "_holds",
        "_past",
        "_stragglers",
        "door",
        "era",
        "log",
        "personal",
        "rules",
        "transitions",
        "watched",
    )

    def __init__(self, rules: Rules, now: float, draw: Callable[[], float]) -> None:
        self.rules = rules
        self.era: Era = Flowing(State.CLOSED, now, "new", rules.conditions)
        self.door = Door()
        self.personal = self.watched = False
        self.log: tuple[Transition | Forfeit, ...] = ()
        self.transitions = 0
        self._draw = draw
        self._past = _NONE_YET
        self._stragglers = 0
        self._holds: tuple[object, ...] = ()
        self._found: Era = self.era
        self.open_door()

    # -- what there is to know

    @property
    def in_flight(self) -> int:
        """How many admitted calls have not ended, of this era and of earlier ones."""
        return self.stragglers + self.era.in_flight

    @property
    def stragglers(self) -> int:
        """How many calls of earlier eras have not ended."""
        return max(0, self._stragglers)

    def holds(self, hold: object) -> bool:
        """Whether this hold is in force."""
        return hold in self._holds

    @property
    def totals(self) -> Totals:
        """How all calls so far have ended."""
        return self._past if self.era.state is State.DISABLED else self._past.plus(self.era.totals)

    def readings(self, now: float) -> tuple[Reading, ...]:
        """Every condition as it stands; none in an era that counts nothing."""
        return self.era.readings(now) if isinstance(self.era, Flowing) else ()

    def retry_after(self, now: float) -> float | None:
        """Seconds until time alone could admit a call; None when it could not, or when calls pass anyway."""
        if self.era.state not in (State.OPEN, State.HALF_OPEN):
            return None
        return 0.0 if self.wants_trial(now) else max(0.0, self.next_change() - now)

    def next_change(self) -> float:
        """When time alone could next admit a call: the end of the open time, or of the first lease."""
        return self.era.slots.next_expiry if isinstance(self.era, HalfOpen) else max(self.era.until, self.era.since)

    def wants_trial(self, now: float) -> bool:
        """Whether a call that asks now would be a trial."""
        era = self.era
        if isinstance(era, HalfOpen):
            return not era.why
        return era.state is State.OPEN and now >= era.until

    # -- calls

    def would_admit(self, now: float) -> bool:
        """Whether a call that asks now could pass. An expired lease may change that: then `admit` has the last word."""
        era = self.era
        if isinstance(era, HalfOpen):
            return not era.why or now >= era.until
        return isinstance(era, Flowing) or now >= era.until

    def admit(self, now: float) -> Permit | Refusal:
        """Let one call pass, with a permit of its own, or say why not."""
        era = self.era
        if isinstance(era, Flowing):
            if now >= era.watch_at and era.flights is not None:
                self._look(era, now)
        elif isinstance(era, HalfOpen):
            self._forfeit(era, now)
        elif now >= era.until:
            self.half_open(now, Cause.DUE, "the open time is over")
        era = self.era
        if isinstance(era, Flowing):
            return Permit(era, now, era.take_off(now))
        if isinstance(era, HalfOpen):
            return self._trial(era, now)
        return self._refuse(era.reason, now)

    def _trial(self, era: HalfOpen, now: float) -> Permit | Refusal:
        if era.why:
            return self._refuse(era.why, now)
        permit = Permit(era, now)
        era.slots.take(permit, now)
        era.started += 1
        era.look_at_slots()
        return permit

    def withdraw(self, permit: Permit) -> None:
        """Undo an admission in the same step, before the call has begun. Only where every call has a permit of its own."""
        era = permit.era
        permit.settled = True
        era.started -= 1
        if isinstance(era, HalfOpen):
            era.slots.give_back(permit)
            era.look_at_slots()
        elif isinstance(era, Flowing):
            era.land(permit.ticket)

    def _refuse(self, reason: str, now: float) -> Refusal:
        return Refusal(self.era.state, reason, self.retry_after(now))

    def settle(
        self,
        permit: Permit | Flowing,
        outcome: Outcome,
        now: float,
        began: float,
        why: object = "",
        hint: float | None = None,
    ) -> bool:
        """A call has ended. False if that comes too late to count: its era is over, or its lease.

        `why` says what failed, if anybody asks, `hint` is for how many seconds the dependency asked to be left alone.
        """
        if isinstance(permit, Permit):
            if permit.settled:
                return False
            era: Era = permit.era
            permit.settled = True
            elapsed = (now if permit.answered is None else permit.answered) - began
        else:
            era, elapsed = permit, now - began
        if era is not self.era:
            return self._too_late(era)
        if isinstance(era, HalfOpen):
            assert isinstance(permit, Permit)
            return self._settle_trial(era, permit, outcome, now, elapsed, why, hint)
        assert isinstance(era, Flowing)
        if isinstance(permit, Permit) and era.flights is not None:
            era.land(permit.ticket)
        if LONG_AGO < era.quiet_until <= now:
            era.quiet_until = LONG_AGO
            era.count_for(tuple(tally(condition, era.n) for condition in self.rules.conditions))
        plain = outcome is Outcome.SUCCESS and hint is None and era.flights is None
        if plain and elapsed < era.slow_after and now < era.roll_at and (n := era.n + 1) < era.horizon:
            era.n = n
            return True
        if outcome is Outcome.SUCCESS or outcome is Outcome.FAILURE:
            met = era.record(outcome is Outcome.FAILURE, now, elapsed)
        else:
            met = self._set_aside(era, outcome, now, elapsed)
        if hint is not None and era.tallies:
            self._trip(era, now, Cause.HINTED, _asked(hint), hint)
        elif era.flights is not None and outcome is not Outcome.IGNORED:
            self._look(era, now)
        elif met is not None or era.quiet_until != LONG_AGO:
            self._judge(era, met, now)
        return True

    def _set_aside(self, era: Flowing, outcome: Outcome, now: float, elapsed: float) -> Tally | None:
        """Count a call without a verdict; one that was cancelled after it had become slow is a slow call all the same."""
        if outcome is Outcome.IGNORED:
            era.ignored += 1
            return None
        era.cancelled += 1
        if elapsed < era.slow_after:
            return None
        era.catch_up()
        for each in era.tallies:
            if isinstance(each, SlowTally):
                each.record_unshared(era.n, now, elapsed)
        return era.look_ahead()

    def _too_late(self, era: Era) -> bool:
        self._stragglers -= 1
        if era.state is not State.DISABLED:
            self._past = self._past.plus(Totals(late=1))
        return False

    def answered(self, permit: Permit, now: float) -> None:
        """The call has given its first answer: what it takes from here on is not the dependency's slowness."""
        permit.answered = now
        if isinstance(permit.era, Flowing):
            permit.era.land(permit.ticket)

    # -- an era in which calls pass

    def _look(self, era: Flowing, now: float) -> None:
        """Count the running calls that have become slow, and judge."""
        era.age(now)
        self._judge(era, era.look_ahead(), now)

    def _judge(self, era: Flowing, met: Tally | None, now: float) -> None:
        if now < era.quiet_until:
            era.horizon = era.spare = 0
        elif met is not None:
            self._trip(era, now, Cause.TRIPPED, str(met.reading(era.n, now)))

    def _trip(self, era: Flowing, now: float, cause: Cause, reason: str, hint: float | None = None) -> None:
        if era.state is State.CLOSED:
            self._open(now, cause, reason, attempt=0, duration=hint)
        elif now >= era.quiet_until:
            duration = self._open_time(0) if hint is None else hint
            readings = era.readings(now)
            self.log += (Transition(State.CLOSED, State.OPEN, cause, reason, now, readings, duration, shadow=True),)
            era.quiet_until = now + duration
            era.horizon = era.spare = 0

    # -- an era of trials

    def _settle_trial(
        self, era: HalfOpen, permit: Permit, outcome: Outcome, now: float, elapsed: float, why: object, hint: float | None
    ) -> bool:
        self._forfeit(era, now)
        if era is not self.era:
            return self._too_late(era)
        if not era.slots.give_back(permit):
            era.late += 1
            return False
        slow = elapsed >= self.rules.slow_after
        failed = outcome is Outcome.FAILURE
        if outcome is Outcome.IGNORED:
            era.ignored += 1
        elif outcome is Outcome.CANCELLED:
            era.cancelled += 1
        else:
            era.n += 1
            era.failures += failed
        if hint is not None:
            self._open(now, Cause.HINTED, _asked(hint), era.attempt + failed, hint)
        elif outcome is Outcome.IGNORED or (outcome is Outcome.CANCELLED and not slow):
            era.inconclusive += 1
            if era.inconclusive >= era.trials.neutral_to_open:
                self._open(now, Cause.INCONCLUSIVE, f"{era.inconclusive} trials ended without a verdict", era.attempt)
            else:
                era.look_at_slots()
        elif failed or slow:
            era.failed += 1
            reason = f"a trial failed: {why}" if failed else f"a trial was slow ({elapsed:.3g} s)"
            self._decide(era, now, Cause.TRIAL_FAILED, reason)
        else:
            era.passed += 1
            self._decide(era, now, Cause.RECOVERED, "")
        return True

    def _forfeit(self, era: HalfOpen, now: float) -> None:
        expired = era.slots.forfeit(now)
        if expired:
            self.log += (Forfeit(expired, now),)
            era.failed += expired
            self._decide(era, now, Cause.LEASE_EXPIRED, f"a trial did not end within its lease of {era.slots.lease:g} s")

    def _decide(self, era: HalfOpen, now: float, cause: Cause, why: str) -> None:
        """Close or re-open as soon as the result is certain."""
        required = era.trials.successes_to_close
        if era.passed >= required:
            verdict = f"{era.passed} of {era.passed + era.failed} trials succeeded ({required} required)"
            self._begin(Flowing(State.CLOSED, now, verdict, self.rules.conditions), Cause.RECOVERED, verdict)
        elif era.failed > era.trials.count - required:
            self._open(now, cause, why, era.attempt + 1)
        else:
            era.look_at_slots()

    # -- transitions

    def open(self, now: float, duration: float | None, reason: str) -> None:
        """Open by hand, for so long or for as long as the schedule says."""
        if self.era.state is State.OPEN and duration is None and now < self.era.until:
            return
        self._holds = ()
        attempt = self.era.attempt + 1 if isinstance(self.era, HalfOpen) else 0
        self._open(now, Cause.MANUAL, reason, attempt, duration)

    def half_open(self, now: float, cause: Cause = Cause.MANUAL, reason: str = "by hand") -> None:
        """Begin a round of trials."""
        era = self.era
        if era.state is State.HALF_OPEN:
            return
        self._holds = ()
        attempt = era.attempt if isinstance(era, Stopped) else 0
        lease = self.rules.trials.lease
        if lease is None:
            open_time = era.until - era.since if era.state is State.OPEN else self.rules.schedule.seconds(attempt)
            lease = max(open_time, LEAST_LEASE)
        self._begin(HalfOpen(now, reason, self.rules.trials, lease, attempt), cause, reason)

    def force_open(self, now: float, reason: str) -> None:
        """Refuse everything until told otherwise."""
        self._holds = ()
        self._begin(Stopped(State.FORCED_OPEN, now, reason, inf, 0), Cause.MANUAL, reason)

    def let_flow(self, now: float, state: State, reason: str) -> None:
        """Let calls pass: CLOSED, DISABLED or METRICS_ONLY, each with fresh counts."""
        self._holds = ()
        conditions = () if state is State.DISABLED else self.rules.conditions
        self._begin(Flowing(state, now, reason, conditions), Cause.MANUAL, reason)

    def hold(self, now: float, reason: str) -> object:
        """Refuse everything until this hold, and every other one, is released."""
        hold = object()
        holds = (*self._holds, hold)
        if len(holds) == 1:
            self._found = self.era
            self.force_open(now, reason)
        self._holds = holds
        return hold

    def release(self, hold: object, now: float) -> None:
        """End a hold. After the last one the circuit is as it was found; an order given meanwhile stands."""
        if hold not in self._holds:
            return
        self._holds = tuple(each for each in self._holds if each is not hold)
        if self._holds:
            return
        found, reason = self._found, "the hold was released"
        if isinstance(found, Flowing):
            self.let_flow(now, found.state, reason)
        elif found.state is State.FORCED_OPEN:
            self.force_open(now, found.reason)
        else:
            assert isinstance(found, Stopped | HalfOpen)
            until = now if isinstance(found, HalfOpen) else max(found.until, now)
            self._begin(Stopped(State.OPEN, now, reason, until, found.attempt), Cause.MANUAL, reason)

    def forget_calls(self) -> None:
        """Nothing is in flight any more: the process has forked, and this is the child."""
        era = self.era
        era.started = era.n + era.ignored + era.cancelled + era.late
        self._stragglers = 0

    def reconfigure(self, rules: Rules, now: float) -> None:
        """Go by other rules from now on. The state stays, and what was remembered, as far as it still has a meaning."""
        self.rules = rules
        era = self.era
        if isinstance(era, Flowing) and era.state is not State.DISABLED:
            era.catch_up()
            tallies = tuple(tally(condition, era.n) for condition in rules.conditions)
            for new in tallies:
                for old in era.tallies:
                    new.go_on_from(old, era.n, now)
            era.count_for(tallies)
            era.horizon = era.n + 1
        elif isinstance(era, HalfOpen):
            era.trials = rules.trials
            era.slots.limit = rules.trials.concurrent
            if rules.trials.lease is not None:
                era.slots.lease = rules.trials.lease
            self._decide(era, now, Cause.MANUAL, "the trials were reconfigured")

    def _open_time(self, attempt: int) -> float:
        return jittered(self.rules.schedule.seconds(attempt), self.rules.jitter, self._draw())

    def _open(self, now: float, cause: Cause, reason: str, attempt: int, duration: float | None = None) -> None:
        open_for = self._open_time(attempt) if duration is None else duration
        self._begin(Stopped(State.OPEN, now, reason, now + open_for, attempt), cause, reason, open_for)

    def _begin(self, era: Era, cause: Cause, reason: str, open_for: float | None = None) -> None:
        old = self.era
        if era.state is not old.state:
            attempt = era.attempt if isinstance(era, Stopped) else 0
            readings = self.readings(era.since)
            self.log += (Transition(old.state, era.state, cause, reason, era.since, readings, open_for, attempt),)
            self.transitions += 1
        self.door.close()
        old.close_to_guards()
        self.era = era
        self._stragglers += old.in_flight
        if old.state is not State.DISABLED:
            self._past = self._past.plus(old.totals)
        self.open_door()

    def open_door(self) -> None:
        """Show the guards the era, if calls pass in it without asking."""
        era, door = self.era, self.door
        door.close()
        if isinstance(era, Flowing):
            if not self.personal:
                door.era = era
                door.shared = era if era.flights is None else None
        elif isinstance(era, Stopped | HalfOpen) and not self.watched:
            door.stop = era


def _asked(hint: float) -> str:
    return f"the dependency asked to be left alone for {hint:g} s"
