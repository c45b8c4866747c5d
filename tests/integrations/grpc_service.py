"""A gRPC service on loopback that does what it is told, in the event loop of the test: a method of each kind, bytes in and out.

In front of it stands a relay with the port that clients know. It can be closed, and it can cut the connections there are.

All event loops of a process share one poller of grpc.aio, and what comes too late for a closed loop is raised in the next one.
So the tests of a module share a loop, which ends when nothing goes on in it any more: see `at_rest`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, Self

import anyio
import anyio.abc
import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

__all__ = ["KINDS", "PATIENCE", "GrpcService", "answer", "at_rest", "begin", "channel_to", "grpc_service"]

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
PATIENCE = 20.0
"""Seconds after which a test gives up. Nothing takes as long."""

Behaviour = Literal["ok", "error", "hang", "die", "raise"]


class GrpcService:
    """Serves `/shop.Payments/unary_unary` and so on, and `/shop.Stock/...` likewise. It answers with what was sent last."""

    def __init__(self) -> None:
        self.port = 0
        """Where clients find it."""
        self.seen: list[str] = []
        """The methods that were called."""
        self.ended: list[str] = []
        """The methods whose handler has ended, cancelled ones too."""
        self._port = 0
        self._relay: anyio.CancelScope | None = None
        self._connections: set[anyio.CancelScope] = set()
        self.behave("ok")

    def behave(
        self,
        kind: Behaviour,
        *,
        messages: int = 0,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        trailing: tuple[tuple[str, str | bytes], ...] = (),
        error: Callable[[], Exception] = ValueError,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        """From the next call on: stream so many messages back, where they are streamed; then do this.

        "error" ends with a status and its metadata, "hang" never answers, "die" cuts the connection, "raise" raises. `before`
        is called before the first message, `after` before the end.
        """
        self._kind, self._messages, self._code, self._trailing, self._error = kind, messages, code, trailing, error
        self._before, self._after = before, after

    # -- the handlers

    def handlers(self, service: str) -> grpc.GenericRpcHandler:
        """A generic handler, so that nothing has to be generated."""
        methods = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(self._handler(service, kind)) for kind in KINDS}
        return grpc.method_handlers_generic_handler(service, methods)

    def _handler(self, service: str, kind: str) -> Callable[..., Any]:
        name = f"{service}/{kind}"

        async def unary(request: Any, context: Any) -> bytes:
            self.seen.append(name)
            try:
                last = await _last(request)
                self._call(self._before)
                await self._act(context)
                return last
            finally:
                self.ended.append(name)

        async def stream(request: Any, context: Any) -> AsyncGenerator[bytes]:
            self.seen.append(name)
            try:
                last = await _last(request)
                self._call(self._before)
                for _ in range(self._messages):
                    yield last
                self._call(self._after)
                await self._act(context)
                yield last
            finally:
                self.ended.append(name)

        return unary if kind.endswith("unary") else stream

    @staticmethod
    def _call(function: Callable[[], object] | None) -> None:
        if function is not None:
            function()

    async def _act(self, context: Any) -> None:
        if self._kind == "error":
            await context.abort(self._code, "as it was told", self._trailing)
        elif self._kind == "hang":
            await anyio.sleep_forever()
        elif self._kind == "die":
            await anyio.sleep(0.05)  # what was sent before is on its way
            self.cut()
            await anyio.sleep_forever()
        elif self._kind == "raise":
            raise self._error()

    # -- the relay

    def cut(self) -> None:
        """Cut all connections, whatever is going on in them."""
        for connection in list(self._connections):
            connection.cancel()

    async def close_port(self) -> None:
        """Refuse connections from now on, and cut those that there are."""
        if self._relay is not None:
            self._relay.cancel()
        self.cut()
        await anyio.sleep(0)

    async def open_port(self, tasks: anyio.abc.TaskGroup) -> None:
        """Accept connections again, at the same port."""
        await tasks.start(self._listen)

    async def _listen(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            with anyio.CancelScope() as self._relay:
                task_status.started()
                await listener.serve(self._connect, tasks)

    async def _connect(self, client: anyio.abc.SocketStream) -> None:
        with anyio.CancelScope() as scope, suppress(OSError):  # it may have stopped by now
            self._connections.add(scope)
            async with client, await anyio.connect_tcp("127.0.0.1", self._port) as upstream, anyio.create_task_group() as tasks:
                tasks.start_soon(_pump, client, upstream, scope)
                tasks.start_soon(_pump, upstream, client, scope)
        self._connections.discard(scope)

    @asynccontextmanager
    async def serving(self, *interceptors: grpc.aio.ServerInterceptor, **more: Any) -> AsyncGenerator[Self]:
        """Serve for the length of a block."""
        server = grpc.aio.server(interceptors=interceptors, **more)
        server.add_generic_rpc_handlers(tuple(self.handlers(service) for service in ("shop.Payments", "shop.Stock")))
        self._port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with anyio.create_task_group() as tasks:
            try:
                await self.open_port(tasks)
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self.close_port()  # first, so that clients have nothing to complain about
                    await server.stop(None)


async def _pump(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream, scope: anyio.CancelScope) -> None:
    try:
        async for chunk in source:
            await sink.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    scope.cancel()


async def _last(request: Any) -> bytes:
    last: bytes = b""
    if isinstance(request, bytes):
        return request
    async for message in request:
        last = message
    return last


async def at_rest() -> None:
    """Wait until no other task is left but those of pytest's plugin, and what was cancelled has gone too."""
    with anyio.fail_after(PATIENCE):
        while any("grpc" in repr(task.get_coro()) for task in asyncio.all_tasks()):
            await anyio.sleep(0.01)
        await anyio.sleep(0.1)


# -- the client's side


@asynccontextmanager
async def channel_to(service: GrpcService, interceptors: Any = (), **options: int) -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to it, that is quick to connect again and shares no connection with others."""
    arguments = {
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 100,
        "grpc.use_local_subchannel_pool": 1,
        **options,
    }
    target = f"127.0.0.1:{service.port}"
    async with grpc.aio.insecure_channel(target, interceptors=interceptors, options=[*arguments.items()]) as channel:
        yield channel


@asynccontextmanager
async def grpc_service(interceptors: Any = (), **options: int) -> AsyncGenerator[tuple[GrpcService, grpc.aio.Channel]]:
    """The service, and a channel to it."""
    with anyio.fail_after(PATIENCE):
        async with GrpcService().serving() as service, channel_to(service, interceptors, **options) as channel:
            yield service, channel


def begin(channel: grpc.aio.Channel, kind: str, *, service: str = "shop.Payments", **how: Any) -> Any:
    """A call of this kind, with one message or with several."""
    make = getattr(channel, kind)(f"/{service}/{kind}")
    return make(_requests() if kind.startswith("stream") else b"pear", **how)


async def _requests() -> AsyncIterator[bytes]:
    yield b"plum"
    yield b"pear"


async def answer(call: Any) -> list[bytes]:
    """All that comes back, at the end of the call."""
    if isinstance(call, AsyncIterable):
        return [message async for message in call]
    return [await call]
