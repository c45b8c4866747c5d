"""For grpc.aio: client interceptors that put a circuit breaker in front of a channel, and a server interceptor for refusals.

Law: a refused RPC never reaches the wire; an RPC is judged once, by the status with which it ends, whoever reads its messages.
No task of its own. grpc.aio runs on asyncio only.
"""

import asyncio
import inspect
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
)
from functools import partial
from math import ceil
from typing import Any, Self, TypeAlias, cast
from weakref import WeakMethod

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

from ..breaker import CircuitBreaker
from ..core.eras import Permit
from ..core.outcomes import Outcome
from ..gate import Gate
from ..refusals import apart, longest_hint
from ..registry import BreakerRegistry
from ..settings import hinted_delay
from ..streams import Lifeline
from ..waiting import admit_slowly

__all__ = ["FAILURE_CODES", "RefusalInterceptor", "breaker_interceptors", "method_of", "service_of"]

Code = grpc.StatusCode
Details: TypeAlias = grpc.aio.ClientCallDetails
Call: TypeAlias = Any  # what the next interceptor answers with: grpc's own kinds of calls, or something that behaves like them
Continuation: TypeAlias = Callable[[Details, Any], Awaitable[Call]]
Pairs: TypeAlias = Iterable[tuple[str, str | bytes]]

FAILURE_CODES = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS})
"""The statuses that are failures unless you say otherwise: those that stand for 500, 503 and 504 in HTTP."""


# -- the client's side


def breaker_interceptors(
    breakers: CircuitBreaker | BreakerRegistry[Any],
    *,
    key: Callable[[Details], Hashable] | None = None,
    failure_codes: Collection[grpc.StatusCode] = FAILURE_CODES,
) -> list[grpc.aio.ClientInterceptor]:
    """Client interceptors, one for each kind of call: `insecure_channel(target, interceptors=breaker_interceptors(payments))`.

    A refused RPC raises CircuitOpenError, unwrapped, where the caller first waits for it: `await call`, the first message of
    `async for` or `read()`, the first `write()`, `code()`. Nothing is sent then.

    An RPC that was let in is judged when it is over, by its status:

    - One of `failure_codes` is a failure. UNAVAILABLE: there is no server, or it cannot serve; that is also how a stream ends
      whose connection dies. DEADLINE_EXCEEDED: it took too long, whoever set the deadline. UNKNOWN and INTERNAL: how servers
      tell an unexpected exception. DATA_LOSS: it has lost what it should keep.
    - RESOURCE_EXHAUSTED is not counted: it may be this caller's own quota, and gRPC itself uses it for a message that is too
      large. With a retry hint it opens the circuit for that long.
    - CANCELLED is neutral, and so is a call that is dropped, a deadline that had passed before the RPC began, and an exception
      of an interceptor further in that is no status.
    - Everything else is a success, an answer: INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, ABORTED and so on.

    A failure that carries a hint opens the circuit for that long too. Hints are read from the trailing metadata:
    `grpc-retry-pushback-ms`, the RetryInfo in `grpc-status-details-bin`, or `retry-after` (seconds or an HTTP date), the first
    that is there, up to the breaker's `max_retry_after`. Its other rules, `failure_on`, `failure_if`, `ignore` and
    `retry_after`, are not asked.

    Slow is the time to the end, or to the first message that the caller has read if messages are streamed back.

    Args:
        breakers: one breaker for everything that goes through the channel, which has one target; or a registry.
        key: with a registry, which breaker an RPC belongs to. Default: `service_of`; see also `method_of`. What is known of an
            RPC is its method, metadata and timeout, not the channel's target.
        failure_codes: the statuses that are failures.

    Raises:
        TypeError, ValueError: a setting that cannot be; the message names it, its value, and what is allowed.
    """
    pick, codes = _choice(breakers, key), _checked_codes(failure_codes)
    return [kind(pick, codes) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]


def service_of(details: Details) -> str:
    """The service of an RPC, without its method: "shop.Payments" for "/shop.Payments/Charge"."""
    return method_of(details).rpartition("/")[0]


def method_of(details: Details) -> str:
    """The full name of an RPC's method: "shop.Payments/Charge"."""
    method: str | bytes = details.method
    return (method.decode() if isinstance(method, bytes) else method).removeprefix("/")


def _choice(
    breakers: CircuitBreaker | BreakerRegistry[Any], key: Callable[[Details], Hashable] | None
) -> Callable[[Details], CircuitBreaker]:
    if isinstance(breakers, CircuitBreaker):
        if key is not None:
            raise ValueError(f"key must be left out when breakers is a single one, not {key!r}")
        return lambda _: breakers
    if not isinstance(breakers, BreakerRegistry):
        raise TypeError(f"breakers must be a CircuitBreaker or a BreakerRegistry, not {breakers!r}")
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function of the call's details that returns a key, not {key!r}")
    key_of: Callable[[Details], Hashable] = key or service_of
    return lambda details: breakers[key_of(details)]


