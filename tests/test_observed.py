"""Rows for metrics: what the snapshots say; no count ever goes down; no more rows than were allowed."""

import gc
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aiobreaker import (
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureRate,
    LastSeconds,
    SlowCallRate,
    State,
    Totals,
)
from aiobreaker.observed import OTHER, Observed, Row, _book
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency

Clock = Callable[[], float]


async def fine() -> None:
    """Succeed."""


async def broken() -> None:
    raise ConnectionError("down")


async def strange() -> None:
    raise KeyError


def drive(call: Coroutine[Any, Any, object]) -> None:
    """Run what never waits, without a loop, whatever comes of it."""
    try:
        call.send(None)
    except (StopIteration, OSError, KeyError, CircuitOpenError):
        return
    raise AssertionError("it waits")


def only(observed: Observed) -> Row:
    (row,) = observed.rows()
    return row


async def test_a_row_says_what_the_snapshot_says(clock: Clock) -> None:
    window = LastSeconds(60)
    trip = FailureRate(0.75, window=window, minimum_calls=4) | SlowCallRate(0.9, slower_than=2, window=window, minimum_calls=9)
    breaker = CircuitBreaker("pears", trip=trip, ignore=KeyError, open_for=10, clock=clock)
    observed = Observed(breaker)
    await breaker.call(fine)
    await breaker.call(ScriptedDependency(Answer("slow", after=3)))
    with pytest.raises(KeyError):
        await breaker.call(strange)
    with pytest.raises(ConnectionError):
        await breaker.call(broken)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, ScriptedDependency(Answer(after=5)))
        await anyio.sleep(1)
        row, seen = only(observed), breaker.snapshot()
        assert (row.in_flight, row.failure_rate, row.slow_rate) == (1, pytest.approx(1 / 3), pytest.approx(1 / 3))
        assert (row.failure_rate, row.slow_rate) == (seen.failure_rate, seen.slow_rate)
        tasks.cancel_scope.cancel()
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await breaker.call(broken)
    await anyio.sleep(4)
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
    row, seen = only(observed), breaker.snapshot()
    assert row.name == "pears"
    assert row.totals == seen.totals == Totals(successes=2, failures=6, ignored=1, cancelled=1, refused=3)
    assert row.refusals == {State.OPEN: 3, State.HALF_OPEN: 0, State.FORCED_OPEN: 0}
    assert {move: count for move, count in row.moves.items() if count} == seen.moves == {(State.CLOSED, State.OPEN): 1}
    assert row.states == {state: int(state is State.OPEN) for state in State}
    assert (row.retry_after, row.open_for, row.in_flight, row.waiting) == (6, 4, 0, 0)


async def test_all_counts_and_those_who_wait(clock: Clock) -> None:
    breaker = CircuitBreaker("plums", trip=ConsecutiveFailures(1), open_for=5, clock=clock)
    observed = Observed(breaker)
    async with breaker.events(buffer=1), anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, ScriptedDependency(Answer("late", after=1)))
        await anyio.sleep(0.5)
        breaker.force_open()
        await anyio.sleep(2)
        breaker.half_open()
        permit = await breaker.acquire()
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
        breaker.reset()
        permit.success()
    row, seen = only(observed), breaker.snapshot()
    assert row.totals == seen.totals
    assert row.totals.late == 2
    assert {state: count for state, count in row.refusals.items() if count} == seen.refusals
    assert row.refusals[State.HALF_OPEN] == 1
    assert {move: count for move, count in row.moves.items() if count} == seen.moves
    assert len(seen.moves) == 3


async def test_waiting_callers_are_told(clock: Clock) -> None:
    breaker = CircuitBreaker("queue", open_for=5, clock=clock)
    breaker.open()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: breaker.acquire(max_wait=10))
        await anyio.sleep(1)
        assert only(Observed(breaker)).waiting == 2
        tasks.cancel_scope.cancel()


