"""What every integration does with every kind of trouble: the cases, and the table in docs/integrations.md.

A row is an integration, a column a case that can fail. A cell is what a run has found, or else the reason why there is nothing
to be found. `python -m tests.integrations.matrix` runs them all and writes the table anew.
"""

import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio
import grpc.aio  # type: ignore[import-untyped]

from aiobreaker import CircuitBreaker, ConsecutiveFailures, LastCalls, SlowCallRate, State
from aiobreaker.testing import ManualClock
from tests.integrations.service import Service

PAGE = Path(__file__).parent.parent.parent / "docs" / "integrations.md"
BACKENDS = ("asyncio", "trio")
TROUBLES = ("refused", "5xx", "hang", "slow", "dies")
COLUMNS = {
    "refused": "connection refused",
    "5xx": "5xx",
    "hang": "hang",
    "slow": "slow",
    "dies": "dies mid-body",
    "refusal": "a refused call gets",
    "recovery": "recovery",
    "cancellation": "cancellation",
}
NO_TRIO = "runs on asyncio only"
OPEN_FOR = 30.0
IMPATIENT = 0.3
"""Seconds after which a client gives up waiting for an answer, where that is what the case is about."""
PATIENT = 20.0
"""Seconds after which a test gives up. Nothing takes as long."""

Call = Callable[[], Awaitable[object]]


class World(Protocol):
    """The dependency, and the way to it, as one test has it."""

    @property
    def seen(self) -> int:
        """How many requests have reached it."""
        ...

    async def trouble(self, kind: str) -> None:
        """From now on: one of the troubles."""
        ...

    async def heal(self) -> None:
        """From now on everything is well."""
        ...


Opened = tuple[World, Call]


@dataclass
class Bench:
    """What a client is made with."""

    service: Service
    breaker: CircuitBreaker
    clock: ManualClock
    answer_timeout: float = PATIENT
    """Seconds for which the client is to wait for an answer."""


@dataclass(frozen=True)
class Shape:
    """One of the ways to use an integration: it opens a client, and gives the world and a function that makes one guarded call.

    The call gives back a status or value, having read all of the answer, or raises.
    """

    open: Callable[[Bench], AbstractAsyncContextManager[Opened]]
    label: str = ""


@dataclass(frozen=True)
class Row:
    """An integration. `gaps` are the reasons for its empty cells, by column or by backend."""

    name: str
    link: str
    shapes: tuple[Shape, ...]
    gaps: Mapping[str, str] = field(default_factory=dict)
    worst: str = "5xx"
    """The trouble that opens it where recovery is what matters."""

    def gap(self, backend: str, column: str) -> str | None:
        """Why there is nothing to find here; None if there is."""
        return self.gaps.get(backend) or self.gaps.get(column)


# -- the cases


async def find(row: Row, column: str, service: Service) -> str:
    """Run one cell, and say what it has found; AssertionError if that is not what an integration must do."""
    with anyio.fail_after(PATIENT):
        if column in TROUBLES:
            return await _tripped(row, service, column)
        if column == "refusal":
            return "; ".join([await _refused(shape, service) for shape in row.shapes])
        if column == "recovery":
            return await _recovered(row, service)
        return await _cancelled(row, service)


async def _tripped(row: Row, service: Service, kind: str) -> str:
    """Two requests trip it, made by one call if that retries; the next call never gets there."""
    async with _opened(row.shapes[0], service, kind) as (bench, world, call):
        breaker, before = bench.breaker, world.seen
        began = breaker.snapshot().totals
        await world.trouble(kind)
        endings = {await ended(call)}
        if breaker.state is State.CLOSED:
            endings.add(await ended(call))
        assert breaker.state is State.OPEN
        expected = before if kind == "refused" else before + 2
        with anyio.move_on_after(1.0 if kind == "hang" else PATIENT):  # where one gives up, it may be before it is there
            await arrived(world, expected)
        assert world.seen == expected or (kind == "hang" and world.seen < expected)
        await world.heal()
        await _is_refused(bench, world, call)
        totals = breaker.snapshot().totals
        counted = totals.failures - began.failures, totals.successes - began.successes
        assert counted == ((0, 2) if kind == "slow" else (2, 0))
        assert breaker.snapshot().in_flight == 0
        [ending] = endings
        if kind == "slow":
            assert "Error" not in ending
            return "the answer"
        return ending


async def _refused(shape: Shape, service: Service) -> str:
    async with _opened(shape, service) as (bench, world, call):
        bench.breaker.open()
        ending = await _is_refused(bench, world, call)
        return f"{ending} ({shape.label})" if shape.label else ending


async def _recovered(row: Row, service: Service) -> str:
    """It stays open for its time, however well the dependency is; then one call decides, both ways."""
    async with _opened(row.shapes[0], service, row.worst) as (bench, world, call):
        breaker, clock = bench.breaker, bench.clock
        began = breaker.snapshot().transitions
        await world.trouble(row.worst)
        await ended(call)
        await ended(call)
        assert breaker.state is State.OPEN
        clock.advance(OPEN_FOR)
        await ended(call)
        moves = breaker.snapshot().transitions - began
        assert (breaker.state, moves) == (State.OPEN, 3), "a trial that fails opens it again"
        await world.heal()
        clock.advance(OPEN_FOR - 1)
        await _is_refused(bench, world, call)
        clock.advance(1)
        before = world.seen
        await call()
        assert (breaker.state, world.seen) == (State.CLOSED, before + 1)
        await call()
        return "closes"


