"""grpc.aio, the server's side: what callers see of refusals in handlers of every kind, over the wire. asyncio only."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import anyio
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, RefusedError, State
from aiobreaker.errors import BulkheadFullError, LimitReachedError, RateLimitedError, ThrottledError
from aiobreaker.integrations.grpc import RefusalInterceptor, breaker_interceptors
from aiobreaker.testing import ManualClock
from tests.integrations.grpc_service import KINDS, PATIENCE, GrpcService, answer, at_rest, begin, channel_to

Code = grpc.StatusCode
Hint = dict[str, str]
LATER = "not served for now; try again later"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def _one_loop(anyio_backend: str) -> AsyncGenerator[None]:
    yield
    await at_rest()


@asynccontextmanager
async def service_and_channel(*interceptors: Any) -> AsyncGenerator[tuple[GrpcService, grpc.aio.Channel]]:
    with anyio.fail_after(PATIENCE):
        async with GrpcService().serving(RefusalInterceptor(), *interceptors) as service, channel_to(service) as channel:
            yield service, channel


async def end_of(call: Any, received: list[Any] | None = None) -> tuple[grpc.StatusCode, str, Hint]:
    """The status of a call that fails, its words and its trailing metadata; and what came before."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if received is None:
            await answer(call)
        else:
            async for message in call:
                received.append(message)
    return caught.value.code(), caught.value.details(), dict(caught.value.trailing_metadata())


def hint(milliseconds: int, seconds: int) -> Hint:
    return {"grpc-retry-pushback-ms": str(milliseconds), "retry-after": str(seconds)}


def opened(retry_after: float | None = None) -> CircuitOpenError:
    return CircuitOpenError("secrets-db", State.OPEN, "too many failures", retry_after)


class Overloaded(RefusedError):
    """Of somebody's own, without a hint."""


REFUSALS: dict[str, tuple[Callable[[], Exception], Hint]] = {
    "circuit": (lambda: opened(12.3456), hint(12346, 13)),
    "circuit, whole seconds": (lambda: opened(30), hint(30000, 30)),
    "circuit, soon": (lambda: opened(0.0001), hint(1, 1)),
    "circuit, trials running": (lambda: opened(0), {}),
    "circuit, nobody knows": (opened, {}),
    "circuit, never": (lambda: opened(inf), {}),
    "bulkhead": (lambda: BulkheadFullError("db"), {}),
    "limit": (lambda: LimitReachedError("db", retry_after=2), hint(2000, 2)),
    "rate": (lambda: RateLimitedError("db", "too fast", 0.5), hint(500, 1)),
    "throttle": (lambda: ThrottledError("db"), {}),
    "somebody's own": (Overloaded, {}),
    "group": (lambda: ExceptionGroup("both", [opened(3), opened(7), opened()]), hint(7000, 7)),
    "nested": (lambda: ExceptionGroup("a", [ExceptionGroup("b", [BulkheadFullError("db")]), opened(1)]), hint(1000, 1)),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_in_a_handler_is_unavailable_with_a_hint(
    kind: str, refusal: str, caplog: pytest.LogCaptureFixture
) -> None:
    error, expected = REFUSALS[refusal]
    async with service_and_channel() as (service, channel):
        service.behave("raise", error=error)
        assert await end_of(begin(channel, kind)) == (Code.UNAVAILABLE, LATER, expected)
        service.behave("ok")
        assert await answer(begin(channel, kind)) == [b"pear"]
    assert caplog.text == ""


OTHERS: dict[str, Callable[[], Exception]] = {
    "error": lambda: ValueError("a bug"),
    "mixed": lambda: ExceptionGroup("a bug", [opened(3), ValueError("a bug")]),
    "timeout": lambda: TimeoutError("a bug"),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_other_errors_pass_unchanged(kind: str, other: str, caplog: pytest.LogCaptureFixture) -> None:
    async with service_and_channel() as (service, channel):
        service.behave("raise", error=OTHERS[other])
        code, words, trailing = await end_of(begin(channel, kind))
    assert (code, trailing) == (Code.UNKNOWN, {})
    assert "a bug" in words
    [record] = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], type(OTHERS[other]()))


@pytest.mark.parametrize("kind", KINDS)
async def test_other_statuses_pass_unchanged(kind: str) -> None:
    async with service_and_channel() as (service, channel):
        service.behave("error", code=Code.NOT_FOUND, trailing=(("where", "nowhere"),))
        assert await end_of(begin(channel, kind)) == (Code.NOT_FOUND, "as it was told", {"where": "nowhere"})


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
async def test_a_stream_that_has_sent_messages_ends_so_too(kind: str) -> None:
    async with service_and_channel() as (service, channel):
        service.behave("raise", error=lambda: opened(3), messages=2)
        received: list[bytes] = []
        assert await end_of(begin(channel, kind), received) == (Code.UNAVAILABLE, LATER, hint(3000, 3))
        assert received == [b"pear"] * 2


