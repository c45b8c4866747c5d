"""grpc.aio, the client's side: what becomes of RPCs behind a circuit breaker, against a real server. asyncio only."""

import asyncio
import gc
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, LastCalls, SlowCallRate, State
from aiobreaker.core.outcomes import Outcome
from aiobreaker.integrations import grpc as integration
from aiobreaker.integrations.grpc import FAILURE_CODES, breaker_interceptors, method_of, service_of
from aiobreaker.testing import ManualClock, record_events
from tests.integrations.grpc_service import KINDS, PATIENCE, GrpcService, answer, at_rest, begin, channel_to, grpc_service

Code = grpc.StatusCode
STREAMED = ("unary_stream", "stream_stream")
PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "grpc.md"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def _one_loop(anyio_backend: str) -> AsyncGenerator[None]:
    yield
    await at_rest()


def breaker_of(**settings: Any) -> CircuitBreaker:
    return CircuitBreaker("payments", **{"trip": ConsecutiveFailures(1), "clock": ManualClock(), **settings})


async def settled(breaker: CircuitBreaker) -> None:
    """Wait until nothing is in flight. What nobody has any more goes when the collector finds it."""
    while breaker.snapshot().in_flight:
        gc.collect()
        await anyio.sleep(0.01)


def outcomes(breaker: CircuitBreaker) -> dict[str, int]:
    """How many calls ended in which way, without those that did not happen."""
    return {outcome: number for outcome, number in breaker.snapshot().totals._asdict().items() if number}


async def status_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(call)
    return caught.value.code()


# -- refusals

FIRST_WAITS: dict[str, Callable[[Any], Any]] = {
    "answer": answer,
    "code": lambda call: call.code(),
    "trailing metadata": lambda call: call.trailing_metadata(),
    "connection": lambda call: call.wait_for_connection(),
}


@pytest.mark.parametrize("wait", FIRST_WAITS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_comes_unwrapped_when_the_caller_first_waits_and_nothing_is_sent(kind: str, wait: str) -> None:
    breaker = breaker_of(open_for=30)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        breaker.open()
        call = begin(channel, kind)
        with pytest.raises(CircuitOpenError) as caught:
            await FIRST_WAITS[wait](call)
        assert (type(caught.value), caught.value.name, caught.value.retry_after) == (CircuitOpenError, "payments", 30)
        assert not isinstance(caught.value, grpc.RpcError)
        assert call.done()
        assert not call.cancelled()
        breaker.reset()
        assert await answer(begin(channel, kind))
        assert service.seen == [f"shop.Payments/{kind}"]
        assert outcomes(breaker) == {"refused": 1, "successes": 1}


@pytest.mark.parametrize(("kind", "first"), [("unary_stream", "read"), ("stream_unary", "write"), ("stream_stream", "write")])
async def test_it_comes_by_the_first_read_and_write_too(kind: str, first: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        breaker.open()
        multi = getattr(channel, kind)(f"/shop.Payments/{kind}")
        call = multi(b"pear") if kind == "unary_stream" else multi()
        with pytest.raises(CircuitOpenError):
            await (call.read() if first == "read" else call.write(b"pear"))
        if first == "write":
            with pytest.raises(CircuitOpenError):
                await call.done_writing()
        assert service.seen == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_call_that_nobody_waits_for_makes_no_noise(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        breaker.open()
        begin(channel, kind)
        while not breaker.snapshot().totals.refused:
            await anyio.sleep(0)
        gc.collect()
        await anyio.sleep(0)
        assert service.seen == []
    assert caplog.text == ""


# -- statuses

VERDICTS = dict.fromkeys(Code, "successes") | {
    Code.UNAVAILABLE: "failures",
    Code.DEADLINE_EXCEEDED: "failures",
    Code.INTERNAL: "failures",
    Code.UNKNOWN: "failures",
    Code.DATA_LOSS: "failures",
    Code.RESOURCE_EXHAUSTED: "ignored",
    Code.CANCELLED: "cancelled",
}


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK], ids=lambda code: code.name)
async def test_an_rpc_is_judged_by_its_status(code: grpc.StatusCode) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("error", code=code)
        assert await status_of(begin(channel, "unary_unary")) is code
        assert outcomes(breaker) == {VERDICTS[code]: 1}
        failed = code in FAILURE_CODES
        assert breaker.state is (State.OPEN if failed else State.CLOSED)
        summary = breaker.snapshot().last_failure
        assert str(summary) == (f"RpcError: {code.name}: as it was told" if failed else "None")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_call_trips_it_and_a_trial_decides(kind: str) -> None:
    clock = ManualClock()
    breaker = breaker_of(trip=ConsecutiveFailures(2), open_for=30, clock=clock)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        assert await answer(begin(channel, kind)) == [b"pear"]
        service.behave("error")
        assert await status_of(begin(channel, kind)) is Code.UNAVAILABLE
        assert breaker.state is State.CLOSED
        assert await status_of(begin(channel, kind)) is Code.UNAVAILABLE
        assert breaker.state is State.OPEN
        clock.advance(30)
        assert await status_of(begin(channel, kind)) is Code.UNAVAILABLE
        assert (breaker.state, breaker.snapshot().transitions) == (State.OPEN, 3)
        service.behave("ok")
        with pytest.raises(CircuitOpenError):
            await answer(begin(channel, kind))
        clock.advance(30)
        assert await answer(begin(channel, kind)) == [b"pear"]
        assert breaker.state is State.CLOSED
        assert len(service.seen) == 5
        assert outcomes(breaker) == {"successes": 2, "failures": 3, "refused": 1}


async def test_what_is_a_failure_can_be_chosen() -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker, failure_codes=[Code.NOT_FOUND])) as (service, channel):
        service.behave("error", code=Code.UNAVAILABLE)
        await status_of(begin(channel, "unary_unary"))
        service.behave("error", code=Code.NOT_FOUND)
        await status_of(begin(channel, "unary_unary"))
    assert outcomes(breaker) == {"successes": 1, "failures": 1}


