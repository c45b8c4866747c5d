"""The page of promises cannot rot: every test that it names is there. And the promises that no other file proves."""

import ast
import asyncio
import re
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import cache
from math import inf
from pathlib import Path

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, State
from aiobreaker.testing import ManualClock

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "promises.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", PAGE)


@cache
def collected_from(path: str) -> set[str]:
    """The names that pytest collects from a file: functions, classes, and what is assigned to a name like a class."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.startswith(("test_", "Test"))}


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)), ids=str)
def test_what_is_named_exists(path: str, name: str) -> None:
    assert (ROOT / path).exists()
    assert not name or name in collected_from(path)


def test_every_promise_has_a_proof() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    promises = {promise: proofs for promise, proofs in rows if promise not in ("promise", "---")}
    assert len(promises) >= 30
    for promise, proofs in promises.items():
        assert re.fullmatch(r"(`tests/[\w/]+\.py(::\w+)?`(<br>)?)+", proofs), promise


# -- no hidden task or thread


def tasks_alive(backend: str) -> int:
    return len(asyncio.all_tasks()) if backend == "asyncio" else trio.lowlevel.current_statistics().tasks_living


async def test_no_task_and_no_thread_is_started(anyio_backend_name: str) -> None:
    """Whatever is done with a breaker: only the tasks that we start are there while it is done."""
    clock = ManualClock()
    before = tasks_alive(anyio_backend_name), threading.active_count()

    async def look(ours: int = 0) -> None:
        await checkpoint()
        assert (tasks_alive(anyio_backend_name) - ours, threading.active_count()) == before

    async def items() -> AsyncIterator[int]:
        await look()
        yield 1

    breaker = CircuitBreaker("alone", clock=clock)
    async with breaker.events(calls=True) as events:
        await breaker.call(look)
        await breaker(look)()
        assert [item async for item in breaker(items)()] == [1]
        async with breaker.stream(items(), first_item_timeout=5) as stream:
            assert [item async for item in stream] == [1]
        breaker.reconfigure(probe=look)
        breaker.open(1)
        clock.advance(1)
        await breaker.call(look)
        assert breaker.state is State.CLOSED
        async with breaker.isolated(drain=True):
            await look()
        async with anyio.create_task_group() as tasks:
            breaker.force_open()
            tasks.start_soon(patient, breaker)
            tasks.start_soon(breaker.wait_for, State.CLOSED)
            await anyio.wait_all_tasks_blocked()
            assert breaker.snapshot().waiting == 1
            await look(ours=2)
            breaker.reset()
        assert await anext(events)
    await look()


async def patient(breaker: CircuitBreaker) -> None:
    async with breaker.guard(max_wait=inf):
        await checkpoint()


ORDER: ContextVar[int] = ContextVar("ORDER")


async def test_a_guarded_function_runs_in_its_callers_task_and_context() -> None:
    breaker = CircuitBreaker("here")

    async def work() -> object:
        ORDER.set(ORDER.get() + 1)
        return anyio.get_current_task().id

    ORDER.set(0)
    here = anyio.get_current_task().id
    assert await breaker.call(work) == await breaker(work)() == here
    async with breaker.guard():
        assert await work() == here
    assert ORDER.get() == 3
