# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker", "aiosqlite>=0.21", "sqlalchemy[asyncio]>=2.0.44"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A database that is not there and then is: units of work and the pool's connecting, each behind a breaker of its own."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures


def unavailable(error: BaseException) -> bool:
    """Whether it says that the database cannot be reached, and not that it does not like the statement."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError)
    not_connected = error.statement is None and isinstance(error, InterfaceError | OperationalError)
    return error.connection_invalidated or not_connected


database = CircuitBreaker(
    "database", trip=ConsecutiveFailures(3), failure_on=unavailable, ignore=PoolTimeoutError, open_for=0.3
)
connecting = CircuitBreaker("connecting", trip=ConsecutiveFailures(2), open_for=0.3)


async def main() -> None:
    """Every tenth of a second a row; the folder of the database is there from the sixth on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop" / "pears.db"
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=2, max_overflow=0, pool_timeout=1)

        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(dialect: Any, record: object, args: Any, options: Any) -> Any:
            return await_only(connecting.call(greenlet_spawn, dialect.connect, *args, **options))

        for row in range(16):
            if row == 6:
                path.parent.mkdir()
            try:
                async with database.guard(), asyncio.timeout(2), engine.begin() as connection:
                    await connection.execute(text("CREATE TABLE IF NOT EXISTS pears (id INTEGER PRIMARY KEY)"))
                    await connection.execute(text("INSERT INTO pears VALUES (:id)"), {"id": min(row, 13)})
                print(f"row {row}: inserted")
            except CircuitOpenError as refusal:
                print(f"row {row}: {refusal}")
            except IntegrityError:
                print(f"row {row}: there is such a row already, says a database that is well")
            except OperationalError as error:
                print(f"row {row}: {error.orig}")
            await asyncio.sleep(0.1)
        await engine.dispose()
    print(database.explain())
    print(connecting.explain())


if __name__ == "__main__":
    asyncio.run(main())
