"""The breaker as its users meet it: defaults, control, what there is to see, waiting, probing, draining."""

import copy
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from aiobreaker import (
    Cause,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Exponential,
    FailureRate,
    LastCalls,
    LastSeconds,
    Reconfigured,
    SlowCallRate,
    State,
    StateChanged,
    Trials,
    WouldOpen,
)
from aiobreaker.lint import Traits
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, in_state, record_events

Clock = Callable[[], float]


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="down"):
            await breaker.call(ScriptedDependency(OSError("down")))


async def fine() -> str:
    return "fine"


async def test_the_classic_example(clock: Clock) -> None:
    breaker = CircuitBreaker("classic", clock=clock)
    await fail(breaker, 4)
    assert breaker.state is State.CLOSED
    await fail(breaker)
    assert breaker.state is State.OPEN
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.call(fine)
    assert (refusal.value.name, refusal.value.state, refusal.value.retry_after) == ("classic", State.OPEN, 30.0)
    assert refusal.value.last_failure is not None
    assert str(refusal.value.last_failure) == "OSError: down"
    assert str(refusal.value) == ("circuit breaker 'classic' is open: 5 failures in a row (trips at 5); retry after 30 s")
    await anyio.sleep(30)
    assert await breaker.call(fine) == "fine"
    assert breaker.state is State.CLOSED


def test_it_is_made_and_controlled_without_an_event_loop() -> None:
    breaker = CircuitBreaker("early")
    assert repr(breaker) == "<CircuitBreaker 'early' closed>"
    for order, state in [
        (breaker.open, State.OPEN),
        (breaker.half_open, State.HALF_OPEN),
        (breaker.force_open, State.FORCED_OPEN),
        (breaker.disable, State.DISABLED),
        (breaker.metrics_only, State.METRICS_ONLY),
        (breaker.reset, State.CLOSED),
    ]:
        order()
        assert breaker.state is state
    with pytest.raises(ValueError, match="duration must be a finite number of seconds above 0, not 0"):
        breaker.open(0)


async def test_open_by_hand_for_a_time(clock: Clock) -> None:
    breaker = CircuitBreaker("by hand", clock=clock)
    breaker.open(5, reason="deploying")
    await anyio.sleep(4)
    with pytest.raises(CircuitOpenError, match="deploying; retry after 1 s"):
        await breaker.call(fine)
    await anyio.sleep(1)
    await breaker.call(fine)
    assert breaker.state is State.CLOSED


async def test_forced_open_knows_no_time() -> None:
    breaker = CircuitBreaker("forced")
    breaker.force_open("maintenance")
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.call(fine)
    assert refusal.value.retry_after is None
    assert str(refusal.value) == "circuit breaker 'forced' is forced open: maintenance"


async def test_metrics_only_lets_pass_and_tells(clock: Clock) -> None:
    breaker = CircuitBreaker("measuring", clock=clock)
    breaker.metrics_only()
    with record_events(breaker) as events:
        await fail(breaker, 6)
    assert [type(event) for event in events] == [WouldOpen]
    assert isinstance(events[0], WouldOpen)
    assert (events[0].open_for, events[0].reason) == (30.0, "5 failures in a row (trips at 5)")
    assert breaker.snapshot().failures == 6


async def test_jitter_is_drawn_from_the_given_source(clock: Clock) -> None:
    breaker = CircuitBreaker("jitter", open_for=Exponential(10), clock=clock, random=lambda: 0.0)
    breaker.open()
    assert breaker.snapshot().retry_after == pytest.approx(9.0)
    exact = CircuitBreaker("exact", open_for=10, clock=clock, random=lambda: 0.0)
    exact.open()
    assert exact.snapshot().retry_after == 10.0
    spread = CircuitBreaker("spread", open_for=10, jitter=0.5, clock=clock, random=lambda: 0.0)
    spread.open()
    assert spread.snapshot().retry_after == 5.0