def _checked_codes(failure_codes: Collection[grpc.StatusCode]) -> frozenset[grpc.StatusCode]:
    allowed = "a collection of grpc.StatusCode, without OK and CANCELLED"
    if not isinstance(failure_codes, Collection):
        raise TypeError(f"failure_codes must be {allowed}, not {failure_codes!r}")
    for code in failure_codes:
        if not isinstance(code, Code):
            raise TypeError(f"failure_codes must be {allowed}, not one with {code!r}")
        if code is Code.OK or code is Code.CANCELLED:
            raise ValueError(f"failure_codes must be {allowed}, not one with {code}")
    return frozenset(failure_codes)


class _Rpc(Lifeline):
    """One RPC that was let in. It settles once: when it is over, or when nobody has it any more."""

    __slots__ = ("_failure_codes", "_hopeless")

    def __init__(self, gate: Gate, permit: Permit, details: Details, failure_codes: frozenset[grpc.StatusCode]) -> None:
        super().__init__(gate, permit)
        self._failure_codes = failure_codes
        self._hopeless = details.timeout is not None and details.timeout <= 0

    def follow(self, call: Call) -> None:
        if call.done():  # an interceptor further in has waited for it; what that returns may not know of callbacks
            self.over(call)
        else:
            call.add_done_callback(self.over)

    def heard(self) -> None:
        """A message has come back, or there is none."""
        if self._permit.answered is None:
            self._gate.answered(self._permit)

    def over(self, call: Call) -> None:
        code = _at_once(call.code())
        if code is Code.OK:
            self._gate.settle(self._permit, Outcome.SUCCESS)
        else:
            self._judge(code, _at_once(call.details()), _at_once(call.trailing_metadata()))

    def broke(self, error: BaseException) -> None:
        """There is no call to follow."""
        if isinstance(error, grpc.aio.AioRpcError):
            self._judge(error.code(), error.details(), error.trailing_metadata())
        else:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._gate.settle(self._permit, Outcome.CANCELLED if cancelled else Outcome.IGNORED)

    def _judge(self, code: grpc.StatusCode | None, words: str | None, trailing: Pairs | None) -> None:
        outcome, subject, hint = Outcome.SUCCESS, None, None
        if code is Code.CANCELLED:
            outcome = Outcome.CANCELLED
        elif code is None or (code is Code.DEADLINE_EXCEEDED and self._hopeless):
            outcome = Outcome.IGNORED
        elif code in self._failure_codes:
            outcome, subject = Outcome.FAILURE, grpc.RpcError(f"{code.name}: {words}" if words else code.name)
        elif code is Code.RESOURCE_EXHAUSTED:
            outcome = Outcome.IGNORED
        if outcome is Outcome.FAILURE or code is Code.RESOURCE_EXHAUSTED:
            hint = _hint(trailing, self._gate.settings.max_retry_after)
        self._gate.settle(self._permit, outcome, subject, hint)


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """What a call that is over says of itself, for which nobody has to wait; None if it would have to be waited for."""
    try:
        answer.send(None)
    except StopIteration as end:
        return end.value
    answer.close()
    return None


class _Stream:
    """A call that streams messages back, as those outside see it. It tells when the first one has come.

    gRPC means to cancel calls that nobody has any more, but keeps a call until it is over if anybody wants to be told of that,
    as its own channel does. So those are kept here, and nobody keeps this one: a stream that is dropped can go, and ends.
    """

    def __init__(self, rpc: _Rpc, call: Call) -> None:
        self._rpc = rpc
        self._call = call
        self._messages: AsyncIterator[Any]
        self._callbacks: list[Callable[[Any], object]] = []
        call.add_done_callback(partial(_tell, WeakMethod(self._over)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)
        if self._call.done():
            self._over()

    def _over(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def read(self) -> Any:
        message = await self._call.read()
        self._rpc.heard()
        return message

    def __aiter__(self) -> Self:
        self._messages = aiter(self._call)
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        self._rpc.heard()
        return message


def _tell(over: WeakMethod[Callable[[], None]], _: Call) -> None:
    tell = over()
    if tell is not None:
        tell()


grpc.aio.UnaryStreamCall.register(_Stream)
grpc.aio.StreamStreamCall.register(_Stream)


class _Interceptor:  # of which gRPC wants one class for each kind: it asks an object for one kind only
    def __init__(self, pick: Callable[[Details], CircuitBreaker], failure_codes: frozenset[grpc.StatusCode]) -> None:
        self._pick = pick
        self._failure_codes = failure_codes

    async def _begin(self, continuation: Continuation, details: Details, request: Any) -> tuple[_Rpc, Call]:
        gate = self._pick(details)._gate
        rpc = _Rpc(gate, gate.admit() or await admit_slowly(gate), details, self._failure_codes)
        try:
            call = await continuation(details, request)
            rpc.follow(call)
        except BaseException as error:
            rpc.broke(error)
            raise
        return rpc, call


class _UnaryUnary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Details, request: Any) -> Any:
        return (await self._begin(continuation, client_call_details, request))[1]


class _UnaryStream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Details, request: Any) -> Any:
        return _Stream(*await self._begin(continuation, client_call_details, request))


