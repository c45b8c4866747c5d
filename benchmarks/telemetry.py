"""What OpenTelemetry costs a guarded call, with its SDK: the closed path with and without it, and what is opted in to.

`python -m benchmarks.telemetry` prints the tables of docs/telemetry-opentelemetry.md. The unit is one call through a
pass-through wrapper, and the best of three fresh processes counts, as everywhere in the benchmarks. Exit code 1: what should
cost nothing is grossly off its bar.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict

import anyio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from aiobreaker import BreakerRegistry, CircuitBreaker
from aiobreaker.telemetry.opentelemetry import instrument

from .cases import breaker, decorated, opened
from .harness import AWAITED, BARE, Case, failing, fails, loop, measure, noop, succeeding
from .processes import ROOT
from .rows import Row, best

LOOPS = ("asyncio", "trio")
PROCESSES = 3
ROUNDS = 60
BREAKERS = 100
WITHOUT, DEFAULT = "nothing", "`instrument(...)`"
OPTIONS: dict[str, dict[str, bool]] = {
    DEFAULT: {},
    "with `refusal_events=True`": {"refusal_events": True},
    "with `durations=True`": {"durations": True},
    "with both": {"refusal_events": True, "durations": True},
}
CLOSED, REFUSED, PAIR = "closed", "refused", "a call while closed, with `instrument(...)` over without"
COLLECTION = f"one collection of {BREAKERS} breakers"


def watched(provider: MeterProvider, guarding: CircuitBreaker, options: dict[str, bool]) -> CircuitBreaker:
    """The breaker, seen by OpenTelemetry until the process ends."""
    instrument(guarding, meter_provider=provider, **options)
    return guarding


def cases(provider: MeterProvider) -> list[Case]:
    """A call while closed, and a refusal while open, with nothing and with each of the options; and the pair with a bar."""
    made = [succeeding(f"{CLOSED}, {WITHOUT}", decorated()), failing(f"{REFUSED}, {WITHOUT}", opened()(fails))]
    for name, options in OPTIONS.items():
        closed = watched(provider, breaker(), options)(noop)
        made.append(succeeding(f"{CLOSED}, {name}", loop(AWAITED, fn=closed)))
        made.append(failing(f"{REFUSED}, {name}", watched(provider, opened(), options)(fails)))
    closed = watched(provider, breaker(), OPTIONS[DEFAULT])(noop)
    return [*made, Case(PAIR, loop(AWAITED, fn=closed), decorated(), BARE, 1.1)]


async def rows() -> list[Row]:
    """What one process finds. A span is current and records, as in a traced request."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    timed = cases(provider)
    reader.collect()
    with TracerProvider().get_tracer(__name__).start_as_current_span("request"):
        found = await measure(timed, ROUNDS)
    reader.collect()
    figures = [Row(case.name, found[case.name].total, case.bar) for case in timed]
    return [*figures, Row(COLLECTION, collection(), unit="ms")]


def collection() -> float:
    """Milliseconds of processor time for one collection by a reader, the best of some."""
    reader = InMemoryMetricReader()
    registry: BreakerRegistry[int] = BreakerRegistry(lambda number: CircuitBreaker(f"host {number}"))
    with instrument(*(registry[number] for number in range(BREAKERS)), meter_provider=MeterProvider(metric_readers=[reader])):
        taken = []
        for _ in range(20):
            began = time.thread_time()
            reader.collect()
            taken.append(time.thread_time() - began)
    return min(taken) * 1e3


def measured(backend: str) -> list[Row]:
    """The best of several processes."""
    command = [sys.executable, "-m", "benchmarks.telemetry", backend]
    runs = [subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    return best([Row(**row) for row in json.loads(run.stdout)] for run in runs)


def main() -> int:
    """Measure and print."""
    if sys.argv[1:]:
        print(json.dumps([asdict(row) for row in anyio.run(rows, backend=sys.argv[1])]))
        return 0
    found = {backend: {row.name: row for row in measured(backend)} for backend in LOOPS}
    columns = [f"{what}, {backend}" for what in (CLOSED, REFUSED) for backend in LOOPS]
    print(f"| | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for option in (WITHOUT, *OPTIONS):
        figures = [found[backend][f"{what}, {option}"] for what in (CLOSED, REFUSED) for backend in LOOPS]
        print(f"| {' | '.join([option, *(row.shown(row.value) for row in figures)])} |")
    print(f"\n| | {' | '.join(LOOPS)} | bar |\n|---|{'--:|' * len(LOOPS)}---|")
    for name in (PAIR, COLLECTION):
        figures = [found[backend][name] for backend in LOOPS]
        print(f"| {' | '.join([name, *(row.shown(row.value) for row in figures), figures[0].limit])} |")
    return int(any(row.gross for each in found.values() for row in each.values()))


if __name__ == "__main__":
    sys.exit(main())