async def test_events_that_readers_have_lost(clock: Clock) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock), clock=clock)
    observed = Observed(registry, registry["pears"])
    async with registry["pears"].events(buffer=1) as own, registry.events(buffer=2) as all_of_them:
        for _ in range(3):
            registry["pears"].force_open()
            registry["pears"].reset()
        await anext(own)
        await anext(all_of_them)
    assert (only(observed).events_lost, observed.events_lost) == (5, 4)
    assert observed.has_registries
    assert not Observed(registry["pears"]).has_registries


def test_what_shares_a_name_shares_a_row() -> None:
    clock = ManualClock()
    twins = [CircuitBreaker("twin", trip=ConsecutiveFailures(1), open_for=number, clock=clock) for number in (3, 5)]
    observed = Observed(*twins, twins[0])
    for twin in twins:
        drive(twin.call(broken))
        drive(twin.call(fine))
    row = only(observed)
    assert row.totals == Totals(failures=2, refused=2)
    assert (row.states[State.OPEN], row.retry_after, row.failure_rate) == (2, 5, None)


def test_the_first_names_keep_rows_of_their_own_and_the_rest_share_one() -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    for key in "abcd":
        drive(registry[key].call(fine))
    given = CircuitBreaker("given")
    observed = Observed(registry, given, max_series=3)
    assert [(row.name, row.totals.successes) for row in observed.rows()] == [("given", 0), ("a", 1), ("b", 1), (OTHER, 2)]
    drive(registry[OTHER].call(fine))
    drive(registry["e"].call(fine))
    rows = observed.rows()
    assert [(row.name, row.totals.successes) for row in rows] == [("given", 0), ("a", 1), ("b", 1), (OTHER, 4)]
    assert rows[-1].states[State.CLOSED] == 4


def test_other_comes_last_even_if_it_came_first() -> None:
    observed = Observed(CircuitBreaker(OTHER), CircuitBreaker("pears"), max_series=1)
    assert [row.name for row in observed.rows()] == ["pears", OTHER]


def test_a_breaker_that_was_evicted_leaves_its_counts_and_comes_back() -> None:
    clock = ManualClock()
    registry: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock), max_size=1, clock=clock)
    observed = Observed(registry)
    drive(registry["pears"].call(fine))
    observed.rows()
    drive(registry["pears"].call(fine))  # nobody reads that before it goes
    registry["plums"]
    gc.collect()
    assert [(row.name, row.totals.successes) for row in observed.rows()] == [("pears", 1), ("plums", 0)]
    gone = observed.rows()[0]
    assert sum(gone.states.values()) == gone.in_flight == 0
    assert gone.open_for is gone.retry_after is None
    drive(registry["pears"].call(fine))
    gc.collect()
    assert [(row.name, row.totals.successes) for row in observed.rows()] == [("pears", 2), ("plums", 0)]


def test_a_breaker_that_has_gone_and_is_held_is_still_seen() -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker, max_size=1)
    guarded = registry["pears"](fine)
    registry["plums"]
    gc.collect()
    assert "pears" not in registry
    drive(guarded())
    assert {row.name: row.totals.successes for row in Observed(registry).rows()} == {"pears": 1, "plums": 0}


def test_reading_is_no_request_and_keeps_nothing_alive() -> None:
    clock = ManualClock()
    registry: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock), idle_for=10, clock=clock)
    observed = Observed(registry)
    registry["pears"]
    for _ in range(11):
        clock.advance(1)
        observed.rows()
    registry["plums"]
    gc.collect()
    assert list(registry) == ["plums"]
    assert [sum(row.states.values()) for row in observed.rows()] == [0, 1]


def test_an_older_reading_that_is_booked_later_changes_nothing() -> None:
    breaker = CircuitBreaker("raced")
    older = breaker.snapshot()
    drive(breaker.call(fine))
    newer = breaker.snapshot()
    account, last = Counter[Any](), Counter[Any]()
    for seen in (newer, older, newer):
        _book(account, last, seen)
        assert account["successes"] == 1