class _StreamUnary(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Details, request_iterator: Any) -> Any:
        return (await self._begin(continuation, client_call_details, request_iterator))[1]


class _StreamStream(_Interceptor, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Details, request_iterator: Any) -> Any:
        return _Stream(*await self._begin(continuation, client_call_details, request_iterator))


# -- hints

_PUSHBACK, _DETAILS, _RETRY_AFTER = "grpc-retry-pushback-ms", "grpc-status-details-bin", "retry-after"


def _hint(trailing: Pairs | None, most: float) -> float | None:
    """For how many seconds a server asks to be left alone, at most `most`."""
    values: dict[str, Any] = dict(trailing or ())
    for name, read in ((_PUSHBACK, _pushback), (_DETAILS, _retry_info), (_RETRY_AFTER, _retry_after)):
        delay = read(values[name]) if name in values else None
        if delay is not None and delay > 0:
            return min(delay, most)
    return None


def _pushback(value: str) -> float | None:
    """Milliseconds; anything else means not to try again and says nothing of when. Source: gRFC A6, client retries."""
    return float(value) / 1000 if value.isdecimal() else None


def _retry_after(value: str) -> float | None:
    return hinted_delay(value, time.time())


def _retry_info(value: bytes) -> float | None:
    """The delay of the google.rpc.RetryInfo among the details of a google.rpc.Status, in protobuf's wire format."""
    try:
        for detail in _parts(value, 3):
            kind = b"".join(_parts(detail, 1))
            if kind.endswith(b"/google.rpc.RetryInfo"):
                return sum(map(_duration, _parts(b"".join(_parts(detail, 2)), 1)))
    except LookupError:  # it is something else
        pass
    return None


def _duration(message: bytes) -> float:
    """A google.protobuf.Duration, in seconds; a negative one is 0."""
    numbers = {number: value for number, value in _fields(message) if isinstance(value, int)}
    seconds, nanos = numbers.get(1, 0), numbers.get(2, 0)
    return 0.0 if max(seconds, nanos) >> 63 else seconds + nanos / 1e9


def _parts(message: bytes, wanted: int) -> list[bytes]:
    return [value for number, value in _fields(message) if number == wanted and isinstance(value, bytes)]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: their numbers, and their values if those are whole numbers or have a length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, value = tag & 7, cast("int | bytes", 0)
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        length, at = (_varint(message, at)) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if kind == 2:
            yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


# -- the server's side


class RefusalInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Answers RPCs that a guard has refused with UNAVAILABLE, and says when to come again: `server(interceptors=[...])`.

    A refusal is any `RefusedError` that leaves a handler: `CircuitOpenError`, and the shortages of limits that stand in front
    of its dependencies. All are UNAVAILABLE, the status that means "nothing is wrong with the request, try again later";
    RESOURCE_EXHAUSTED would speak of the caller's own quota. A refusal may come in an `ExceptionGroup`, nested too, if nothing
    else is in there. Everything else passes unchanged.

    The hint is trailing metadata, beside what the handler has set: `grpc-retry-pushback-ms` in milliseconds, and `retry-after`
    in seconds, both rounded up. Of several refusals the longest wait counts; if nobody knows it, there is no hint.

    In gRPC the answer is the status, which comes at the end: a stream that has already sent messages ends with UNAVAILABLE too.
    A handler that has answered, by `abort` or `set_code`, is left to its own status. Handlers that are not async (functions or
    generators) run in threads, where nobody awaits a breaker; they are left alone.
    """

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Put the handler of one RPC inside; None if there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = f"{_KINDS[bool(handler.request_streaming)]}_{_KINDS[bool(handler.response_streaming)]}"
        inside = _refusing(getattr(handler, kind))
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(inside, handler.request_deserializer, handler.response_serializer)


_KINDS = ("unary", "stream")


def _refusing(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(behaviour):

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await behaviour(request, context)
            except Exception as error:
                await _answer_refusal(context, error)
                raise

        return answer
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Any) -> AsyncGenerator[Any]:
            try:
                async for message in behaviour(request, context):
                    yield message
            except Exception as error:
                await _answer_refusal(context, error)
                raise

        return stream
    return behaviour


async def _answer_refusal(context: Any, error: Exception) -> None:
    """End the RPC, if the error is made of refusals, and the handler has not answered by itself."""
    refusals, others = apart(error)
    if others or context.code() not in {None, Code.OK}:
        return
    seconds = longest_hint(refusals) or 0.0
    trailing = (*(context.trailing_metadata() or ()), *_told(seconds))
    await context.abort(Code.UNAVAILABLE, "not served for now; try again later", trailing)


def _told(seconds: float) -> Pairs:
    if seconds <= 0:
        return ()
    return ((_PUSHBACK, str(ceil(seconds * 1000))), (_RETRY_AFTER, str(ceil(seconds))))
