"""structlog: the same lines as events with keys and values."""

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
import structlog
from structlog.testing import capture_logs

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Retry, TimedOut, Timeout
from aiobreaker.telemetry.structlog import log_events
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency


@pytest.fixture(autouse=True)
def _as_configured_by_default() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


async def broken() -> None:
    raise ConnectionError("down")


async def test_a_transition_is_an_event_with_keys_and_values() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("pears", trip=ConsecutiveFailures(2), open_for=10, clock=clock)
    with capture_logs() as logs, log_events(breaker):
        clock.advance(7)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await breaker.call(broken)
        for _ in range(80):
            with pytest.raises(CircuitOpenError):
                await breaker.call(broken)
        clock.advance(10)
        await breaker.call(ScriptedDependency("fine"))
    assert logs == [
        {
            "event": "state changed",
            "log_level": "warning",
            "guard": "pears",
            "from": "closed",
            "to": "open",
            "cause": "tripped",
            "reason": "2 failures in a row (trips at 2)",
            "lasted": 7.0,
            "open_for": 10.0,
            "refused": 0,
            "last_failure": "ConnectionError: down",
        },
        {
            "event": "state changed",
            "log_level": "info",
            "guard": "pears",
            "from": "open",
            "to": "half_open",
            "cause": "due",
            "reason": "the open time is over",
            "lasted": 10.0,
            "refused": 80,
        },
        {
            "event": "state changed",
            "log_level": "info",
            "guard": "pears",
            "from": "half_open",
            "to": "closed",
            "cause": "recovered",
            "reason": "1 of 1 trials succeeded (1 required)",
            "lasted": 0.0,
            "refused": 0,
        },
    ]


async def test_policies_are_summed() -> None:
    clock = ManualClock()
    retry, timeout = Retry(on=OSError, attempts=2, backoff=0), Timeout(0.01, name="patience")
    with capture_logs() as logs, log_events(retry | timeout, every=5, clock=clock):
        for _ in range(10):
            with pytest.raises(ConnectionError):
                await retry.call(broken)
        with pytest.raises(TimeoutError):
            await timeout.call(ScriptedDependency(Answer(after=60)))
    told = [(log["guard"], log["event"], log["log_level"], log["times"]) for log in logs]
    assert told == [
        ("retry", "retrying", "info", 1),
        ("retry", "gave up", "warning", 1),
        ("patience", "timed out", "warning", 1),
        ("retry", "retrying", "info", 9),
        ("retry", "gave up", "warning", 9),
    ]
    assert logs[2]["after"] == 0.01
    assert TimedOut.__slots__ == ("after",)


def test_a_registry_and_a_logger_of_ones_own() -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    written = StringIO()
    logger = structlog.wrap_logger(structlog.PrintLogger(written), processors=[structlog.processors.JSONRenderer()])
    stop = log_events(registry, logger=logger.bind(service="shop"))
    registry["pears"].force_open("maintenance")
    stop()
    registry["pears"].reset()
    (line,) = written.getvalue().splitlines()
    told = json.loads(line)
    assert (told["event"], told["guard"], told["to"], told["service"]) == ("state changed", "pears", "forced_open", "shop")


def test_it_may_end_in_standard_logging(caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    breaker = CircuitBreaker("pears")
    with caplog.at_level(logging.INFO), log_events(breaker):
        breaker.force_open()
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("aiobreaker", "WARNING", "state changed")
    ]
    assert vars(caplog.records[0])["to"] == "forced_open"


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="logger must be a structlog logger, not 'aiobreaker'"):
        log_events(CircuitBreaker("pears"), logger="aiobreaker")
    with pytest.raises(ValueError, match="sources must be at least one"):
        log_events()