async def test_snapshot_and_explain_say_where_it_stands(clock: Clock) -> None:
    breaker = CircuitBreaker(
        "search",
        trip=FailureRate(0.5, LastSeconds(60), minimum_calls=10) | SlowCallRate(0.5, 1.0, LastCalls(10), minimum_calls=5),
        clock=clock,
    )
    assert "last failure" not in breaker.explain()
    empty = breaker.snapshot()
    assert (empty.failure_rate, empty.slow_rate, empty.retry_after, empty.last_failure) == (None, None, None, None)
    await fail(breaker)
    await breaker.call(ScriptedDependency(Answer(after=1.0)))
    await breaker.call(fine)
    await breaker.call(fine)
    seen = breaker.snapshot()
    assert (seen.calls, seen.failures, seen.failure_rate, seen.slow_rate) == (4, 1, 0.25, 0.25)
    assert [reading.enough_calls for reading in seen.readings] == [False, False]
    too_few = "; not enough calls yet to judge."
    assert breaker.explain().splitlines() == [
        "search is closed for 1 s: new.",
        f"1 of 4 calls in the last 60 seconds failed, 25.0% (trips at 50.0% of at least 10 calls){too_few}",
        f"1 of 4 calls in the last 10 calls took 1 s or longer, 25.0% (trips at 50.0% of at least 5 calls){too_few}",
        "The last failure was OSError: down, 1 s ago.",
    ]
    breaker.open()
    assert "A call could be admitted in 30 s." in breaker.explain()
    await anyio.sleep(60)
    breaker.reset()
    await anyio.sleep(61)
    assert breaker.snapshot().readings[0].calls == 0


async def test_counts_expire_when_they_are_read(clock: Clock) -> None:
    breaker = CircuitBreaker("reading", trip=FailureRate(1.0, LastSeconds(10), minimum_calls=100), clock=clock)
    await fail(breaker, 3)
    await anyio.sleep(9)
    assert breaker.snapshot().readings[0].count == 3
    await anyio.sleep(1)
    assert breaker.snapshot().readings[0].count == 0


async def test_totals_go_on_over_transitions(clock: Clock) -> None:
    breaker = CircuitBreaker("totals", trip=ConsecutiveFailures(2), clock=clock, ignore=KeyError)
    await breaker.call(fine)
    with pytest.raises(KeyError):
        await breaker.call(ScriptedDependency(KeyError()))
    with anyio.move_on_after(1):
        await breaker.call(ScriptedDependency(Answer(after=9)))
    await fail(breaker, 2)
    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
    breaker.reset()
    await breaker.call(fine)
    assert breaker.snapshot().totals._asdict() == {
        "successes": 2,
        "failures": 2,
        "ignored": 1,
        "cancelled": 1,
        "late": 0,
        "refused": 3,
    }
    assert breaker.snapshot().transitions == 2


async def test_an_unlisted_exception_is_a_success() -> None:
    breaker = CircuitBreaker("listed", failure_on=OSError, trip=ConsecutiveFailures(1))
    with pytest.raises(ValueError, match="caller"):
        await breaker.call(ScriptedDependency(ValueError("caller")))
    assert breaker.snapshot().totals.successes == 1


async def test_results_can_be_failures() -> None:
    breaker = CircuitBreaker("results", failure_if=lambda status: status >= 500, trip=ConsecutiveFailures(2))
    assert await breaker.call(ScriptedDependency(500)) == 500
    assert await breaker.call(ScriptedDependency(503)) == 503
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.call(ScriptedDependency(200))
    assert str(refusal.value.last_failure) == "result: 503"


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        (7, 7.0),
        (2.5, 2.5),
        ("11", 11.0),
        (10_000, 300.0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 300.0),
        ("Wed, 21 Oct 2099 07:28:00 -0000", 300.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("soon", None),
        ("", None),
        (0, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        (True, None),
        (None, None),
    ],
)
async def test_a_servers_hint_is_followed(clock: Clock, hint: object, seconds: float | None) -> None:
    for script in (hint, ConnectionError(hint)):

        def read(answer: object) -> object:
            return answer.args[0] if isinstance(answer, ConnectionError) else answer

        breaker = CircuitBreaker("hinted", retry_after=read, clock=clock)  # type: ignore[arg-type]  # odd hints on purpose
        with suppress(ConnectionError):
            await breaker.call(ScriptedDependency(Answer(script)))
        assert breaker.snapshot().retry_after == seconds
        assert breaker.state is (State.CLOSED if seconds is None else State.OPEN)


@pytest.mark.parametrize("setting", ["failure_if", "retry_after"])
async def test_what_a_rule_for_results_raises_goes_to_the_caller_and_loses_no_slot(setting: str, clock: Clock) -> None:
    def broken(result: object) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker("broken rule", clock=clock, **{setting: broken})  # type: ignore[arg-type]
    breaker.half_open()
    with pytest.raises(ZeroDivisionError):
        await breaker.call(fine)
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.ignored == 1


