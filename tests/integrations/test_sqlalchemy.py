"""The SQLAlchemy recipes of the page on databases, against SQLite: a file that cannot be opened, locks, connections that go."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

import aiobreaker
from aiobreaker import CircuitBreaker, CircuitOpenError, State
from aiobreaker.testing import ManualClock
from tests.integrations.rows_of_databases import forget_connections

PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "databases.md"
URL = "sqlite+aiosqlite:///pears.db"

MANY_ROWS = text("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000000) SELECT sum(x) FROM n")


@pytest.fixture
def anyio_backend() -> str:
    """SQLAlchemy's asyncio is for asyncio alone."""
    return "asyncio"


def block(name: str) -> str:
    """The block on the page that makes the breaker of that name."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (recipe,) = [block for block in blocks if re.search(rf"^{name} = CircuitBreaker", block, re.MULTILINE)]
    assert URL in recipe
    return str(recipe)


class Recipe:
    """What a block on the page defines, with the breaker on our clock, and the database in a folder that is not there yet."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.path = folder / "pears.db"
        self.clock = ManualClock()
        names: dict[str, Any] = {}
        code = block(name).replace("\nasyncio.run(main())\n", "").replace(URL, f"sqlite+aiosqlite:///{self.path}")
        with monkeypatch.context() as patch:
            patch.setattr(aiobreaker, "CircuitBreaker", partial(CircuitBreaker, clock=self.clock))
            patch.setattr("sqlalchemy.ext.asyncio.create_async_engine", small_engine)
            exec(compile(code, "recipe", "exec"), names)
        self.breaker: CircuitBreaker = names[name]
        self.engine: AsyncEngine = names["engine"]

    def counts(self) -> tuple[int, int, int, int]:
        """Successes, failures, what was ignored, and what was refused. Nothing is in flight, nor out of the pool."""
        seen = self.breaker.snapshot()
        assert seen.in_flight == 0
        assert "Current Checked out connections: 0" in self.engine.pool.status()
        return seen.totals.successes, seen.totals.failures, seen.totals.ignored, seen.totals.refused


def small_engine(url: str, **options: Any) -> AsyncEngine:
    """The recipe's engine, with one connection that is not waited for long."""
    return create_async_engine(url, **{**options, "pool_size": 1, "pool_timeout": 0.1}, connect_args={"timeout": 0.1})


@pytest.fixture
async def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Recipe]:
    """Units of work are guarded."""
    recipe = Recipe("database", tmp_path / "there", monkeypatch)
    yield recipe
    await recipe.engine.dispose()
    forget_connections()


@pytest.fixture
async def connecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Recipe]:
    """Connecting is guarded."""
    recipe = Recipe("connecting", tmp_path / "there", monkeypatch)
    yield recipe
    await recipe.engine.dispose()
    forget_connections()


# -- units of work


async def guarded(recipe: Recipe, unit: Callable[[AsyncConnection], Awaitable[object]]) -> object:
    with anyio.fail_after(20):
        async with recipe.breaker.guard(), recipe.engine.begin() as connection:
            return await unit(connection)


async def select(connection: AsyncConnection) -> object:
    return (await connection.execute(text("SELECT 2"))).scalar_one()


async def test_a_database_that_is_not_there_opens_the_circuit_and_one_that_is_closes_it(work: Recipe) -> None:
    for _ in range(5):
        with pytest.raises(OperationalError, match="unable to open"):
            await guarded(work, select)
    assert work.breaker.state is State.OPEN
    work.folder.mkdir()
    with pytest.raises(CircuitOpenError):
        await guarded(work, select)
    assert not work.path.exists()  # nobody tried to connect
    work.clock.advance(10)
    assert await guarded(work, select) == 2
    assert work.path.exists()
    assert work.breaker.state is State.CLOSED
    assert work.counts() == (1, 5, 0, 1)


async def test_a_connection_that_is_lost_is_a_failure(work: Recipe) -> None:
    work.folder.mkdir()

    async def lose(connection: AsyncConnection) -> None:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.close()
        await select(connection)

    with pytest.raises(OperationalError) as caught:
        await guarded(work, lose)
    assert caught.value.connection_invalidated
    assert await guarded(work, select) == 2
    assert work.counts() == (1, 1, 0, 0)


async def test_a_timeout_inside_of_the_guard_is_a_failure(work: Recipe) -> None:
    work.folder.mkdir()
    with pytest.raises(TimeoutError), anyio.fail_after(20):
        async with work.breaker.guard(), asyncio.timeout(0.05), work.engine.begin() as connection:
            await connection.execute(MANY_ROWS)
    assert work.counts() == (0, 1, 0, 0)
    assert await guarded(work, select) == 2


