"""A service on loopback that does what it is told: an ASGI app under uvicorn, in a thread and an event loop of its own.

Its port is its own for as long as it lives: while the port is closed a socket that does not listen holds it, so that nobody
else can take it and whoever connects is refused.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextvars import Context
from typing import Any, Literal, TypeAlias, TypeVar

import uvicorn

__all__ = ["ASGI", "Kind", "Service", "bound"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGI: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Kind: TypeAlias = Literal["ok", "error", "hang", "slow", "die", "redirect", "app"]
T = TypeVar("T")

_PATIENCE = 20.0
"""Seconds after which the thread that asks believes the service to be stuck. Nothing takes as long."""


class Service:
    """The service. `with Service() as service:` answers when the block begins, and has left nothing behind when it has ended.

    All methods are for threads that run tests, in or outside of event loops: they block for as long as a loop takes to turn.
    """

    def __init__(self) -> None:
        self._port = bound(0)
        self.port: int = self._port.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """What has come in: the method, the path without the query, the headers with lower-case names."""
        self.bodies: list[bytes] = []
        """The bodies of those requests, as far as they have been read."""
        self._answer: ASGI = _ok(b"ok", 200, {})
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopback service", daemon=True)

    def __enter__(self) -> "Service":
        self._thread.start()
        if not self._ready.wait(_PATIENCE):
            raise RuntimeError("the service does not start")
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE)
        self._port.close()
        if self._thread.is_alive():
            raise RuntimeError("the service does not stop")

    def behave(self, kind: Kind, **how: Any) -> None:
        """From the next request on: what to do with requests.

        Args:
            kind: "ok" (body=, status=200, headers=, before= a function to call before it answers, in the service's thread: to
                set a clock, say), "error" (status=503, headers=, body=), "hang" never answers,
                "slow" (seconds=, and then as "ok"), "die" (body=, headers=: sends half of it, then the connection dies),
                "redirect" (to=, status=307), "app" (app=, any ASGI app).
            how: what belongs to the kind, as given above.
        """
        self._answer = _ANSWERS[kind](**how)

    def close_port(self) -> None:
        """Refuse connections from now on, and drop those that there are: a client's pool has nothing left to use."""
        self._ask(self._close())

    def open_port(self) -> None:
        """Accept connections again, on the same port."""
        self._ask(self._open())

    def drop(self) -> None:
        """Drop all connections, whatever they are doing. The port stays as it is."""
        self._ask(self._drop())

    def reset(self) -> None:
        """As new: the port is open, no connection is left, nothing has come in, and everything is answered with "ok"."""
        self.behave("ok")
        self._ask(self._drop())
        self._ask(self._open())
        self.requests.clear()
        self.bodies.clear()

    # -- in the thread of the service

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self._open()
        self._ready.set()
        await self._stop.wait()
        await self._close()

    async def _open(self) -> None:
        assert self._server is not None
        if not getattr(self._server, "servers", None):
            await self._server.startup(sockets=[bound(self.port)])

    async def _close(self) -> None:
        assert self._server is not None
        listening = self._server.servers
        self._server.servers = []
        for server in listening:
            server.close()
        await self._drop()
        for server in listening:
            await server.wait_closed()

    async def _drop(self) -> None:
        assert self._server is not None
        state = self._server.server_state
        while state.connections or state.tasks:
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        # in a context of its own: that of a test on trio would tell apps here that they run on trio
        return Context().run(asyncio.run_coroutine_threadsafe, work, self._loop).result(_PATIENCE)

    async def _app(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        place = len(self.bodies)
        self.bodies.append(b"")
        self.requests.append((scope["method"], scope["path"], headers))

        async def receive_and_note() -> Message:
            message = await receive()
            if place < len(self.bodies):  # else: a straggler from before a reset
                self.bodies[place] += message.get("body", b"")
            return message

        await self._answer(scope, receive_and_note, send)


def bound(port: int) -> socket.socket:
    """A socket that has the port and does not listen: others of this process and user may have it too."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", port))
    return held


# -- the ways to behave


def _ok(
    body: bytes | str = b"ok",
    status: int = 200,
    headers: dict[str, str] | None = None,
    before: Callable[[], object] | None = None,
) -> ASGI:
    content = body.encode() if isinstance(body, str) else body

    async def answer(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await _read(receive)
        if before is not None:
            before()
        await _start(send, status, {"content-length": str(len(content)), **(headers or {})})
        await send({"type": "http.response.body", "body": content})

    return answer


def _error(status: int = 503, headers: dict[str, str] | None = None, body: bytes | str = b"error") -> ASGI:
    return _ok(body, status, headers)


def _hang() -> ASGI:
    async def answer(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await _disconnected(receive)

    return answer


def _slow(seconds: float, body: bytes | str = b"ok", status: int = 200, headers: dict[str, str] | None = None) -> ASGI:
    then = _ok(body, status, headers)

    async def answer(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        content = await _read(receive)
        try:
            await asyncio.wait_for(_disconnected(receive), seconds)
        except TimeoutError:
            await then(scope, _given(content), send)

    return answer


def _die(body: bytes | str = b"x" * 64, headers: dict[str, str] | None = None) -> ASGI:
    content = body.encode() if isinstance(body, str) else body

    async def answer(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await _read(receive)
        await _start(send, 200, {"content-length": str(len(content)), **(headers or {})})
        await send({"type": "http.response.body", "body": content[: len(content) // 2], "more_body": True})
        # uvicorn closes the connection of an app that returns before it is done

    return answer


def _redirect(to: str, status: int = 307) -> ASGI:
    return _ok(b"", status, {"location": to})


def _as_app(app: ASGI) -> ASGI:
    return app


_ANSWERS: dict[str, Callable[..., ASGI]] = {
    "ok": _ok,
    "error": _error,
    "hang": _hang,
    "slow": _slow,
    "die": _die,
    "redirect": _redirect,
    "app": _as_app,
}


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    named = {"content-type": "text/plain", **headers}
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})


async def _read(receive: Receive) -> bytes:
    content = b""
    while True:
        message = await receive()
        content += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return content


def _given(content: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