@pytest.mark.parametrize("setting", ["failure_on", "ignore"])
async def test_what_a_rule_for_errors_raises_has_the_error_as_its_context(setting: str) -> None:
    def broken(error: BaseException) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker("broken rule", **{setting: broken})  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError) as raised:
        await breaker.call(ScriptedDependency(OSError("down")))
    assert isinstance(raised.value.__context__, OSError)
    assert breaker.snapshot().in_flight == 0


async def test_a_refusal_further_in_says_nothing_about_the_dependency() -> None:
    inner, outer = CircuitBreaker("inner"), CircuitBreaker("outer", trip=ConsecutiveFailures(1))
    inner.force_open()
    for ignore in ((), OSError, lambda error: False):
        outer.reconfigure(ignore=ignore)
        with pytest.raises(CircuitOpenError) as refusal:
            await outer.call(inner.call, fine)
        assert refusal.value.name == "inner"
    assert outer.snapshot().totals.ignored == 3


async def test_a_message_that_cannot_be_made_breaks_nothing() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    breaker = CircuitBreaker("rude", trip=ConsecutiveFailures(1))
    with pytest.raises(Rude):
        await breaker.call(ScriptedDependency(Rude()))
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.call(fine)
    assert "its __str__ raised" in str(refusal.value.last_failure)


def test_a_refusal_survives_pickling_and_copying() -> None:
    error = CircuitOpenError("name", State.HALF_OPEN, "busy", 1.5)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(twin) == str(error)
        assert (twin.name, twin.state, twin.retry_after, twin.last_failure) == ("name", State.HALF_OPEN, 1.5, None)


# -- waiting


async def test_a_wait_that_must_be_in_vain_is_refused_at_once(clock: Clock) -> None:
    breaker = CircuitBreaker("in vain", clock=clock)
    breaker.open(30)
    before = clock()
    with pytest.raises(CircuitOpenError):
        await breaker.acquire(max_wait=29)
    assert clock() == before
    (await breaker.acquire(max_wait=31)).success()
    assert clock() - before == pytest.approx(30)
    assert breaker.state is State.CLOSED


async def test_a_wait_ends_when_its_time_is_over(clock: Clock) -> None:
    breaker = CircuitBreaker("waiting", clock=clock)
    breaker.force_open("maintenance")
    before = clock()
    with pytest.raises(CircuitOpenError, match="no admission within 5 s: maintenance"):
        await breaker.acquire(max_wait=5)
    assert clock() - before == pytest.approx(5)
    assert breaker.snapshot().waiting == 0


async def test_an_order_wakes_those_who_wait(clock: Clock) -> None:
    breaker = CircuitBreaker("woken", clock=clock)
    breaker.force_open()
    async with anyio.create_task_group() as tasks:

        async def patient() -> None:
            async with breaker.guard(max_wait=float("inf")):
                await fine()

        for _ in range(3):
            tasks.start_soon(patient)
        await anyio.sleep(1)
        assert breaker.snapshot().waiting == 3
        breaker.reset()
    assert breaker.snapshot().totals.successes == 3


async def test_no_more_wait_than_allowed(clock: Clock) -> None:
    breaker = CircuitBreaker("full", max_waiters=2, clock=clock)
    breaker.force_open()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(_wait, breaker)
        await anyio.sleep(1)
        with pytest.raises(CircuitOpenError, match="2 callers are waiting already"):
            await breaker.acquire(max_wait=5)
        breaker.reset()


async def _wait(breaker: CircuitBreaker) -> None:
    (await breaker.acquire(max_wait=100)).success()


async def test_waiting_through_a_failed_trial(clock: Clock) -> None:
    breaker = CircuitBreaker("again", open_for=10, clock=clock)
    breaker.half_open()
    begun = clock()

    async def failing_trial() -> None:
        with pytest.raises(OSError, match="down"):
            await breaker.call(ScriptedDependency(Answer(OSError("down"), after=5.0)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(failing_trial)
        await anyio.sleep(1)
        await _wait(breaker)
    assert clock() - begun == pytest.approx(15)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("max_wait", [-1, float("nan"), True, "1", None])
async def test_a_wait_that_cannot_be(max_wait: object) -> None:
    breaker = CircuitBreaker("wait")
    with pytest.raises((ValueError, TypeError), match="max_wait must be a number of seconds"):
        await breaker.acquire(max_wait=max_wait)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match="max_wait must be a number of seconds"):
        breaker.guard(max_wait=max_wait)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match="max_wait must be a number of seconds"):
        breaker.stream(_numbers(), max_wait=max_wait)  # type: ignore[arg-type]


