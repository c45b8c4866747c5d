"""What all guarded HTTP has in common, without any client."""

from email.utils import formatdate
from time import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, ConsecutiveFailures, State
from aiobreaker.core.eras import Totals
from aiobreaker.http import origin, registry_of_defaults, retry_after, retry_after_value, settle_by_head
from aiobreaker.testing import ManualClock


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("https", "api.example.com", None, "https://api.example.com"),
        ("https", "api.example.com", 443, "https://api.example.com"),
        ("http", "api.example.com", 80, "http://api.example.com"),
        ("http", "api.example.com", 443, "http://api.example.com:443"),
        ("https", "api.example.com", 80, "https://api.example.com:80"),
        ("ws", "api.example.com", 80, "ws://api.example.com"),
        ("wss", "api.example.com", 443, "wss://api.example.com"),
        ("HTTP", "API.example.com", 8080, "http://api.example.com:8080"),
        ("http", "::1", None, "http://[::1]"),
        ("http", "[::1]", 8080, "http://[::1]:8080"),
        ("redis", "cache", 6379, "redis://cache:6379"),
        ("redis", "cache", None, "redis://cache"),
    ],
)
def test_an_origin_has_one_form(scheme: str, host: str, port: int | None, expected: str) -> None:
    assert origin(scheme, host, port) == expected


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 120 "}, 120),
        ({"retry-after": "8\x1f"}, 8),  # white space to str, not to float
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
    ],
    ids=["seconds", "spaces", "separator", "zero", "negative", "fraction", "word", "empty", "endless", "past", "without"],
)
def test_retry_after_in_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    delay = retry_after({"retry-after": formatdate(time() + 3600, usegmt=True)})
    assert delay == pytest.approx(3600, abs=30)


@given(st.text())
def test_no_header_is_too_much(text: str) -> None:
    delay = retry_after({"retry-after": text})
    assert delay is None or 0 < delay < float("inf")


@pytest.mark.parametrize(
    ("seconds", "value"),
    [(2.1, "3"), (2.0, "2"), (0.0, "0"), (-1.0, "0"), (None, None), (float("inf"), None), (float("nan"), None)],
)
def test_seconds_are_told_as_whole_ones(seconds: float | None, value: str | None) -> None:
    assert retry_after_value(seconds) == value


def test_breakers_are_named_after_their_keys() -> None:
    registry = registry_of_defaults()
    assert registry["https://a.example"].name == "https://a.example"
    assert registry["tenant", 7].name == "('tenant', 7)"


async def settled(status: int, headers: dict[str, str], rule: Any = None, /, **settings: Any) -> tuple[bool, CircuitBreaker]:
    breaker = CircuitBreaker("b", clock=ManualClock(), **settings)
    permit = await breaker.acquire()
    response = SimpleNamespace(status_code=status, headers=headers)
    done = settle_by_head(breaker._gate, permit._permit, response, status, rule)
    permit.success()
    return done, breaker


async def test_the_head_settles_what_it_can() -> None:
    done, breaker = await settled(503, {})
    assert done
    assert breaker.snapshot().totals == Totals(failures=1)
    done, breaker = await settled(200, {})
    assert not done
    assert breaker.snapshot().totals == Totals(successes=1)
    done, breaker = await settled(429, {})
    assert done
    assert breaker.snapshot().totals == Totals(ignored=1)
    done, breaker = await settled(429, {"retry-after": "7"})
    assert done
    assert breaker.snapshot().retry_after == 7


async def test_the_nearest_rule_decides() -> None:
    def not_found(response: Any) -> bool:
        return bool(response.status_code == 404)

    def everything(response: Any) -> bool:
        return True

    for failure_if, settings in ((not_found, {"failure_if": everything}), (None, {"failure_if": not_found})):
        for status, failures in ((404, 1), (503, 0)):
            _, breaker = await settled(status, {}, failure_if, **settings)
            assert breaker.snapshot().totals.failures == failures


async def test_a_breakers_own_rule_for_hints_comes_before_that_for_429() -> None:
    def hint(response: Any) -> str | None:
        return response.headers.get("wait") if response.status_code == 503 else None

    _, breaker = await settled(503, {"wait": "9"}, retry_after=hint, trip=ConsecutiveFailures(5))
    assert breaker.state is State.OPEN
    assert breaker.snapshot().retry_after == 9
    assert breaker.snapshot().totals.failures == 1
    _, breaker = await settled(429, {"retry-after": "9"}, retry_after=hint)
    assert breaker.state is State.CLOSED
    _, breaker = await settled(429, {"retry-after": "9"}, failure_if=lambda response: False, retry_after=lambda response: 5)
    assert breaker.snapshot().retry_after == 5
    assert breaker.snapshot().totals == Totals(ignored=1)


async def test_a_rule_that_raises_leaves_no_call_in_flight() -> None:
    def fails(response: Any) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker("b")
    permit = await breaker.acquire()
    with pytest.raises(ZeroDivisionError):
        settle_by_head(breaker._gate, permit._permit, SimpleNamespace(headers={}), 200, fails)
    permit.success()
    assert breaker.snapshot().totals == Totals(ignored=1)
