"""What the transports for httpx2 and httpx add to a request, beside those of interlock-cb.

`uv run --group peers python -m benchmarks.transports` prints a table. The wrapped transport answers at once, out of memory,
with a body of one chunk: no network hides the cost. "Adds" is the time of a request through the guard less that of the same
request through the bare transport, each sample standing among samples of the others. The exit code is 1 if a bar is grossly
missed.
"""

import argparse
import importlib
import random
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import anyio

from aiobreaker import BreakerRegistry, CircuitBreaker, FailureRate, LastCalls, SlowCallRate

from .harness import WARM_UP, Loop, Undisturbed, loop
from .rows import Row

BAR = 1 / 3
SAMPLE = 0.001  # seconds that one sample should take
LIBRARIES = ("httpx2", "httpx")

TRANSPORT = """
response = await transport.handle_async_request(next(requests))
async for _ in response.stream:
    pass
await response.stream.aclose()
"""
CLIENT = "await client.send(next(requests))"

_ALIKE = FailureRate(0.5, window=LastCalls(100), minimum_calls=100) | SlowCallRate(
    0.5, slower_than=60, window=LastCalls(100), minimum_calls=100
)
"""What interlock-cb counts by default."""

HEAD = f"{'':<52} {'bare us':>8} {'ours adds':>10} {'theirs adds':>12} {'ours over theirs':>17}  bar"


@dataclass(frozen=True)
class Trio:
    """The same requests, bare, through our guard, and through theirs (None if it is not there)."""

    name: str
    bare: Loop
    ours: Loop
    theirs: Loop | None
    bar: float | None = None


@dataclass(frozen=True)
class Added:
    """The medians of what is added to a bare request, in microseconds, of the bare one itself, and of ours over theirs."""

    bare: float
    ours: float
    theirs: float | None
    share: float | None


def trios(name: str) -> list[Trio]:
    """What is timed of one library."""
    library = importlib.import_module(name)
    guarded = importlib.import_module(f"aiobreaker.integrations.{name}").BreakerTransport
    theirs = _theirs(name)
    bare = _answering(library)

    def row(title: str, statement: str, ours: Any, bar: float | None = None, origins: int = 1) -> Trio:
        def timed(transport: Any) -> Loop:
            hosts = [library.Request("GET", f"https://{number}.example/") for number in range(origins)]
            return loop(statement, transport=transport, client=library.AsyncClient(transport=transport), requests=cycle(hosts))

        return Trio(f"{name}: {title}", timed(bare), timed(ours), None if theirs is None else timed(theirs(bare)), bar)

    alike = BreakerRegistry[Any](lambda key: CircuitBreaker(key, trip=_ALIKE))
    return [
        row("transport, default settings", TRANSPORT, guarded(bare), BAR),
        row("transport, the same conditions as theirs", TRANSPORT, guarded(bare, registry=alike), BAR),
        row("transport, two origins in turn", TRANSPORT, guarded(bare), origins=2),
        row("client, default settings", CLIENT, guarded(bare), BAR),
    ]


def _theirs(name: str) -> Callable[[Any], Any] | None:
    try:
        module: Any = importlib.import_module(f"interlock.integrations.{name}")
    except ImportError:
        return None
    made: Callable[[Any], Any] = module.AsyncCircuitBreakerTransport
    return made


def _answering(library: Any) -> Any:
    """A transport that answers with a body of one chunk."""

    class Body(library.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"ok"

    class Answering(library.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            return library.Response(200, stream=Body())

    return Answering()


async def measure(trios: list[Trio], rounds: int) -> dict[str, Added]:
    """Time every trio so many times, in a new order each time."""
    timed = [each for trio in trios for each in (trio.bare, trio.ours, trio.theirs) if each is not None]
    turns = {each: max(1, round(SAMPLE / (await _warmed(each) / WARM_UP))) for each in timed}
    found: dict[str, list[Added]] = {trio.name: [] for trio in trios}

    async def sample(each: Loop) -> float:
        return await each(turns[each]) / turns[each] * 1e6

    with Undisturbed() as undisturbed:
        for _ in range(rounds):
            for trio in random.sample(trios, len(trios)):
                before = await sample(trio.bare)
                ours = await sample(trio.ours)
                theirs = None if trio.theirs is None else await sample(trio.theirs)
                bare = (before + await sample(trio.bare)) / 2
                added = None if theirs is None else theirs - bare
                found[trio.name].append(Added(bare, ours - bare, added, None if added is None else (ours - bare) / added))
            undisturbed.collect()
    return {name: _median(samples) for name, samples in found.items()}


async def _warmed(each: Loop) -> float:
    await each(WARM_UP)
    return await each(WARM_UP)


def _median(samples: list[Added]) -> Added:
    def median(values: list[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return statistics.median(there) if there else None

    bare, ours = (statistics.median(values) for values in ([s.bare for s in samples], [s.ours for s in samples]))
    return Added(bare, ours, median([s.theirs for s in samples]), median([s.share for s in samples]))


def table(trios: list[Trio], found: dict[str, Added]) -> str:
    """A line for each trio."""
    lines = []
    for trio in trios:
        added = found[trio.name]
        theirs = "" if added.theirs is None else f"{added.theirs:.2f}"
        line = f"{trio.name:<52} {added.bare:>8.2f} {added.ours:>10.2f} {theirs:>12}"
        if added.share is not None:
            row = Row(trio.name, added.share, trio.bar)
            line += f" {added.share:>17.2f}  {row.limit if trio.bar else ''} {'MISSED' if row.missed else ''}".rstrip()
        lines.append(line)
    return "\n".join(lines)


def main() -> int:
    """Measure and print, under both backends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="samples of each case")
    rounds = parser.parse_args().rounds
    gross = False
    for backend in ("asyncio", "trio"):
        print(f"{backend}\n{HEAD}")
        for name in LIBRARIES:  # one after the other, as an app has one of them: CPython adapts to what it sees
            timed = trios(name)
            found = anyio.run(measure, timed, rounds, backend=backend)
            print(table(timed, found))
            gross = gross or any(each.bar and (found[each.name].share or 0) > 2 * each.bar for each in timed)
        print()
    return int(gross)


if __name__ == "__main__":
    sys.exit(main())
