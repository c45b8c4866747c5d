"""Circuits with one fault each: what a test that can fail must find. Never to be used otherwise."""

from typing import Any

from aiobreaker.core.circuit import Circuit
from aiobreaker.core.eras import Flowing, HalfOpen, Permit, Refusal, State
from aiobreaker.core.outcomes import Outcome


class SlotTwice(Circuit):
    """A trial is admitted though no slot is free."""

    def admit(self, now: float) -> Any:
        answer = super().admit(now)
        return Permit(self.era, now) if isinstance(answer, Refusal) and self.era.state is State.HALF_OPEN else answer


class EndlessLease(Circuit):
    """A trial may hang for ever."""

    def half_open(self, *args: Any, **kwargs: Any) -> None:
        super().half_open(*args, **kwargs)
        if isinstance(self.era, HalfOpen):
            self.era.slots.lease = 1e9


class LateCounts(Circuit):
    """A late result counts in the closed circuit that it finds."""

    def settle(self, permit: Any, *args: Any, **kwargs: Any) -> bool:
        if isinstance(self.era, Flowing):
            permit.era = self.era
        return super().settle(permit, *args, **kwargs)


class LateTrialCounts(Circuit):
    """A late result counts among the trials that it finds."""

    def settle(self, permit: Any, *args: Any, **kwargs: Any) -> bool:
        if isinstance(self.era, HalfOpen) and permit.era is not self.era:
            permit.era = self.era
            self.era.slots.limit += 1
            self.era.slots.take(permit, args[1])
            self.era.slots.limit -= 1
        return super().settle(permit, *args, **kwargs)


class CancelledKeepsItsSlot(Circuit):
    """A cancelled trial gives nothing back."""

    def settle(self, permit: Any, outcome: Outcome, *args: Any, **kwargs: Any) -> bool:
        return outcome is Outcome.CANCELLED or super().settle(permit, outcome, *args, **kwargs)


class LateCancellationMakesASlot(Circuit):
    """A late cancellation gives out a slot that it never had."""

    def settle(self, permit: Any, outcome: Outcome, *args: Any, **kwargs: Any) -> bool:
        if permit.era is not self.era and outcome is Outcome.CANCELLED and isinstance(self.era, HalfOpen):
            self.era.slots.limit += 1
        return super().settle(permit, outcome, *args, **kwargs)


class RefusesWithASlotFree(Circuit):
    """After a trial without a verdict nobody gets the slot."""

    def admit(self, now: float) -> Any:
        if isinstance(self.era, HalfOpen) and self.era.inconclusive:
            return Refusal(State.HALF_OPEN, "no", None)
        return super().admit(now)


class CountsAnEndTwice(Circuit):
    """An ignored call ends twice."""

    def settle(self, permit: Any, outcome: Outcome, *args: Any, **kwargs: Any) -> bool:
        in_time = super().settle(permit, outcome, *args, **kwargs)
        if outcome is Outcome.IGNORED:
            self.era.ignored += 1
        return in_time


class TellsNothing(Circuit):
    """The beginning of a round of trials is not told."""

    def half_open(self, *args: Any, **kwargs: Any) -> None:
        super().half_open(*args, **kwargs)
        self.log = self.log[:-1]


class TellsTwice(Circuit):
    """It is told twice."""

    def half_open(self, *args: Any, **kwargs: Any) -> None:
        super().half_open(*args, **kwargs)
        self.log = self.log + self.log[-1:]


class TellsOutOfOrder(Circuit):
    """A re-opening is told before what came before it."""

    def admit(self, now: float) -> Any:
        state, told = self.era.state, len(self.log)
        answer = super().admit(now)
        if self.era.state is State.OPEN and state is State.HALF_OPEN:
            self.log = self.log[: told - 1] + self.log[told:] + self.log[told - 1 : told]
        return answer


class AdmitsWhileOpen(Circuit):
    """An open circuit lets calls pass."""

    def admit(self, now: float) -> Any:
        return Permit(self.era, now) if self.era.state is State.OPEN else super().admit(now)


class CountsRefusals(Circuit):
    """A refused call counts as one that has begun."""

    def admit(self, now: float) -> Any:
        answer = super().admit(now)
        if isinstance(answer, Refusal):
            self.era.started += 1
        return answer


class OpensEarly(Circuit):
    """Trials begin a second early."""

    def admit(self, now: float) -> Any:
        return super().admit(now + 1.0)


class StaysOpen(Circuit):
    """An open circuit never lets a trial pass."""

    def admit(self, now: float) -> Any:
        return Refusal(State.OPEN, "no", None) if self.era.state is State.OPEN else super().admit(now)


class KeepsVerdicts(Circuit):
    """A later round of trials begins with the success of another."""

    def half_open(self, now: float, *args: Any, **kwargs: Any) -> None:
        super().half_open(now, *args, **kwargs)
        assert isinstance(self.era, HalfOpen)
        self.era.passed = self.transitions > 2


class WantsTooMuch(Circuit):
    """Successful trials are forgotten."""

    def settle(self, *args: Any, **kwargs: Any) -> bool:
        if isinstance(self.era, HalfOpen):
            self.era.passed = min(self.era.passed, 0)
        return super().settle(*args, **kwargs)


FAULTS = [each for each in vars().values() if isinstance(each, type) and issubclass(each, Circuit) and each is not Circuit]