async def cancelled(unit: Coroutine[Any, Any, object], *, after: float) -> None:
    task = asyncio.create_task(unit)
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_unit_of_work_is_neutral_and_leaves_nothing_behind(work: Recipe) -> None:
    work.folder.mkdir()
    await cancelled(guarded(work, lambda connection: connection.execute(MANY_ROWS)), after=0.05)
    assert work.counts() == (0, 0, 0, 0)
    assert work.breaker.snapshot().totals.cancelled == 1
    assert await guarded(work, select) == 2
    assert len(asyncio.all_tasks()) <= 2  # the test, and anyio's runner of it


async def test_so_is_one_that_is_cancelled_while_it_connects(work: Recipe) -> None:
    work.folder.mkdir()
    await cancelled(guarded(work, select), after=0)
    assert work.counts() == (0, 0, 0, 0)
    assert work.breaker.snapshot().totals.cancelled == 1
    assert await guarded(work, select) == 2


async def test_other_errors_of_the_database_are_successes(work: Recipe) -> None:
    work.folder.mkdir()

    async def fill(connection: AsyncConnection) -> None:
        await connection.execute(text("CREATE TABLE pears (id INTEGER PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO pears VALUES (1)"))

    await guarded(work, fill)
    for _ in range(6):
        with pytest.raises(IntegrityError):
            await guarded(work, lambda connection: connection.execute(text("INSERT INTO pears VALUES (1)")))
        with pytest.raises(OperationalError, match="no such table"):
            await guarded(work, lambda connection: connection.execute(text("SELECT * FROM plums")))
    assert work.counts() == (13, 0, 0, 0)


async def test_a_lock_is_a_success_until_the_rule_says_otherwise(work: Recipe) -> None:
    work.folder.mkdir()
    other = sqlite3.connect(work.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OperationalError, match="locked"):
        await guarded(work, lambda connection: connection.execute(text("CREATE TABLE pears (id INTEGER)")))
    other.close()
    assert work.counts() == (1, 0, 0, 0)


async def test_a_pool_that_is_used_up_is_a_shortage_of_our_own(work: Recipe) -> None:
    work.folder.mkdir()
    async with work.engine.connect() as connection:
        await select(connection)
        for _ in range(6):
            with pytest.raises(PoolTimeoutError):
                await guarded(work, select)
    assert work.counts() == (0, 0, 6, 0)
    assert work.breaker.state is State.CLOSED


async def test_a_session_is_a_unit_of_work_too(work: Recipe) -> None:
    work.folder.mkdir()
    work.breaker.open()
    with pytest.raises(CircuitOpenError):
        async with work.breaker.guard(), AsyncSession(work.engine) as session:
            await session.execute(text("SELECT 2"))
    work.clock.advance(10)
    async with work.breaker.guard(), AsyncSession(work.engine) as session, session.begin():
        assert (await session.execute(text("SELECT 2"))).scalar_one() == 2
    assert work.counts() == (1, 0, 0, 1)


# -- connecting


async def connected(recipe: Recipe) -> object:
    with anyio.fail_after(20):
        async with recipe.engine.begin() as connection:
            return await select(connection)


async def test_connecting_that_fails_opens_the_circuit_and_connecting_that_succeeds_closes_it(connecting: Recipe) -> None:
    for _ in range(5):
        with pytest.raises(OperationalError, match="unable to open"):
            await connected(connecting)
    assert connecting.breaker.state is State.OPEN
    connecting.folder.mkdir()
    with pytest.raises(CircuitOpenError) as caught:
        await connected(connecting)
    assert caught.value.retry_after == 10
    assert not connecting.path.exists()
    connecting.clock.advance(10)
    assert await connected(connecting) == 2
    assert connecting.breaker.state is State.CLOSED
    assert connecting.counts() == (1, 5, 0, 1)


async def test_connections_that_are_there_are_handed_out_while_it_is_open(connecting: Recipe) -> None:
    connecting.folder.mkdir()
    await connected(connecting)
    connecting.breaker.force_open()
    assert await connected(connecting) == 2
    assert connecting.counts() == (1, 0, 0, 0)


async def test_what_happens_on_a_connection_is_not_seen(connecting: Recipe) -> None:
    connecting.folder.mkdir()
    async with connecting.engine.connect() as connection:
        with pytest.raises(OperationalError, match="no such table"):
            await connection.execute(text("SELECT * FROM plums"))
    assert connecting.counts() == (1, 0, 0, 0)


async def test_connecting_that_is_cancelled_is_neutral(connecting: Recipe) -> None:
    connecting.folder.mkdir()
    await cancelled(connected(connecting), after=0)
    assert connecting.counts() == (0, 0, 0, 0)
    assert connecting.breaker.snapshot().totals.cancelled == 1
    assert await connected(connecting) == 2


# -- the page


@pytest.mark.parametrize("name", ["database", "connecting"])
def test_the_blocks_on_the_page_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pears.db"
    exec(compile(block(name).replace(URL, f"sqlite+aiosqlite:///{path}"), "recipe", "exec"), {})
    assert path.exists()