async def test_the_breakers_own_rules_are_not_asked() -> None:
    def never(_: object) -> Any:
        raise AssertionError

    breaker = breaker_of(failure_on=never, ignore=never, failure_if=never, retry_after=never)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        await answer(begin(channel, "unary_unary"))
        service.behave("error")
        await status_of(begin(channel, "unary_unary"))
    assert outcomes(breaker) == {"successes": 1, "failures": 1}


# -- nobody there, nobody answers, the connection dies


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_is_not_there_is_a_failure_and_comes_back(kind: str) -> None:
    clock = ManualClock()
    breaker = breaker_of(clock=clock)
    with anyio.fail_after(PATIENCE):
        async with GrpcService().serving() as service, anyio.create_task_group() as tasks:
            async with channel_to(service, breaker_interceptors(breaker)) as channel:
                await service.close_port()
                assert await status_of(begin(channel, kind)) is Code.UNAVAILABLE
                assert breaker.state is State.OPEN
                await service.open_port(tasks)
                clock.advance(30)
                assert await answer(begin(channel, kind, wait_for_ready=True)) == [b"pear"]
                assert breaker.state is State.CLOSED
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_that_passes_is_a_failure(kind: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("hang")
        assert await status_of(begin(channel, kind, timeout=0.1)) is Code.DEADLINE_EXCEEDED
        assert outcomes(breaker) == {"failures": 1}


@pytest.mark.parametrize("timeout", [0, -10])
async def test_a_deadline_that_had_passed_before_says_nothing(timeout: float) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("hang")
        assert await status_of(begin(channel, "unary_unary", timeout=timeout)) is Code.DEADLINE_EXCEEDED
        assert outcomes(breaker) == {"ignored": 1}


@pytest.mark.parametrize("messages", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_that_dies_is_a_failure_half_way_through_a_stream_too(kind: str, messages: int) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("die", messages=messages)
        call = begin(channel, kind)
        if kind in STREAMED:
            assert [await call.read() for _ in range(messages)] == [b"pear"] * messages
        assert breaker.state is State.CLOSED
        assert await status_of(call) is Code.UNAVAILABLE
        assert breaker.state is State.OPEN
        assert outcomes(breaker) == {"failures": 1}


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_that_ends_with_a_failure_is_one_whatever_came_before(kind: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("error", code=Code.INTERNAL, messages=3)
        received = []
        with pytest.raises(grpc.aio.AioRpcError):
            async for message in begin(channel, kind):
                assert breaker.snapshot().in_flight == 1
                received.append(message)
        assert received == [b"pear"] * 3
        assert outcomes(breaker) == {"failures": 1}


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_is_judged_at_its_end_however_it_is_read(kind: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("ok", messages=2)
        call = begin(channel, kind)
        assert [await call.read() for _ in range(3)] == [b"pear"] * 3
        assert breaker.snapshot().in_flight == 1
        assert await call.read() is grpc.aio.EOF
        assert (outcomes(breaker), breaker.snapshot().in_flight) == ({"successes": 1}, 0)


# -- hints

RETRY_INFO = (  # made by protobuf itself: QuotaFailure and RetryInfo(12.5 s); RetryInfo(-5 s); RetryInfo(0 s); QuotaFailure
    b"\x08\x08\x12\x08quota \xc3\xbc\x1a@\n+type.googleapis.com/google.rpc.QuotaFailure\x12\x11\n\x0f\n\x03ann\x12\x08too many"
    b"\x1a6\n(type.googleapis.com/google.rpc.RetryInfo\x12\n\n\x08\x08\x0c\x10\x80\xca\xb5\xee\x01"
)
RETRY_INFO_BELOW_0 = (
    b"\x08\x08\x1aD\n(type.googleapis.com/google.rpc.RetryInfo\x12\x18\n\x16\x08\xfb\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
)
RETRY_INFO_OF_0 = b"\x08\x08\x1a.\n(type.googleapis.com/google.rpc.RetryInfo\x12\x02\n\x00"
NO_RETRY_INFO = b"\x08\x08\x1a6\n+type.googleapis.com/google.rpc.QuotaFailure\x12\x07\n\x05\n\x03ann"
PUSHBACK, STATUS_DETAILS, RETRY_AFTER = "grpc-retry-pushback-ms", "grpc-status-details-bin", "retry-after"

HINTS: dict[str, tuple[tuple[tuple[str, str | bytes], ...], float | None]] = {
    "pushback": (((PUSHBACK, "2500"),), 2.5),
    "retry info": (((STATUS_DETAILS, RETRY_INFO),), 12.5),
    "seconds": (((RETRY_AFTER, "7"),), 7),
    "the first that is there": (((RETRY_AFTER, "7"), (STATUS_DETAILS, RETRY_INFO), (PUSHBACK, "2500")), 2.5),
    "the next if the first says nothing": (((PUSHBACK, "-1"), (STATUS_DETAILS, b"\xff"), (RETRY_AFTER, "7")), 7),
    "more than is followed": (((PUSHBACK, "9" * 12),), 300),
    "a date long past": (((RETRY_AFTER, "Mon, 01 Jan 2001 00:00:00 GMT"),), None),
    "no retry info": (((STATUS_DETAILS, NO_RETRY_INFO),), None),
    "retry info below 0": (((STATUS_DETAILS, RETRY_INFO_BELOW_0),), None),
    "retry info of 0": (((STATUS_DETAILS, RETRY_INFO_OF_0),), None),
    "do not retry": (((PUSHBACK, "-1"),), None),
    "no number": (((PUSHBACK, "soon"), (RETRY_AFTER, "later")), None),
    "none": ((), None),
}


@pytest.mark.parametrize("hint", HINTS)
async def test_resource_exhausted_opens_for_as_long_as_its_hint_says_and_is_not_counted(hint: str) -> None:
    trailing, seconds = HINTS[hint]
    breaker = breaker_of(trip=ConsecutiveFailures(5))
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("error", code=Code.RESOURCE_EXHAUSTED, trailing=trailing)
        assert await status_of(begin(channel, "unary_unary")) is Code.RESOURCE_EXHAUSTED
    assert outcomes(breaker) == {"ignored": 1}
    assert breaker.state is (State.CLOSED if seconds is None else State.OPEN)
    assert breaker.snapshot().retry_after == seconds


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_with_a_hint_opens_for_that_long(kind: str) -> None:
    breaker = breaker_of(trip=ConsecutiveFailures(5), max_retry_after=60)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("error", trailing=((PUSHBACK, "45000"),))
        await status_of(begin(channel, kind))
        assert (outcomes(breaker), breaker.snapshot().retry_after) == ({"failures": 1}, 45)
        breaker.reset()
        service.behave("error", trailing=((PUSHBACK, "90000"),))
        await status_of(begin(channel, kind))
        assert breaker.snapshot().retry_after == 60


async def test_the_hint_may_be_a_date() -> None:
    breaker = breaker_of(trip=ConsecutiveFailures(5))
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        date = (datetime.now(UTC) + timedelta(seconds=200)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        service.behave("error", code=Code.RESOURCE_EXHAUSTED, trailing=((RETRY_AFTER, date),))
        await status_of(begin(channel, "unary_unary"))
    assert 100 < (breaker.snapshot().retry_after or 0) <= 200


async def test_the_hint_of_an_answer_says_nothing() -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("error", code=Code.ABORTED, trailing=((PUSHBACK, "2500"),))
        await status_of(begin(channel, "unary_unary"))
    assert (breaker.state, outcomes(breaker)) == (State.CLOSED, {"successes": 1})


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value % 2**64)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


@given(
    seconds=st.integers(0, 10**9),
    nanos=st.integers(0, 999_999_999),
    others=st.lists(st.sampled_from([_field(1, 8), _field(2, b"words"), b"\x49" + bytes(8), b"\x4d" + bytes(4)])),
)
def test_retry_info_is_read_whatever_stands_around_it(seconds: int, nanos: int, others: list[bytes]) -> None:
    delay = _field(1, seconds) + _field(2, nanos)
    info = _field(1, b"type.googleapis.com/google.rpc.RetryInfo") + _field(2, _field(1, delay))
    status = b"".join(others) + _field(3, _field(1, b"type.googleapis.com/other")) + _field(3, info) + b"".join(others)
    hint = integration._hint(((STATUS_DETAILS, status),), 1e12)
    assert hint == (seconds + nanos / 1e9 or None)


@given(st.binary(), st.text(), st.text())
def test_no_metadata_breaks_it(details: bytes, pushback: str, retry_after: str) -> None:
    prefix = RETRY_INFO[: len(details)]
    for trailing in (details, prefix + details, RETRY_INFO + details):
        hint = integration._hint(((PUSHBACK, pushback), (STATUS_DETAILS, trailing), (RETRY_AFTER, retry_after)), 300)
        assert hint is None or 0 < hint <= 300


# -- cancelled, dropped


async def by_cancel(call: Any, reading: "asyncio.Task[Any]") -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def by_task(call: Any, reading: "asyncio.Task[Any]") -> None:
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("messages", [0, 2])
@pytest.mark.parametrize("way", [by_cancel, by_task])
@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_is_neutral_and_gives_a_trial_slot_back(kind: str, way: Any, messages: int) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("hang", messages=messages)
        breaker.half_open()
        call = begin(channel, kind)
        reading = asyncio.create_task(answer(call))
        while not service.seen:
            await anyio.sleep(0.001)
        with pytest.raises(CircuitOpenError):
            await answer(begin(channel, kind))
        await way(call, reading)
        assert breaker.snapshot().in_flight == 0
        assert outcomes(breaker) == {"cancelled": 1, "refused": 1}
        service.behave("ok")
        assert await answer(begin(channel, kind)) == [b"pear"]
        assert breaker.state is State.CLOSED


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_before_it_has_begun_costs_nothing(kind: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        call = begin(channel, kind)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer(call)
        assert (outcomes(breaker), service.seen) == ({}, [])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_channel_that_is_closed_cancels_what_is_in_flight(kind: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("hang")
        async with channel_to(service, breaker_interceptors(breaker)) as another:
            call = begin(another, kind)
            while not service.seen:
                await anyio.sleep(0.001)
        assert call.done()
        assert outcomes(breaker) == {"cancelled": 1}
        late = begin(another, kind)
        with pytest.raises(grpc.aio.UsageError):
            await answer(late)
        assert outcomes(breaker) == {"cancelled": 1, "ignored": 1}
        service.behave("ok")
        assert await answer(begin(channel, kind)) == [b"pear"]


@pytest.mark.parametrize("way", ["after a message", "by read", "unread"])
@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_that_is_dropped_is_neutral_and_ends(kind: str, way: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("hang", messages=3)
        breaker.half_open()

        async def lose_interest() -> None:
            call = begin(channel, kind)
            if way == "after a message":
                async for message in call:
                    assert message == b"pear"
                    break
            elif way == "by read":
                assert await call.read() == b"pear"
            while not service.seen:
                await anyio.sleep(0.001)
            assert breaker.snapshot().in_flight == 1

        await lose_interest()
        await settled(breaker)
        assert outcomes(breaker) == {"cancelled": 1}
        while not service.ended:  # the server hears of it
            await anyio.sleep(0.001)
        service.behave("ok")
        assert await answer(begin(channel, kind)) == [b"pear"]
        assert breaker.state is State.CLOSED


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
async def test_a_call_for_a_single_answer_that_nobody_waits_for_goes_on_and_counts(kind: str) -> None:
    breaker = breaker_of()
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        begin(channel, kind)
        while not service.seen:
            await anyio.sleep(0.001)
        await settled(breaker)
        assert outcomes(breaker) == {"successes": 1}


# -- slow


def slow_breaker(clock: ManualClock) -> CircuitBreaker:
    return breaker_of(trip=SlowCallRate(1.0, slower_than=1.0, window=LastCalls(1), minimum_calls=1), clock=clock)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_is_slow_when_the_first_message_comes_late(kind: str) -> None:
    clock = ManualClock()
    breaker = slow_breaker(clock)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("ok", messages=1, before=lambda: clock.advance(1))
        assert await answer(begin(channel, kind))
    assert (outcomes(breaker), breaker.state) == ({"successes": 1}, State.OPEN)


@pytest.mark.parametrize("by_read", [False, True])
@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_may_take_its_time_after_the_first_message(kind: str, by_read: bool) -> None:
    clock = ManualClock()
    breaker = slow_breaker(clock)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("ok", messages=1)
        call = begin(channel, kind)
        if by_read:
            assert await call.read() == b"pear"
            clock.advance(5)
            assert await call.read() == b"pear"
            assert await call.read() is grpc.aio.EOF
        else:
            async for _ in call:
                clock.advance(5)
    assert (outcomes(breaker), breaker.state) == ({"successes": 1}, State.CLOSED)


async def test_a_call_that_is_cancelled_from_outside_after_it_had_become_slow_counts_as_slow() -> None:
    clock = ManualClock()
    breaker = slow_breaker(clock)
    async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
        service.behave("hang", before=lambda: clock.advance(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await begin(channel, "unary_unary")
    assert (outcomes(breaker), breaker.state) == ({"cancelled": 1}, State.OPEN)


# -- which breaker


async def test_a_registry_has_a_breaker_for_each_service() -> None:
    registry = BreakerRegistry[str](CircuitBreaker)
    async with grpc_service(breaker_interceptors(registry)) as (_, channel):
        for kind in KINDS:
            await answer(begin(channel, kind))
        await answer(begin(channel, "unary_unary", service="shop.Stock"))
        registry["shop.Payments"].open()
        for kind in KINDS:
            with pytest.raises(CircuitOpenError):
                await answer(begin(channel, kind))
            assert await answer(begin(channel, kind, service="shop.Stock")) == [b"pear"]
    assert {key: seen.totals.successes for key, seen in registry.snapshot().items()} == {"shop.Payments": 4, "shop.Stock": 5}


async def test_or_for_each_method_or_what_else_is_known_of_a_call() -> None:
    def tenant(details: grpc.aio.ClientCallDetails) -> str:
        return f"{dict(details.metadata)['tenant']} {method_of(details)} {details.timeout}"

    by_method = BreakerRegistry[str](CircuitBreaker, parent=lambda key: key.split("/")[0])
    by_tenant = BreakerRegistry[str](CircuitBreaker)
    interceptors = breaker_interceptors(by_method, key=method_of) + breaker_interceptors(by_tenant, key=tenant)
    async with grpc_service(interceptors) as (_, channel):
        await answer(begin(channel, "unary_unary", metadata=(("tenant", "ann"),), timeout=20))
    assert sorted(by_method) == ["shop.Payments", "shop.Payments/unary_unary"]
    assert list(by_tenant) == ["ann shop.Payments/unary_unary 20"]


@pytest.mark.parametrize("method", ["/shop.Payments/Charge", b"/shop.Payments/Charge", "shop.Payments/Charge"], ids=repr)
def test_methods_have_names(method: str | bytes) -> None:
    details = grpc.aio.ClientCallDetails(method, None, None, None, None)
    assert (service_of(details), method_of(details)) == ("shop.Payments", "shop.Payments/Charge")


async def test_a_key_function_that_raises_is_heard() -> None:
    def key(_: object) -> str:
        raise LookupError("no tenant")

    async with grpc_service(breaker_interceptors(BreakerRegistry[str](CircuitBreaker), key=key)) as (service, channel):
        with pytest.raises(LookupError, match="no tenant"):
            await answer(begin(channel, "unary_unary"))
        assert service.seen == []


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "breakers": (lambda: breaker_interceptors("payments"), TypeError, "breakers must be a CircuitBreaker or"),  # type: ignore[arg-type]
    "key": (
        lambda: breaker_interceptors(BreakerRegistry(CircuitBreaker), key="service"),  # type: ignore[arg-type]
        TypeError,
        "key must be a function of the call's details that returns a key, not 'service'",
    ),
    "key of one": (lambda: breaker_interceptors(breaker_of(), key=method_of), ValueError, "key must be left out when breakers"),
    "codes": (lambda: breaker_interceptors(breaker_of(), failure_codes=14), TypeError, "failure_codes must be .*, not 14"),  # type: ignore[arg-type]
    "code": (lambda: breaker_interceptors(breaker_of(), failure_codes=[14]), TypeError, "failure_codes .*, not one with 14"),
    "ok": (lambda: breaker_interceptors(breaker_of(), failure_codes={Code.OK}), ValueError, "without OK .*StatusCode.OK"),
    "cancelled": (lambda: breaker_interceptors(breaker_of(), failure_codes={Code.CANCELLED}), ValueError, "StatusCode.CANCELL"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings_are_told_at_once(wrong: str) -> None:
    make, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        make()


# -- among other interceptors, and as a call


class _Inner(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor of somebody else's, further in."""

    def __init__(self, act: Callable[[Any, Any, Any], Any]) -> None:
        self._act = act

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._act(continuation, client_call_details, request)


async def _awaits(continuation: Any, details: Any, request: Any) -> Any:
    return await (await continuation(details, request))


async def _fails(continuation: Any, details: Any, request: Any) -> Any:
    raise ValueError("no token")


async def _refuses(continuation: Any, details: Any, request: Any) -> Any:
    raise CircuitOpenError("tokens")


async def _waits(continuation: Any, details: Any, request: Any) -> Any:
    await anyio.sleep_forever()


class _Vague(grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """A call that is over, and takes its time to say how."""

    def done(self) -> bool:
        return True

    async def code(self) -> grpc.StatusCode:
        await anyio.sleep(0)
        return Code.OK

    trailing_metadata = initial_metadata = details = debug_error_string = wait_for_connection = code

    def cancelled(self) -> bool:
        return False

    cancel = cancelled

    def add_done_callback(self, callback: Any) -> None:
        callback(self)

    def time_remaining(self) -> None:
        return None

    def __await__(self) -> Any:
        yield from ()
        return b"vague"


async def _is_vague(continuation: Any, details: Any, request: Any) -> Any:
    return _Vague()


@pytest.mark.parametrize(
    ("act", "kind", "found"),
    [
        (_awaits, "ok", (b"pear", "successes")),
        (_awaits, "error", (grpc.aio.AioRpcError, "failures")),
        (_fails, "ok", (ValueError, "ignored")),
        (_refuses, "ok", (CircuitOpenError, "ignored")),
        (_waits, "ok", (TimeoutError, "cancelled")),
        (_is_vague, "ok", (b"vague", "ignored")),
    ],
)
async def test_interceptors_further_in_may_do_as_they_like(act: Any, kind: Any, found: tuple[Any, str]) -> None:
    breaker = breaker_of()
    expected, outcome = found
    async with grpc_service([*breaker_interceptors(breaker), _Inner(act)]) as (service, channel):
        service.behave(kind)
        call = begin(channel, "unary_unary")
        if isinstance(expected, bytes):
            assert await call == expected
        else:
            with pytest.raises(expected), anyio.fail_after(0.2 if expected is TimeoutError else PATIENCE):
                await call
        assert outcomes(breaker) == {outcome: 1}


class _Outer(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """An interceptor further out that looks at the call by itself."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.call: Any = None

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.call = call = await continuation(client_call_details, request)
        assert isinstance(call, grpc.aio.UnaryStreamCall)
        call.add_done_callback(self.told.append)
        self.told.append(await call.read())
        return call


async def test_interceptors_further_out_see_a_call_like_grpcs_own() -> None:
    clock = ManualClock()
    breaker, outer = slow_breaker(clock), _Outer()
    async with grpc_service([outer, *breaker_interceptors(breaker)]) as (service, channel):
        service.behave("ok", messages=1)
        call = begin(channel, "unary_stream")
        assert await call.initial_metadata() is not None
        [first] = outer.told
        assert first == b"pear"
        clock.advance(5)
        assert await outer.call.read() == b"pear"
        assert await outer.call.read() is grpc.aio.EOF
        assert await call.code() is Code.OK
        assert outer.told == [b"pear", outer.call]
        late: list[Any] = []
        call.add_done_callback(late.append)
        outer.call.add_done_callback(late.append)
        assert late == [call, outer.call]
        assert outer.told == [b"pear", outer.call]
    assert (outcomes(breaker), breaker.state) == ({"successes": 1}, State.CLOSED)


async def test_messages_go_both_ways_by_write_and_read() -> None:
    breaker = breaker_of()

    async def echo(requests: Any, context: Any) -> Any:
        async for request in requests:
            yield request
        context.set_trailing_metadata((("mood", "fine"),))

    with anyio.fail_after(PATIENCE):
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Chat", {"Talk": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=breaker_interceptors(breaker)) as channel:
            call = channel.stream_stream("/shop.Chat/Talk")()
            for word in (b"pear", b"plum"):
                await call.write(word)
                assert await call.read() == word
            told: list[Any] = []
            call.add_done_callback(told.append)
            assert (outcomes(breaker), told, call.done()) == ({}, [], False)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert ("mood", "fine") in list(await call.trailing_metadata())
            assert (outcomes(breaker), told, call.done()) == ({"successes": 1}, [call], True)
        await server.stop(1)


async def test_every_call_is_told_once() -> None:
    breaker = breaker_of(trip=ConsecutiveFailures(9))
    with record_events(breaker, calls=True) as events:
        async with grpc_service(breaker_interceptors(breaker)) as (service, channel):
            for kind in KINDS:
                await answer(begin(channel, kind))
            service.behave("error")
            for kind in KINDS:
                await status_of(begin(channel, kind))
    assert [getattr(event, "outcome", None) for event in events] == [Outcome.SUCCESS] * 4 + [Outcome.FAILURE] * 4


def test_the_pages_examples_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    quiet = {**os.environ, "GRPC_VERBOSITY": "NONE"}
    for block in blocks:  # in a process of its own, since each has an event loop of its own
        command = [sys.executable, "-W", "error", "-c", block]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
        assert (done.returncode, done.stderr) == (0, "")