async def _numbers() -> AsyncIterator[int]:
    yield 1


async def test_wait_for_a_state(clock: Clock) -> None:
    breaker = CircuitBreaker("awaited", clock=clock)
    await breaker.wait_for(State.CLOSED)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.wait_for, State.CLOSED)
        tasks.start_soon(breaker.wait_for, State.HALF_OPEN)
        await anyio.sleep(1)
        breaker.disable()
        breaker.half_open()
        breaker.reset()
    assert breaker.state is State.CLOSED


# -- the recovery probe


async def test_a_probe_decides_in_place_of_a_trial(clock: Clock) -> None:
    probe = ScriptedDependency(OSError("still down"), False, None)
    breaker = CircuitBreaker("probed", probe=probe, open_for=10, clock=clock)
    breaker.open()
    dependency = ScriptedDependency("fine")
    for expected in ["OSError: still down", "result: False"]:
        await anyio.sleep(10)
        with pytest.raises(CircuitOpenError) as refusal:
            await breaker.call(dependency)
        assert str(refusal.value.last_failure) == expected
    assert dependency.calls == []
    await anyio.sleep(10)
    assert await breaker.call(dependency) == "fine"
    assert len(probe.calls) == 3
    assert breaker.state is State.CLOSED


async def test_one_probe_at_a_time_and_the_others_are_refused_or_wait(clock: Clock) -> None:
    probe = ScriptedDependency(Answer(True, after=2.0))
    breaker = CircuitBreaker("probed", probe=probe, open_for=10, clock=clock)
    breaker.open()
    await anyio.sleep(10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, fine)
        await anyio.sleep(1)
        with pytest.raises(CircuitOpenError) as refusal:
            await breaker.call(fine)
        assert refusal.value.state is State.HALF_OPEN
        (await breaker.acquire(max_wait=5)).success()
    assert probe.most_running == 1
    assert len(probe.calls) == 1


async def test_a_crowd_runs_one_probe(clock: Clock) -> None:
    probe = ScriptedDependency(Answer(True, after=2.0))
    breaker = CircuitBreaker("probed", probe=probe, open_for=10, clock=clock)
    breaker.open()
    await anyio.sleep(10)
    outcomes: list[str] = []

    async def caller() -> None:
        try:
            outcomes.append(await breaker.call(fine))
        except CircuitOpenError:
            outcomes.append("refused")

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(caller)
    assert len(probe.calls) == 1
    assert outcomes.count("fine") == 1


async def test_a_hung_probe_is_cancelled_at_its_lease(clock: Clock) -> None:
    probe = ScriptedDependency(Answer(after=float("inf")), True)
    breaker = CircuitBreaker("probed", probe=probe, open_for=10, trials=Trials(lease=4), clock=clock)
    breaker.open()
    await anyio.sleep(10)
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine)
    assert clock() - breaker.snapshot().since == 0
    assert breaker.state is State.OPEN
    await anyio.sleep(10)
    await breaker.call(fine)


async def test_a_cancelled_probe_gives_its_slot_back(clock: Clock) -> None:
    probe = ScriptedDependency(Answer(after=9.0), True)
    breaker = CircuitBreaker("probed", probe=probe, open_for=10, clock=clock)
    breaker.open()
    await anyio.sleep(10)
    with anyio.move_on_after(1):
        await breaker.call(fine)
    assert breaker.state is State.HALF_OPEN
    assert breaker.snapshot().in_flight == 0
    assert await breaker.call(fine) == "fine"


async def test_those_who_wait_run_the_probe_when_it_is_due(clock: Clock) -> None:
    probe = ScriptedDependency(True)
    breaker = CircuitBreaker("probed", probe=probe, open_for=10, clock=clock)
    breaker.open()
    async with breaker.guard(max_wait=20):
        assert breaker.state is State.CLOSED
    assert len(probe.calls) == 1