def test_an_observer_may_read() -> None:
    breaker = CircuitBreaker("watched")
    observed = Observed(breaker)
    read: list[Row] = []
    breaker.subscribe(lambda _: read.extend(observed.rows()))
    breaker.force_open()
    assert [row.moves[State.CLOSED, State.FORCED_OPEN] for row in read] == [1]


def test_what_cannot_be_is_refused_at_once() -> None:
    breaker = CircuitBreaker("pears")
    with pytest.raises(ValueError, match="sources must be at least one circuit breaker"):
        Observed()
    with pytest.raises(TypeError, match="sources must be circuit breakers and breaker registries, not 'pears'"):
        Observed("pears")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_series must be a whole number, 1 or more, not 0"):
        Observed(breaker, max_series=0)
    assert repr(Observed(breaker)) == "<Observed of 1 breakers and 0 registries>"


KEYS = st.sampled_from("abcdef")


class Churn(RuleBasedStateMachine):
    """Keys come and go in a small registry, with and without somebody who holds them; the rows are read at times, or always.

    Whatever happens, no count goes down and no row more appears than was allowed. Where everything is read before it can go,
    the rows together have every call, once.
    """

    @initialize(max_series=st.integers(1, 4), reads_always=st.booleans())
    def begin(self, max_series: int, reads_always: bool) -> None:
        self.clock = ManualClock()
        self.registry: BreakerRegistry[str] = BreakerRegistry(self.make, max_size=2, idle_for=5, clock=self.clock)
        self.observed = Observed(self.registry, max_series=max_series)
        self.max_series, self.reads_always = max_series, reads_always
        self.held: list[CircuitBreaker] = []
        self.highest: dict[str, Counter[object]] = {}
        self.done: Counter[str] = Counter()

    def make(self, key: str) -> CircuitBreaker:
        return CircuitBreaker(key, trip=ConsecutiveFailures(2), open_for=3, ignore=KeyError, clock=self.clock)

    @rule(key=KEYS, end=st.sampled_from([fine, broken, strange]))
    def call(self, key: str, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        breaker = self.registry[key]
        before = breaker.snapshot().totals
        drive(breaker.call(end))
        after = breaker.snapshot().totals
        self.done.update({field: getattr(after, field) - getattr(before, field) for field in Totals._fields})

    @rule(key=KEYS)
    def hold(self, key: str) -> None:
        self.held.append(self.registry[key])

    @rule()
    def let_go(self) -> None:
        self.held.clear()

    @rule(key=KEYS, order=st.sampled_from(["open", "half_open", "force_open", "reset", "disable", "metrics_only"]))
    def order(self, key: str, order: str) -> None:
        getattr(self.registry[key], order)()

    @rule(seconds=st.sampled_from([1.0, 3.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def collect(self) -> None:
        gc.collect(1)

    @rule()
    def read(self) -> None:
        rows = self.observed.rows()
        assert len(rows) <= self.max_series + 1
        assert len({row.name for row in rows}) == len(rows)
        assert {row.name for row in rows} >= set(self.highest)
        for row in rows:
            assert sum(row.refusals.values()) == row.totals.refused
            now: Counter[object] = Counter(row.totals._asdict())
            for counts in (row.refusals, row.moves):
                now.update(counts)
            assert now >= self.highest.get(row.name, Counter())
            self.highest[row.name] = now

    @invariant()
    def every_call_is_told_once(self) -> None:
        if getattr(self, "reads_always", False):
            self.read()
            told: Counter[str] = Counter()
            for row in self.observed.rows():
                told.update(row.totals._asdict())
            assert {field: told[field] for field in Totals._fields} == {field: self.done[field] for field in Totals._fields}


TestChurn = Churn.TestCase
TestChurn.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
