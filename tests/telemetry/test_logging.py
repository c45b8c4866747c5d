"""Standard logging: one line per transition with all there is to say; what comes with every call is summed."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from aiobreaker import (
    BreakerRegistry,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Event,
    FailureRate,
    LastCalls,
    Retry,
    SlowCallRate,
    Timeout,
    Trials,
    events,
)
from aiobreaker.policies import events as policy_events
from aiobreaker.telemetry.logging import log_events
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency

Clock = Callable[[], float]
PAGE = Path(__file__).parent.parent.parent / "docs" / "telemetry-logging.md"


async def fine() -> None:
    """Succeed."""


async def broken() -> None:
    raise ConnectionError("down")


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What is logged, as it comes."""
    records: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("aiobreaker")
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def about(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says beside what every record says."""
    every = vars(logging.makeLogRecord({}))
    formatted = {"message", "asctime"}  # what other handlers have added to it
    return {key: value for key, value in vars(record).items() if key not in every and key not in formatted}


async def trip(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await breaker.call(broken)


async def refuse(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)


async def test_a_line_for_each_transition_says_everything(clock: Clock, lines: list[logging.LogRecord]) -> None:
    window = LastCalls(10)
    condition = FailureRate(0.5, window=window, minimum_calls=4) | SlowCallRate(
        1, slower_than=2, window=window, minimum_calls=9
    )
    breaker = CircuitBreaker("pears", trip=condition, open_for=10, clock=clock)
    with log_events(breaker):
        await breaker.call(ScriptedDependency(Answer(after=3)))
        await breaker.call(fine)
        await trip(breaker, 2)
        await refuse(breaker, 100)
        await anyio.sleep(12)
        await breaker.call(fine)
    reason = "2 of 4 calls in the last 10 calls failed, 50.0% (trips at 50.0% of at least 4 calls)"
    assert [about(line) for line in lines] == [
        {
            "guard": "pears",
            "from": "closed",
            "to": "open",
            "cause": "tripped",
            "reason": reason,
            "failure_rate": 0.5,
            "slow_rate": 0.25,
            "lasted": 3.0,
            "open_for": 10.0,
            "refused": 0,
            "last_failure": "ConnectionError: down",
        },
        {
            "guard": "pears",
            "from": "open",
            "to": "half_open",
            "cause": "due",
            "reason": "the open time is over",
            "lasted": 12.0,
            "refused": 100,
        },
        {
            "guard": "pears",
            "from": "half_open",
            "to": "closed",
            "cause": "recovered",
            "reason": "1 of 1 trials succeeded (1 required)",
            "lasted": 0.0,
            "refused": 0,
        },
    ]
    assert [(line.name, line.levelname, line.getMessage()) for line in lines] == [
        (
            "aiobreaker",
            "WARNING",
            f"pears: closed -> open after 3 s: {reason}; open for 10 s; the last failure was ConnectionError: down",
        ),
        (
            "aiobreaker",
            "INFO",
            "pears: open -> half open after 12 s: the open time is over; 100 calls refused since the last line",
        ),
        ("aiobreaker", "INFO", "pears: half open -> closed after 0 s: 1 of 1 trials succeeded (1 required)"),
    ]


async def test_the_end_tells_what_is_left_and_then_there_is_silence(clock: Clock, lines: list[logging.LogRecord]) -> None:
    breaker = CircuitBreaker("pears", clock=clock)
    breaker.force_open("maintenance")
    await refuse(breaker, 3)
    stop = log_events(breaker)
    await anyio.sleep(5)
    await refuse(breaker, 1)
    assert lines == []
    stop()
    stop()
    breaker.reset()
    assert [(line.levelname, line.getMessage()) for line in lines] == [("INFO", "pears: 1 call refused since the last line")]
    assert about(lines[0]) == {"guard": "pears", "refused": 1}


async def test_refusals_before_the_beginning_are_not_told(clock: Clock, lines: list[logging.LogRecord]) -> None:
    breaker = CircuitBreaker("pears", clock=clock)
    breaker.force_open("maintenance")
    await refuse(breaker, 3)
    await anyio.sleep(5)
    with log_events(breaker):
        await refuse(breaker, 2)
        breaker.reset()
    (line,) = lines
    assert (about(line)["refused"], about(line)["lasted"]) == (2, 5.0)


async def test_a_guarded_call_stays_on_the_fast_way(lines: list[logging.LogRecord]) -> None:
    breaker = CircuitBreaker("pears")
    with log_events(breaker):
        assert not breaker._gate.hub.wants_calls
        for _ in range(50):
            await breaker.call(fine)
    assert lines == []


async def test_a_whole_registry(clock: Clock, lines: list[logging.LogRecord]) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock), max_size=2, clock=clock)
    registry["pears"].open(60)
    with log_events(registry):
        await refuse(registry["pears"], 4)
        registry["plums"].force_open("maintenance")
        await refuse(registry["plums"], 7)
        registry["plums"].reset()
        await anyio.sleep(5)
        registry["pears"].reset()
        registry["plums"].open(60)
        await refuse(registry["plums"], 2)
        registry["figs"]  # may come, and says that there is no room
        registry["figs"].open()
    told = [(about(line)["guard"], about(line).get("refused"), about(line).get("lasted")) for line in lines]
    assert told == [
        ("plums", 0, None),
        ("plums", 7, 0.0),
        ("pears", 4, 5.0),
        ("plums", 0, 5.0),
        ("figs", 0, None),
        ("plums", 2, None),
    ]


async def test_a_registry_whose_keys_are_not_the_names(clock: Clock, lines: list[logging.LogRecord]) -> None:
    registry: BreakerRegistry[int] = BreakerRegistry(lambda port: CircuitBreaker(f"port {port}", clock=clock), clock=clock)
    with log_events(registry):
        for port in (80, 443):
            registry[port].open()
            await refuse(registry[port], port)
            registry[port].reset()
    assert [(about(line)["guard"], about(line)["refused"]) for line in lines] == [
        ("port 80", 0),
        ("port 80", 80),
        ("port 443", 0),
        ("port 443", 443),
    ]


async def test_names_that_are_keys_of_others(lines: list[logging.LogRecord]) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker({"pears": "plums"}.get(key, "pears")))
    with log_events(registry):
        for key, times in (("pears", 3), ("plums", 5)):
            registry[key].force_open()
            await refuse(registry[key], times)
        for key in ("pears", "plums"):
            registry[key].reset()
    assert [(about(line)["guard"], about(line)["refused"]) for line in lines[2:]] == [("plums", 3), ("pears", 5)]


async def test_a_breaker_in_a_pipeline(clock: Clock, lines: list[logging.LogRecord]) -> None:
    breaker = CircuitBreaker("pears", clock=clock)
    with log_events(Timeout(5) | breaker):
        await anyio.sleep(2)
        breaker.force_open()
        await refuse(breaker, 3)
        breaker.reset()
    assert [(about(line)["lasted"], about(line)["refused"]) for line in lines] == [(2.0, 0), (0.0, 3)]


def test_a_registry_without_room_warns(lines: list[logging.LogRecord]) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker, max_size=1)
    with log_events(registry):
        registry["pears"].force_open()
        registry["plums"]
    assert lines[-1].levelname == "WARNING"
    assert lines[-1].getMessage() == "registry: registry grown (size=2, max_size=1)"
    assert about(lines[-1]) == {"guard": "registry", "size": 2, "max_size": 1}


async def test_what_else_a_breaker_tells(clock: Clock, lines: list[logging.LogRecord]) -> None:
    breaker = CircuitBreaker("pears", trip=ConsecutiveFailures(1), open_for=5, trials=Trials(lease=2), clock=clock)
    with log_events(breaker):
        breaker.reconfigure(open_for=7)
        breaker.metrics_only()
        await trip(breaker, 1)
        breaker.half_open()
        permit = await breaker.acquire()
        await anyio.sleep(3)
        await refuse(breaker, 1)
        permit.success()
    told = [line.getMessage() for line in lines]
    assert told[0] == "pears: reconfigured (changed=['open_for'])"
    assert told[2].startswith(
        "pears: would open (cause=tripped, reason=1 failures in a row (trips at 1), readings=['1 failures"
    )
    assert told[4] == "pears: trials forfeited (trials=1)"
    assert about(lines[2])["readings"] == ["1 failures in a row (trips at 1)"]
    assert about(lines[2])["open_for"] == 7.0
    assert [line.levelname for line in lines] == ["INFO"] * 5 + ["WARNING", "INFO"]


async def test_what_policies_tell_is_summed(lines: list[logging.LogRecord]) -> None:
    now = ManualClock()
    retry = Retry(on=OSError, attempts=2, backoff=0, name="orders", clock=now)
    with log_events(retry, every=60, clock=now):
        for _ in range(100):
            with pytest.raises(ConnectionError):
                await retry.call(broken)
            now.advance(1)
    told = [(line.levelname, about(line)["times"], about(line).get("within")) for line in lines]
    assert told == [
        ("INFO", 1, None),
        ("WARNING", 1, None),
        ("INFO", 60, 60.0),
        ("WARNING", 59, 60.0),
        ("INFO", 39, 40.0),
        ("WARNING", 40, 40.0),
    ]
    assert lines[0].getMessage() == "orders: retrying (attempt=1, delay=0, failure=ConnectionError: down, times=1)"
    assert about(lines[3]) == {
        "guard": "orders",
        "attempts": 2,
        "elapsed": 0.0,
        "reason": about(lines[3])["reason"],
        "failure": "ConnectionError: down",
        "times": 59,
        "within": 60.0,
    }


async def test_a_sum_that_is_due_is_told_with_whatever_comes_next(lines: list[logging.LogRecord]) -> None:
    now = ManualClock()
    bulkhead, breaker = Bulkhead(1, name="room"), CircuitBreaker("pears")
    pipeline = breaker | bulkhead
    with log_events(pipeline, every=10, clock=now):
        async with bulkhead.guard():
            for _ in range(4):
                with pytest.raises(BulkheadFullError):
                    await pipeline.call(fine)
        now.advance(9)
        breaker.force_open()
        now.advance(1)
        breaker.reset()
        assert [about(line).get("times") for line in lines] == [1, None, None, 3]
        await refuse_nothing(pipeline)
    assert len(lines) == 4, "nothing is left to be told"
    assert [line.levelname for line in lines] == ["WARNING", "WARNING", "INFO", "WARNING"]


async def refuse_nothing(pipeline: Any) -> None:
    await pipeline.call(fine)


def kinds(module: Any) -> list[type[Event]]:
    found = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Event)]
    return [each for each in found if each is not Event]


@pytest.mark.parametrize("kind", [*kinds(events), *kinds(policy_events)], ids=lambda kind: kind.__name__)
def test_no_attribute_is_one_of_a_records_own(kind: type[Event]) -> None:
    own = {field.name for field in dataclasses.fields(kind)} - {field.name for field in dataclasses.fields(Event)}
    assert not own & ({"message", "asctime"} | set(vars(logging.makeLogRecord({}))))


def test_a_formatter_that_writes_json_gets_everything(lines: list[logging.LogRecord]) -> None:
    breaker = CircuitBreaker("50 % off")
    with log_events(breaker, logger=logging.getLogger("aiobreaker.shop")):
        breaker.force_open("100 % sure")
    (line,) = lines
    assert line.name == "aiobreaker.shop"
    assert line.getMessage().startswith("50 % off: closed -> forced open after")
    assert json.loads(json.dumps(about(line)))["reason"] == "100 % sure"


def test_what_cannot_be_is_refused_at_once() -> None:
    breaker = CircuitBreaker("pears")
    with pytest.raises(ValueError, match="sources must be at least one breaker, policy, pipeline or registry"):
        log_events()
    with pytest.raises(TypeError, match="sources must be breakers, policies, pipelines and registries, not 'pears'"):
        log_events(breaker, "pears")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="logger must be a logger or its name, not 7"):
        log_events(breaker, logger=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every must be a number of seconds, 0 or more"):
        log_events(breaker, every=-1)
    with pytest.raises(TypeError, match="clock must be a function without arguments"):
        log_events(breaker, clock=7)  # type: ignore[arg-type]
    assert not breaker._gate.wanted


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_pages_examples_run(backend: str, lines: list[logging.LogRecord]) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block.replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})"), "example", "exec"), {})
    assert lines
