"""Event loops in which sleeping takes no time, for tests that start loops of their own: several in turn, or one per example."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import anyio
import trio
import trio.testing

from aiobreaker.testing import VirtualTimeLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BACKENDS = ["asyncio", "trio"]


def run(backend: str, main: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    if backend == "asyncio":
        return anyio.run(main, *args, backend_options={"loop_factory": VirtualTimeLoop})
    # not by `anyio.run`, which hands options on to trio only since 4.12
    return trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))
