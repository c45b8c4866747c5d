"""Walks through every interleaving of a small world, on the real circuit, and shows each step to the invariants.

Law: what a circuit should have done is worked out from the callers' side alone, by a ledger of who began when and in which
era. States that no step could ever tell apart are one; a walk ends when it finds no state that it has not seen.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import ConsecutiveFailures
from aiobreaker.core.eras import HalfOpen, State
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.tallies import Reading
from aiobreaker.core.transitions import Cause, Forfeit, Transition

from .subjects import Bare, Subject

MOST_HOLDS = 2
VERDICTS = (Outcome.SUCCESS, Outcome.FAILURE)
FLOWING = (State.CLOSED, State.METRICS_ONLY, State.DISABLED)


class Step(NamedTuple):
    """`call`, `end` (which call, how), `wait` (one second), or an order."""

    what: str
    which: int = 0
    outcome: Outcome = Outcome.SUCCESS
    hint: float | None = None

    def __str__(self) -> str:
        if self.what != "end":
            return self.what
        return f"call {self.which} ends: {self.outcome}{'' if self.hint is None else f', come back in {self.hint:g} s'}"


Path = tuple[Step, ...]


@dataclass(frozen=True)
class World:
    """How small it is: who is there, and what may happen. `window` is how many calls a condition remembers one by one."""

    rules: Rules
    callers: int = 4
    hints: tuple[float | None, ...] = (None,)
    orders: tuple[str, ...] = ()
    begin: tuple[str, ...] = ()
    window: int = 0
    make: Callable[[Rules], Subject] = Bare

    @property
    def lease(self) -> float:
        assert self.rules.trials.lease is not None
        return self.rules.trials.lease

    @property
    def longest_open(self) -> float:
        return max([self.rules.schedule.seconds(100), *(hint for hint in self.hints if hint is not None)])


@dataclass(eq=False)
class Caller:
    """One who has been admitted and has not ended."""

    held: object
    began: float
    era: int
    state: State
    lapsed: bool = False


class Picture(NamedTuple):
    """What the circuit shows of its present era."""

    state: State
    since: float
    until: float
    counts: tuple[int, ...]
    trials: tuple[int, ...]
    readings: tuple[Reading, ...]
    retry_after: float | None


class Taken(NamedTuple):
    """What the ledger says of a step: `late` and `in_time` of the call that has ended, the latter as the circuit says."""

    began_era: bool
    admitted: bool | None
    late: bool
    in_time: bool | None
    lapses: int


class Moment(NamedTuple):
    """One step, as it was taken, with what was before and what was logged."""

    step: Step
    before: Picture
    in_flight: int
    began_era: bool
    admitted: bool | None
    late: bool
    in_time: bool | None
    lapses: int
    news: Sequence[Transition | Forfeit]


@dataclass
class History:
    """A walk through a world, with the ledger of its callers."""

    world: World
    now: float = 0.0
    era: int = 0
    callers: list[Caller] = field(default_factory=list)
    ended: list[tuple[Outcome, bool]] = field(default_factory=list)  # in this era and in time, and whether it was slow
    lapses: int = 0  # in this era
    holds: list[object] = field(default_factory=list)
    found: tuple[State, float] = (State.CLOSED, -inf)
    quiet_until: float = -inf

    def __post_init__(self) -> None:
        self.subject = self.world.make(self.world.rules)
        self.circuit = self.subject.circuit
        self.slow_after = self.world.rules.slow_after
        for order in self.world.begin:
            self.take(Step(order))

    # -- what there is to see

    @property
    def state(self) -> State:
        return self.circuit.era.state

    def trials(self) -> list[Caller]:
        """Those that should hold a slot."""
        return [each for each in self.callers if each.era == self.era and each.state is State.HALF_OPEN and not each.lapsed]

    def verdicts(self) -> tuple[int, int, int]:
        """How many trials of this era have passed, failed, and ended without a verdict."""
        if self.state is not State.HALF_OPEN:
            return 0, 0, 0
        neutral = [outcome is Outcome.IGNORED or (outcome is Outcome.CANCELLED and not slow) for outcome, slow in self.ended]
        passed = sum(outcome is Outcome.SUCCESS and not slow for outcome, slow in self.ended)
        return passed, len(self.ended) - passed - sum(neutral) + self.lapses, sum(neutral)

    def picture(self) -> Picture:
        circuit, era = self.circuit, self.circuit.era
        totals = era.totals
        return Picture(
            era.state,
            era.since,
            era.until if era.state is State.OPEN else inf,
            (totals.successes, totals.failures, totals.ignored, totals.cancelled),
            (era.passed, era.failed, era.inconclusive, era.slots.taken) if isinstance(era, HalfOpen) else (),
            circuit.readings(self.now),
            circuit.retry_after(self.now),
        )

    def key(self) -> Hashable:
        """All that can matter from here on, and what a fault could leave behind in the circuit.

        Times are how long ago or ahead they are, and what is beyond every threshold is alike.
        """
        seen, era = self.picture(), self.circuit.era
        attempt = min(getattr(era, "attempt", 0), 3)
        counts = tuple(
            min(each.count, each.condition.failures)
            if isinstance(each.condition, ConsecutiveFailures)
            else (each.count, each.calls)
            for each in self.circuit.readings(self.now)
        )
        recent = self._marks()[-self.world.window :] if self.world.window and self.state in FLOWING else []
        callers = tuple(sorted(self._caller_key(each) for each in self.callers))
        held = [self.circuit.holds(hold) for hold in self.holds]
        found = (self.found[0], max(0.0, self.found[1] - self.now)) if any(held) else None
        quiet = max(0.0, self.quiet_until - self.now)
        slots = (
            (era.slots.limit, era.slots.lease, max(0.0, era.slots.next_expiry - self.now)) if isinstance(era, HalfOpen) else ()
        )
        known = (seen.state, seen.retry_after, seen.trials, slots, attempt, counts, self.circuit.in_flight)
        return (known, tuple(recent), callers, tuple(held), found, quiet)

    def _marks(self) -> list[bool]:
        """What a window over calls holds of this era: whether each was slow, or else whether it failed."""
        verdicts = [(outcome is Outcome.FAILURE, slow) for outcome, slow in self.ended if slow or outcome in VERDICTS]
        return [slow if self.slow_after < inf else failed for failed, slow in verdicts]

    def _caller_key(self, caller: Caller) -> tuple[str, float]:
        kind = "trial" if caller.state is State.HALF_OPEN else "call"
        if caller.era != self.era or caller.lapsed:
            return f"{'lapsed' if caller.lapsed and caller.era == self.era else 'late'} {kind}", 0.0
        slow_after = self.slow_after if self.slow_after < inf else 0.0
        return kind, min(self.now - caller.began, max(slow_after, self.world.lease if kind == "trial" else 0.0))

    # -- what may happen next

    def steps(self) -> list[Step]:
        orders = [order for order in self.world.orders if order != "release" or self.holds]
        if len(self.holds) == MOST_HOLDS:
            orders.remove("hold")
        steps = [Step("wait"), *(Step(order) for order in orders)]
        if len(self.callers) < self.world.callers:
            steps.append(Step("call"))
        alike = {self._caller_key(caller): number for number, caller in enumerate(self.callers)}
        for number in alike.values():
            steps += [Step("end", number, outcome, hint) for outcome in Outcome for hint in self.world.hints]
        return steps

    def watch(self, step: Step) -> Moment:
        """Take it, and say all that is to be seen of it."""
        before, in_flight, told = self.picture(), self.circuit.in_flight, len(self.subject.log)
        return Moment(step, before, in_flight, *self.take(step), self.subject.log[told:])

    def take(self, step: Step) -> Taken:
        """Take it on the real circuit, and keep the ledger."""
        told, lapses = len(self.subject.log), self.lapses
        admitted: bool | None = None
        ended: tuple[bool, bool | None] = False, None
        began_era = False
        if step.what == "call":
            admitted = self._call()
        elif step.what == "end":
            ended = self._end(step)
        elif step.what == "wait":
            self.now += 1.0
        else:
            began_era = self._order(step.what)
        lapses = self.lapses - lapses
        for each in self.subject.log[told:]:
            if isinstance(each, Transition):
                began_era = began_era or not each.shadow
                self.quiet_until = self.now + (each.open_for or 0.0)
        if began_era:
            self.era += 1
            self.ended, self.lapses, self.quiet_until = [], 0, -inf
            if admitted:
                self.callers[-1].era = self.era
        return Taken(began_era, admitted, *ended, lapses)

    def _lapse(self) -> None:
        """Whoever lets a call in or out of a round of trials finds out whose lease is over."""
        if self.state is not State.HALF_OPEN:
            return
        for caller in self.trials():
            if self.now >= caller.began + self.world.lease:
                caller.lapsed = True
                self.lapses += 1

    def _call(self) -> bool:
        self._lapse()
        held = self.subject.admit(self.now)
        if held is not None:
            self.callers.append(Caller(held, self.now, self.era, self.state))
        return held is not None

    def _end(self, step: Step) -> tuple[bool, bool | None]:
        """Whether it was late by the ledger, and whether it was in time by the circuit."""
        caller = self.callers.pop(step.which)
        if caller.era == self.era:
            self.callers.append(caller)
            self._lapse()
            self.callers.pop()
        late = caller.era != self.era or caller.lapsed
        in_time = self.subject.settle(caller.held, step.outcome, self.now, step.hint)
        if in_time or (in_time is None and not late):
            self.ended.append((step.outcome, self.now - caller.began >= self.slow_after))
        return late, in_time

    def _order(self, order: str) -> bool:
        """Give it; whether a new era begins."""
        circuit, now, state = self.circuit, self.now, self.state
        if order == "open":
            acts = not (state is State.OPEN and now < circuit.era.until)
            circuit.open(now, None, "by hand")
            return acts
        if order == "half_open":
            circuit.half_open(now)
            return state is not State.HALF_OPEN
        if order == "hold":
            first = not self._held()
            if first:
                self.found = (state, circuit.era.until)
            self.holds.append(circuit.hold(now, "held"))
            return first
        if order == "release":
            held = self._held()
            circuit.release(self.holds.pop(), now)
            return held and not self._held()
        if order == "force_open":
            circuit.force_open(now, "by hand")
        else:
            circuit.let_flow(now, State(order), "by hand")
        return True

    def _held(self) -> bool:
        return any(self.circuit.holds(hold) for hold in self.holds)


class BrokenInvariant(AssertionError):
    """An invariant does not hold; `path` is a shortest way to the place."""

    def __init__(self, invariant: str, path: Path, what: str) -> None:
        super().__init__(f"{invariant}: {what}\n" + "\n".join(f"  {step}" for step in path))
        self.invariant = invariant
        self.path = path


@dataclass
class Census:
    """What a walk has seen."""

    states: int = 0
    steps: int = 0
    deepest: int = 0
    refusals: int = 0
    late: int = 0
    lapses: int = 0
    changes: set[tuple[State, State, Cause]] = field(default_factory=set)


Invariant = Callable[[History, Moment], None]
Promise = Callable[[History], None]


def replay(world: World, path: Path) -> History:
    """The same steps again, on a new circuit."""
    history = History(world)
    for step in path:
        history.take(step)
    return history


def explore(world: World, invariants: Sequence[Invariant], promises: Sequence[Promise]) -> Census:
    """Take every step from every state that can be reached. `invariants` see each step, `promises` each state."""
    census = Census()
    seen: set[Hashable] = set()
    ahead: deque[Path] = deque([()])
    seen.add(History(world).key())
    while ahead:
        path = ahead.popleft()
        here = replay(world, path)
        census.states += 1
        census.deepest = max(census.deepest, len(path))
        for promise in promises:
            _hold(promise.__name__, path, promise, replay(world, path))
        for step in here.steps():
            there = replay(world, path)
            moment = there.watch(step)
            further = (*path, step)
            for invariant in invariants:
                _hold(invariant.__name__, further, invariant, there, moment)
            _count(census, moment)
            key = there.key()
            if key not in seen:
                seen.add(key)
                ahead.append(further)
    return census


def _hold(name: str, path: Path, check: Callable[..., None], *seen: object) -> None:
    try:
        check(*seen)
    except AssertionError as error:
        raise BrokenInvariant(name, path, str(error)) from error


def _count(census: Census, moment: Moment) -> None:
    census.steps += 1
    census.refusals += moment.admitted is False
    census.late += moment.late
    census.lapses += moment.lapses
    census.changes |= {(each.old, each.new, each.cause) for each in moment.news if isinstance(each, Transition)}