# -- maintenance


async def test_isolated_refuses_and_restores(clock: Clock) -> None:
    breaker = CircuitBreaker("isolated", clock=clock)
    async with breaker.isolated("upgrade"):
        with pytest.raises(CircuitOpenError, match="upgrade"):
            await breaker.call(fine)
        async with breaker.isolated("more"):
            pass
        assert breaker.state is State.FORCED_OPEN
    assert breaker.state is State.CLOSED


async def test_draining_waits_for_what_is_in_flight(clock: Clock) -> None:
    breaker = CircuitBreaker("drained", clock=clock)
    begun = clock()
    async with anyio.create_task_group() as tasks:
        for after in (1.0, 3.0):
            tasks.start_soon(breaker.call, ScriptedDependency(Answer(after=after)))
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.5)
        async with breaker.isolated("upgrade", drain=True):
            assert clock() - begun == pytest.approx(3.0)
            assert breaker.snapshot().in_flight == 0
    async with breaker.isolated("at once", drain=True):
        pass


async def test_a_cancelled_drain_lifts_the_hold(clock: Clock) -> None:
    breaker = CircuitBreaker("drained", clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, ScriptedDependency(Answer(after=5.0)))
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            async with breaker.isolated("upgrade", drain=True):
                pytest.fail("it is not drained")
        assert breaker.state is State.CLOSED


# -- reconfigure


async def test_reconfigure_keeps_the_state_and_the_counts(clock: Clock) -> None:
    breaker = CircuitBreaker("live", clock=clock)

    @breaker
    async def guarded(fails: bool) -> None:
        if fails:
            raise OSError

    for _ in range(2):
        with pytest.raises(OSError):
            await guarded(True)
    with record_events(breaker) as events:
        breaker.reconfigure(trip=ConsecutiveFailures(3), open_for=7)
    assert [event.changed for event in events if isinstance(event, Reconfigured)] == [("trip", "open_for")]
    with pytest.raises(OSError):
        await guarded(True)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().retry_after == 7


async def test_functions_decorated_before_a_change_follow_it(clock: Clock) -> None:
    breaker = CircuitBreaker("live", clock=clock)
    dependency = ScriptedDependency(Answer("slow", after=2.0))

    @breaker
    async def guarded() -> object:
        return await dependency()

    breaker.reconfigure(trip=SlowCallRate(1.0, 1.0, LastCalls(2), minimum_calls=2))
    await guarded()
    await guarded()
    assert breaker.state is State.OPEN
    breaker.reset()
    breaker.reconfigure(trip=ConsecutiveFailures(1), failure_if=lambda result: result == "slow")
    await guarded()
    assert breaker.state is State.OPEN


async def test_a_bad_change_changes_nothing() -> None:
    breaker = CircuitBreaker("live")
    with pytest.raises(ValueError, match="open_for"):
        breaker.reconfigure(trip=ConsecutiveFailures(1), open_for=0)
    with pytest.raises(TypeError, match="threshold"):
        breaker.reconfigure(threshold=3)  # type: ignore[call-arg]
    await fail(breaker)
    assert breaker.state is State.CLOSED


async def test_in_state_forces_and_restores() -> None:
    breaker = CircuitBreaker("forced")
    for state in State:
        with in_state(breaker, state):
            assert breaker.state is state
        assert breaker.state is State.CLOSED


async def test_the_clock_can_be_moved_by_hand() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("manual", clock=clock)
    with record_events(breaker) as events:
        breaker.open(60)
        clock.advance(60)
        await breaker.call(fine)
    assert [event.cause for event in events if isinstance(event, StateChanged)] == [Cause.MANUAL, Cause.DUE, Cause.RECOVERED]
    with pytest.raises(ValueError, match="seconds"):
        clock.advance(-1)


def test_a_script_needs_a_step() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        ScriptedDependency()


def test_what_a_pipeline_knows_of_it() -> None:
    breaker = CircuitBreaker(
        "search", trip=SlowCallRate(0.5, slower_than=2.0, window=LastCalls(10)), open_for=Exponential(5, factor=3)
    )
    words = "circuit breaker 'search' (opens for 5 s on 50.0% of at least 10 calls took 2 s or longer, in the last 10 calls)"
    assert breaker.traits == Traits(kind="breaker", words=words, open_for=5.0, slow_after=2.0)
