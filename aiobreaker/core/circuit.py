"""The state machine: admit, settle, and what they lead to. Pure and synchronous; `now` is an argument; never waits.

A result reports to the era that admitted its call; when that era is over it changes nothing. Callers from several threads must
not enter at once: the shell holds a lock around every method here.
"""

from .control import LEAST_LEASE as LEAST_LEASE
from .control import Controlled
from .control import Rules as Rules
from .eras import Era, Flowing, HalfOpen, Permit, Refusal, State, Totals
from .outcomes import Outcome
from .tallies import SlowTally, Tally, tally
from .transitions import Cause, Forfeit, Transition
from .windows import LONG_AGO


class Circuit(Controlled):
    """One circuit: the calls that it admits, and what their ends mean."""

    __slots__ = ()

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
        if isinstance(era, Flowing):
            era.land(permit.ticket)
            return
        assert isinstance(era, HalfOpen)
        era.slots.give_back(permit)
        era.look_at_slots()

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
        if isinstance(permit, Permit):
            era.land(permit.ticket)
        self._count_afresh(era, now)
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
        if self.watched:
            era.horizon = 0
        return True

    def _count_afresh(self, era: Flowing, now: float) -> None:
        """Where only measuring goes on: after the time for which it would have been open, counting begins anew."""
        if LONG_AGO < era.quiet_until <= now:
            era.quiet_until = LONG_AGO
            era.catch_up()
            era.count_for(tuple(tally(condition, era.n) for condition in self.rules.conditions))

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
        return era.look_ahead(now)

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
        self._count_afresh(era, now)
        era.age(now)
        self._judge(era, era.look_ahead(now), now)

    def _judge(self, era: Flowing, met: Tally | None, now: float) -> None:
        if now < era.quiet_until:
            era.horizon = era.spare = 0
        elif met is not None:
            self._trip(era, now, Cause.TRIPPED, str(met.reading(era.n, now)))

    def _trip(self, era: Flowing, now: float, cause: Cause, reason: str, hint: float | None = None) -> None:
        if era.state is State.CLOSED:
            self._open(now, cause, reason, attempt=0, duration=hint)
            return
        if now >= era.quiet_until:
            duration = self._open_time(0) if hint is None else hint
            readings = self.readings(now)
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


def _asked(hint: float) -> str:
    return f"the dependency asked to be left alone for {hint:g} s"