async def _cancelled(row: Row, service: Service) -> str:
    """It is neutral, closed and half-open; there its permit is worth another call."""
    async with _opened(row.shapes[0], service) as (bench, world, call):
        breaker = bench.breaker
        await world.trouble("hang")
        await _cancel_one(world, call)
        snapshot = breaker.snapshot()
        assert (snapshot.state, snapshot.in_flight, snapshot.failures) == (State.CLOSED, 0, 0)
        assert snapshot.totals.cancelled + snapshot.totals.ignored == 1
        breaker.half_open()
        async with anyio.create_task_group() as tasks:
            before = world.seen
            tasks.start_soon(ended, call)
            await arrived(world, before + 1)
            assert breaker.snapshot().in_flight == 1
            await _is_refused(bench, world, call)
            tasks.cancel_scope.cancel()
        assert (breaker.state, breaker.snapshot().in_flight) == (State.HALF_OPEN, 0)
        await world.heal()
        await call()
        assert breaker.state is State.CLOSED
        return "neutral"


async def _cancel_one(world: World, call: Call) -> None:
    before = world.seen
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ended, call)
        await arrived(world, before + 1)
        tasks.cancel_scope.cancel()


async def _is_refused(bench: Bench, world: World, call: Call) -> str:
    """One call is refused once, and never gets there."""
    before, refused = world.seen, bench.breaker.snapshot().totals.refused
    ending = await ended(call)
    assert bench.breaker.snapshot().totals.refused == refused + 1
    assert world.seen == before
    return ending


@asynccontextmanager
async def _opened(shape: Shape, service: Service, kind: str = "") -> AsyncGenerator[tuple[Bench, World, Call]]:
    clock = ManualClock()
    slow = SlowCallRate(1.0, slower_than=1.0, window=LastCalls(2), minimum_calls=2)
    breaker = CircuitBreaker("service", trip=slow if kind == "slow" else ConsecutiveFailures(2), open_for=OPEN_FOR, clock=clock)
    bench = Bench(service, breaker, clock, IMPATIENT if kind == "hang" else PATIENT)
    async with shape.open(bench) as (world, call):
        yield bench, world, call


async def arrived(world: World, requests: int) -> None:
    """Wait until so many requests have reached the dependency."""
    while world.seen < requests:
        await anyio.sleep(0.001)


async def ended(call: Call) -> str:
    """How a call ends, in words."""
    try:
        return f"`{await call()}`"
    except Exception as error:
        return told(error)


def told(error: BaseException) -> str:
    """An exception by its type, with its status in gRPC; a group by what is in it."""
    if isinstance(error, BaseExceptionGroup):
        return f"`{type(error).__name__}` of {', '.join(map(told, leaves(error)))}"
    status = f" {error.code().name}" if isinstance(error, grpc.aio.AioRpcError) else ""
    return f"`{type(error).__name__}{status}`"


def leaves(error: BaseException) -> list[BaseException]:
    """What a group is made of in the end."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]


# -- the page

Cells = dict[tuple[str, str, str], str]
"""What was found, by row, backend and column."""

_BEGIN = "<!-- made by a test run: python -m tests.integrations.matrix -->\n"
_END = "<!-- end of the table -->\n"


def table(rows: tuple[Row, ...], cells: Cells) -> str:
    """The table, with a footnote for each reason."""
    reasons: list[str] = []
    lines = ["| integration | backend | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row in rows:
        for backend in BACKENDS:
            shown = [_shown(row, backend, column, cells, reasons) for column in COLUMNS]
            lines.append(f"| [{row.name}]({row.link}) | {backend} | " + " | ".join(shown) + " |")
    notes = [f"[^{number}]: {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes, ""])


def _shown(row: Row, backend: str, column: str, cells: Cells, reasons: list[str]) -> str:
    reason = row.gap(backend, column)
    if reason is None:
        return cells[row.name, backend, column]
    if reason not in reasons:
        reasons.append(reason)
    return f"[^{reasons.index(reason) + 1}]"


def documented() -> Cells:
    """What the page says, an empty cell by its footnote."""
    found: Cells = {}
    for line in PAGE.read_text().splitlines():
        if match := re.fullmatch(r"\| \[(.+?)\]\(.+?\) \| (\w+) \| (.*) \|", line):
            name, backend, rest = match.groups()
            found |= {(name, backend, column): cell for column, cell in zip(COLUMNS, rest.split(" | "), strict=True)}
    return found


def page(rows: tuple[Row, ...], cells: Cells) -> str:
    """The page as it stands, with this table in it."""
    before, rest = PAGE.read_text().split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n{table(rows, cells)}\n{_END}{after}"


def main() -> None:
    """Run every cell and write the page anew."""
    from tests.integrations.rows import ROWS

    cells: Cells = {}
    with Service() as service:
        for row in ROWS:
            for backend in BACKENDS:
                for column in COLUMNS:
                    if row.gap(backend, column) is None:
                        service.reset()
                        cells[row.name, backend, column] = anyio.run(find, row, column, service, backend=backend)
                        sys.stdout.write(f"{row.name} {backend} {column}: {cells[row.name, backend, column]}\n")
    PAGE.write_text(page(ROWS, cells))


if __name__ == "__main__":
    main()
