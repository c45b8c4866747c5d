"""Plays one vector against a driver, step by step, and stops at the first step that does not go as the vector says."""

from math import isclose
from typing import Any

from aiobreaker import ConsecutiveFailures, FailureCount, FailureRate, Reading, SlowCallRate, State

from .drivers import Driver, View
from .facts import Vector

ROUNDING = 0.005  # the sources round their rates, some to two digits


class DisagreementError(AssertionError):
    """The subject does something else than the vector says. `place` is the number of the step, counted from 0."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.place = -1


async def play(vector: Vector, driver: Driver) -> int:
    """Play all steps and expectations; the answer is their number. Raises DisagreementError."""
    script = vector.steps + vector.expect
    for place, step in enumerate(script):
        try:
            await _step(driver, *step)
        except DisagreementError as disagreement:
            disagreement.place = place
            disagreement.add_note(f"{vector.id}, step {place}: {step}")
            raise
    return len(script)


async def _step(driver: Driver, op: str, *args: Any) -> None:
    match op, args:
        case (("success" | "failure" | "excluded" | "cancel"), (int(times),)):
            for _ in range(times):
                _admitted(await driver.call(op))
        case (("slow_success" | "slow_failure"), (int(times),)):
            for _ in range(times):
                _admitted(await driver.call(op.removeprefix("slow_"), slow=True))
        case "start", (str(name),):
            _admitted(await driver.start(name))
        case "finish", (str(name), str(outcome)):
            await driver.finish(name, outcome)
        case "reject", (int(times),):
            for _ in range(times):
                _equal("refused", await driver.call("success") is not None, True)
        case "advance", (seconds,):
            driver.advance(seconds)
        case (("open" | "close" | "half_open" | "reset" | "isolate" | "unisolate"), ()):
            await driver.order(op)
        case "expect_state", (state,):
            _equal("state", _state(driver.look()), state)
        case "expect_events", (events,):
            _equal("events", [[_NAMES[old], _NAMES[new]] for old, new, _ in driver.changes()], events)
        case "expect_retry_after", (seconds,):
            refused = await driver.call("success")
            _equal("retry_after", None if refused is None else refused.retry_after, seconds)
        case "expect_metrics", (dict(wanted),):
            seen = _metrics(driver)
            for name, value in wanted.items():
                _equal(name, seen[name], value)
        case _:
            raise KeyError(f"{op} {args} is a step that this interpreter does not know")


def _admitted(refused: object) -> None:
    _equal("refused", refused, None)


def _equal(what: str, seen: object, wanted: object) -> None:
    rounded = "rate" in what or what == "retry_after"
    if rounded and isinstance(seen, (int, float)) and isinstance(wanted, (int, float)):
        alike = isclose(seen, wanted, rel_tol=0, abs_tol=ROUNDING if "rate" in what else 1e-9)
    else:
        alike = seen == wanted
    if not alike:
        raise DisagreementError(f"{what} is {seen!r}, the vector says {wanted!r}")


_NAMES = {State.CLOSED: "closed", State.OPEN: "open", State.HALF_OPEN: "half_open", State.FORCED_OPEN: "isolated"}


def _state(view: View) -> str:
    """The vectors' word for it. To them an open circuit whose time is over is half-open; here only a call makes it so."""
    due = view.state is State.OPEN and view.retry_after == 0
    return _NAMES[State.HALF_OPEN if due else view.state]


def _metrics(driver: Driver) -> dict[str, object]:
    """The vectors' numbers out of ours. A stopped circuit has its counts in the transition that stopped it.

    A rate of no calls is None here and 0 there.
    """
    view = driver.look()
    stopped = view.state in (State.OPEN, State.FORCED_OPEN)
    readings = driver.changes()[-1].readings if stopped else view.readings
    window = _reading(readings, FailureRate, FailureCount)
    slow = _reading(readings, SlowCallRate)
    streak = _reading(readings, ConsecutiveFailures)
    calls, failures = (window.calls, window.count) if window else (view.calls, view.failures)
    return {
        "calls": calls,
        "failures": failures,
        "successes": calls - failures,
        "failure_rate": window and (window.rate or 0),
        "defined": window is not None and window.enough_calls,
        "slow": slow and slow.count,
        "slow_rate": slow and (slow.rate or 0),
        "consecutive": streak and streak.count,
        "rejected": view.refused,
        "excluded": view.ignored,
    }


def _reading(readings: tuple[Reading, ...], *kinds: type) -> Reading | None:
    return next((each for each in readings if isinstance(each.condition, kinds)), None)