async def test_a_method_that_is_not_there_is_still_not_there() -> None:
    async with service_and_channel() as (_, channel):
        code, _, _ = await end_of(channel.unary_unary("/shop.Payments/Refund")(b""))
        assert code is Code.UNIMPLEMENTED


# -- handlers in other styles


@asynccontextmanager
async def handled(behaviour: Callable[..., Any], kind: str) -> AsyncGenerator[Any]:
    """A call to a handler of our own."""
    with anyio.fail_after(PATIENCE):
        server = grpc.aio.server(interceptors=[RefusalInterceptor()])
        handler = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour, int, _digits)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Payments", {"Charge": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield getattr(channel, kind)("/shop.Payments/Charge", _digits, int)
        await server.stop(1)


def _digits(number: int) -> bytes:
    return b"%d" % number


async def test_what_a_handler_writes_by_itself() -> None:
    async def charge(request: int, context: Any) -> None:
        await context.write(request)
        context.set_trailing_metadata((("mood", "bad"),))
        raise opened(3)

    async with handled(charge, "unary_stream") as call:
        received: list[int] = []
        assert await end_of(call(7), received) == (Code.UNAVAILABLE, LATER, {"mood": "bad", **hint(3000, 3)})
        assert received == [7]


async def test_the_messages_own_serialisers_stay() -> None:
    async def charge(request: int, context: Any) -> int:
        return request + 1

    async with handled(charge, "unary_unary") as call:
        assert await call(7) == 8


async def test_a_handler_that_has_set_a_code_is_left_to_it() -> None:
    async def charge(request: int, context: Any) -> int:
        context.set_code(Code.FAILED_PRECONDITION)
        raise opened(3)

    async with handled(charge, "unary_unary") as call:
        code, _, trailing = await end_of(call(7))
        assert (code, trailing) == (Code.FAILED_PRECONDITION, {})


async def test_a_code_that_says_ok_is_no_answer() -> None:
    async def charge(request: int, context: Any) -> int:
        context.set_code(Code.OK)
        raise opened(3)

    async with handled(charge, "unary_unary") as call:
        assert (await end_of(call(7)))[0] is Code.UNAVAILABLE


async def test_a_handler_that_has_aborted_is_left_to_it() -> None:
    async def charge(request: int, context: Any) -> int:
        try:
            await context.abort(Code.NOT_FOUND, "no such order")
        finally:
            raise opened(3)

    async with handled(charge, "unary_unary") as call:
        assert await end_of(call(7)) == (Code.NOT_FOUND, "no such order", {})


async def test_handlers_in_threads_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    def charge(request: int, context: Any) -> int:
        if request == 8:
            raise opened(3)
        return request

    def charges(request: int, context: Any) -> Iterator[int]:
        yield charge(request, context)

    async with handled(charge, "unary_unary") as call:
        assert await call(7) == 7
        assert (await end_of(call(8)))[0] is Code.UNKNOWN
    async with handled(charges, "unary_stream") as call:
        assert await answer(call(7)) == [7]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_caller_who_goes_away_half_way_ends_the_handler() -> None:
    async with service_and_channel() as (service, channel):
        service.behave("hang", messages=1)
        call = begin(channel, "unary_stream")
        assert await call.read() == b"pear"
        call.cancel()
        while not service.ended:
            await anyio.sleep(0.001)


# -- both sides


async def test_a_callers_circuit_opens_for_as_long_as_the_servers_is_open() -> None:
    clock = ManualClock()
    database = CircuitBreaker("database", open_for=30, clock=clock)
    payments = CircuitBreaker("payments", trip=ConsecutiveFailures(9), clock=clock)

    @database
    async def query(request: bytes, context: Any) -> bytes:
        return request

    with anyio.fail_after(PATIENCE):
        server = grpc.aio.server(interceptors=[RefusalInterceptor()])
        handler = grpc.unary_unary_rpc_method_handler(query)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Payments", {"Charge": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=breaker_interceptors(payments)) as channel:
            charge = channel.unary_unary("/shop.Payments/Charge")
            assert await charge(b"pear") == b"pear"
            database.open()
            clock.advance(10)
            assert await end_of(charge(b"pear")) == (Code.UNAVAILABLE, LATER, hint(20000, 20))
            assert payments.snapshot().retry_after == 20
            with pytest.raises(CircuitOpenError, match="payments"):
                await charge(b"pear")
            assert database.snapshot().totals.refused == 1
            clock.advance(20)
            assert await charge(b"pear") == b"pear"
            assert (payments.state, database.state) == (State.CLOSED, State.CLOSED)
        await server.stop(1)
