"""A family of breakers beside an obvious model of it: one circuit model for each, and a call that is a call of all above it.

Law: each has a clock of its own, which shows another time; calls go in by the public ways in.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, HeldPermit, Outcome, State, StateChanged
from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import any_of
from aiobreaker.testing import ManualClock

from ..core.circuit_model import CircuitModel
from ..core.records import Call, Hold, Refused

ABOVE = {"x": "middle", "y": "middle", "z": "top", "middle": "top"}
KEYS = ("x", "y", "z", "middle", "top")
ORDERS = {
    State.CLOSED: "reset",
    State.FORCED_OPEN: "force_open",
    State.DISABLED: "disable",
    State.METRICS_ONLY: "metrics_only",
}


class DownError(Exception):
    """The dependency failed."""


class NeutralError(Exception):
    """It says nothing about the dependency."""


def line_of(key: str) -> list[str]:
    """The key, and those above it, the nearest first."""
    return [key, *line_of(ABOVE[key])] if key in ABOVE else [key]


def settings(rules: Rules) -> dict[str, Any]:
    return {"trip": any_of(*rules.conditions), "open_for": rules.schedule, "jitter": rules.jitter, "trials": rules.trials}


class FamilyModel:
    """What the breakers of a family must do: a call needs all of its line, and its outcome counts for all of it."""

    def __init__(self, rules: dict[str, Rules], clocks: dict[str, ManualClock]) -> None:
        self.clocks = clocks
        self.members = {key: CircuitModel(rules[key], clocks[key](), 0.5) for key in KEYS}

    def may_pass(self, key: str) -> bool:
        """Whether a call could pass here, if a lease that is over is not held against it."""
        member, now = self.members[key], self.clocks[key]()
        if member.state is State.OPEN:
            return now >= member.until
        if member.state is State.HALF_OPEN:
            return member.wants_trial or any(now >= trial.lease_until for trial in member.trials)
        return member.state is not State.FORCED_OPEN

    def start(self, key: str) -> list[Call] | tuple[str, Refused]:
        for each in line_of(key):
            if not self.may_pass(each):
                refused = self.members[each].start(self.clocks[each]())
                assert isinstance(refused, Refused)
                return each, refused
        calls: list[Call] = []
        for each in line_of(key):
            answer = self.members[each].start(self.clocks[each]())
            if isinstance(answer, Refused):
                for below, call in zip(line_of(key), calls, strict=False):
                    self.members[below].running.remove(call)
                return each, answer
            calls.append(answer)
        return calls

    def finish(self, key: str, calls: list[Call], outcome: Outcome) -> None:
        for each, call in zip(line_of(key), calls, strict=True):
            self.members[each].finish(call, outcome, self.clocks[each]())


@dataclass
class Flight:
    """A call that is held open."""

    key: str
    permit: HeldPermit
    calls: list[Call]


ENDS = {
    "fine": Outcome.SUCCESS,
    "down": Outcome.FAILURE,
    "neutral": Outcome.IGNORED,
    "cancelled": Outcome.CANCELLED,
}
WAYS = ("decorated", "early decorated", "call", "guard", "patient guard", "generator", "stream", "acquire")


async def work(end: str) -> None:
    if end == "cancelled":
        await checkpoint()
    if end == "down":
        raise DownError
    if end == "neutral":
        raise NeutralError


async def items(end: str) -> AsyncIterator[None]:
    await work(end)
    yield


async def go(breaker: CircuitBreaker, way: str, early: Any, end: str) -> None:
    """One call from beginning to end."""
    match way:
        case "decorated":
            await breaker(work)(end)
        case "early decorated":
            await early(end)
        case "call":
            await breaker.call(work, end)
        case "guard":
            async with breaker.guard():
                await work(end)
        case "patient guard":
            async with breaker.guard(max_wait=1e-9):
                await work(end)
        case "generator":
            assert [item async for item in breaker(items)(end)] == [None]
        case "stream":
            async with breaker.stream(items(end)) as stream:
                assert [item async for item in stream] == [None]
        case "acquire":
            permit = await breaker.acquire()
            ends = {"fine": permit.success, "down": permit.failure}
            ends.get(end, permit.ignore)()


@dataclass
class Family:
    """The breakers, and their model."""

    rules: dict[str, Rules]
    clocks: dict[str, ManualClock] = field(
        default_factory=lambda: {key: ManualClock(1000.0 * number) for number, key in enumerate(KEYS)}
    )

    def __post_init__(self) -> None:
        self.early: dict[str, Any] = {}
        self.changes: dict[str, list[StateChanged]] = {key: [] for key in KEYS}
        self.model = FamilyModel(self.rules, self.clocks)
        self.registry = BreakerRegistry(self.make, parent=ABOVE.get)
        self.breakers = {key: self.registry[key] for key in KEYS}
        self.flights: list[Flight] = []
        self.holds: list[tuple[str, Any, Hold]] = []
        self.watchers: dict[str, Any] = {}

    def make(self, key: str) -> CircuitBreaker:
        breaker = CircuitBreaker(
            key, ignore=NeutralError, clock=self.clocks[key], random=lambda: 0.5, **settings(self.rules[key])
        )
        self.early[key] = breaker(work)  # before anybody stands above it
        breaker.subscribe(partial(self.note, key))
        return breaker

    def note(self, key: str, event: object) -> None:
        if isinstance(event, StateChanged):
            self.changes[key].append(event)

    # -- what may be done to it

    async def start(self, key: str) -> None:
        expected = self.model.start(key)
        try:
            permit = await self.breakers[key].acquire()
        except CircuitOpenError as refusal:
            self.check_refusal(refusal, expected)
        else:
            assert isinstance(expected, list), f"{expected[0]} should have refused"
            self.flights.append(Flight(key, permit, expected))

    def check_refusal(self, refusal: CircuitOpenError, expected: object) -> None:
        assert isinstance(expected, tuple), refusal
        key, record = expected
        assert (refusal.name, refusal.state, refusal.retry_after) == (key, record.state, record.retry_after)
        assert refusal.reason

    def end(self, which: int, end: str) -> None:
        flight = self.flights.pop(which % len(self.flights))
        outcome = Outcome.IGNORED if end == "cancelled" else ENDS[end]
        self.model.finish(flight.key, flight.calls, outcome)
        {"fine": flight.permit.success, "down": flight.permit.failure}.get(end, flight.permit.ignore)()

    async def at_once(self, key: str, way: str, end: str) -> None:
        expected = self.model.start(key)
        if way == "patient guard" and not isinstance(expected, list):
            way = "guard"  # what a wait in vain looks like is tested elsewhere
        with anyio.CancelScope() as scope:
            if end == "cancelled":
                scope.cancel()
            try:
                await go(self.breakers[key], way, self.early[key], end)
            except CircuitOpenError as refusal:
                self.check_refusal(refusal, expected)
                return
            except (DownError, NeutralError):
                pass
        assert isinstance(expected, list), f"{expected[0]} should have refused"
        outcome = Outcome.IGNORED if (way, end) == ("acquire", "cancelled") else ENDS[end]
        self.model.finish(key, expected, outcome)

    def wait(self, seconds: float) -> None:
        for clock in self.clocks.values():
            clock.advance(seconds)

    def order(self, key: str, state: State, seconds: float | None) -> None:
        breaker, member, now = self.breakers[key], self.model.members[key], self.clocks[key]()
        if state is State.OPEN:
            breaker.open(seconds)
            member.open_by_hand(now, seconds)
        elif state is State.HALF_OPEN:
            breaker.half_open()
            member.half_open_by_hand(now)
        else:
            getattr(breaker, ORDERS[state])()
            member.put(state, now)

    async def isolate(self, key: str) -> None:
        isolation = self.breakers[key].isolated()
        await isolation.__aenter__()
        self.holds.append((key, isolation, self.model.members[key].hold(self.clocks[key]())))

    async def release(self, which: int) -> None:
        key, isolation, hold = self.holds.pop(which % len(self.holds))
        await isolation.__aexit__(None, None, None)
        self.model.members[key].release(hold, self.clocks[key]())

    def reconfigure(self, key: str, rules: Rules) -> None:
        self.breakers[key].reconfigure(**settings(rules))
        self.model.members[key].reconfigure(rules, self.clocks[key]())

    def watch(self, key: str) -> None:
        if key in self.watchers:
            self.watchers.pop(key)()
        else:
            self.watchers[key] = self.breakers[key].subscribe(lambda event: None, calls=True)

    # -- the comparison

    def same_states(self) -> None:
        for key, breaker in self.breakers.items():
            assert breaker.state is self.model.members[key].state, key
            told = [(event.old, event.new, event.cause, event.at, event.open_for) for event in self.changes[key]]
            made = self.model.members[key].transitions
            assert told == [(each.old, each.new, each.cause, each.at, each.open_for) for each in made], key

    def same(self) -> None:
        self.same_states()
        for key, breaker in self.breakers.items():
            seen, member, now = breaker.snapshot(), self.model.members[key], self.clocks[key]()
            assert seen.in_flight == len(member.running), key
            assert seen.totals == member.totals, key
            assert seen.readings == member.readings(now), key
            assert seen.retry_after == member.retry_after(now), key
            if seen.state is not State.DISABLED:
                assert (seen.calls, seen.failures, seen.refused) == (member.calls, member.failures, member.refused), key
