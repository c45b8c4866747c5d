"""Threads, loops and processes share a registry: one breaker for each key, none lost, and nobody waits for ever."""

import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress

import anyio
import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, Event, State
from aiobreaker.locking import LOCK
from aiobreaker.registry import _WAITS

from .stage import LONG, Room, fine, in_loops, in_threads


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_ask_at_once_get_the_same_breaker() -> None:
    made: Counter[int] = Counter()
    got: dict[int, set[int]] = {key: set() for key in range(300)}

    def make(key: int) -> CircuitBreaker:
        made[key] += 1
        return CircuitBreaker(str(key))

    registry = BreakerRegistry(make)

    def ask() -> None:
        for key, mine in got.items():
            mine.add(id(registry[key]))

    in_threads(*[ask] * 4)
    assert made == dict.fromkeys(range(300), 1)
    assert {len(ids) for ids in got.values()} == {1}


def test_while_one_thread_makes_a_breaker_others_wait_and_other_keys_do_not() -> None:
    begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def make(key: str) -> CircuitBreaker:
        if key == "slow":
            begun.set()
            assert go_on.wait(LONG)
        made.append(key)
        return CircuitBreaker(key)

    registry = BreakerRegistry(make)
    got: list[CircuitBreaker] = []

    def ask() -> None:
        got.append(registry["slow"])

    def ask_for_another() -> None:
        assert begun.wait(LONG)
        assert registry["quick"].name == "quick"
        assert got == []
        go_on.set()

    in_threads(ask, ask, ask, ask_for_another)
    assert made == ["quick", "slow"]
    assert got == [registry["slow"]] * 3


def test_when_the_factory_raises_the_next_of_those_who_wait_tries_again() -> None:
    registry: BreakerRegistry[str]
    tries: list[int] = []
    asking = threading.Barrier(3)

    def make(key: str) -> CircuitBreaker:
        tries.append(threading.get_ident())
        if len(tries) == 1:
            asking.wait(LONG)
            raise OSError("no configuration")
        return CircuitBreaker(key)

    registry = BreakerRegistry(make)
    errors: list[OSError] = []

    def ask_first() -> None:
        try:
            registry["a"]
        except OSError as error:
            errors.append(error)

    def ask() -> None:
        asking.wait(LONG)
        assert registry["a"].name == "a"

    in_threads(ask_first, ask, ask)
    assert len(errors) == 1
    assert len(tries) == 2


@pytest.mark.parametrize("together", [True, False], ids=["one registry", "two registries"])
def test_factories_that_wait_for_each_other_are_told(together: bool) -> None:
    both = threading.Barrier(2)
    other = {"a": "b", "b": "a"}
    errors: list[str] = []

    def make(key: str) -> CircuitBreaker:
        if asked[key] == 0:
            asked[key] += 1
            both.wait(LONG)
            registries[other[key]][other[key]]
        return CircuitBreaker(key)

    asked: Counter[str] = Counter()
    one = BreakerRegistry(make)
    registries = {"a": one, "b": one if together else BreakerRegistry(make)}

    def ask(key: str) -> None:
        try:
            registries[key][key]
        except RuntimeError as error:
            errors.append(str(error))

    in_threads(lambda: ask("a"), lambda: ask("b"))
    assert len(errors) == 1
    assert errors[0] in [f"key '{key}' was asked for in the course of making the breaker for it" for key in "ab"]
    assert {registries[key][key].name for key in "ab"} == {"a", "b"}
    assert not _WAITS


def test_who_is_waited_for_no_longer_may_wait_in_turn() -> None:
    """One thread ends what another waits for, and asks for what that other makes before it has woken."""
    begun = threading.Event()

    def make(key: str) -> CircuitBreaker:
        if key == "first":
            begun.set()
            while not _WAITS:
                pass
        else:
            assert begun.wait(LONG)
            registry["first"]
        return CircuitBreaker(key)

    registry = BreakerRegistry(make)

    def ask_both() -> None:
        registry["first"]
        assert registry["second"].name == "second"

    in_threads(ask_both, lambda: registry["second"])
    assert sorted(registry) == ["first", "second"]


def test_what_cannot_be_waited_for_is_not() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make(key: str) -> CircuitBreaker:
        begun.set()
        assert go_on.wait(LONG)
        return CircuitBreaker(key)

    registry = BreakerRegistry(make)

    def ask_under_the_lock() -> None:
        assert begun.wait(LONG)
        with LOCK, pytest.raises(RuntimeError, match="'a' is being made, and cannot be waited for in a finaliser"):
            registry["a"]
        go_on.set()

    in_threads(lambda: registry["a"], ask_under_the_lock)
    assert list(registry) == ["a"]


@pytest.mark.usefixtures("hasty_threads")
def test_threads_with_many_keys_keep_the_bound_and_lose_nothing_that_is_open() -> None:
    registry: BreakerRegistry[int] = BreakerRegistry(lambda key: CircuitBreaker(str(key)), max_size=20)
    opened = range(10)
    for key in opened:
        registry[key].open()

    def ask(first: int) -> None:
        for key in range(first, first + 400):
            registry[key]
            registry[key % 15]

    in_threads(*[lambda first=first: ask(first) for first in (100, 600, 900, 1_000)])
    registry[5]
    assert len(registry) == 20
    assert len(set(registry)) == 20
    seen = registry.snapshot()
    assert [seen[key].state for key in opened] == [State.OPEN] * 10


@pytest.mark.usefixtures("hasty_threads")
def test_no_two_breakers_of_one_key_are_ever_alive() -> None:
    """Of each key only one trial at a time may run; a twin would let in another."""
    rooms = [Room() for _ in range(6)]

    def make(key: int) -> CircuitBreaker:
        breaker = CircuitBreaker(str(key), probe=rooms[key].visit)
        breaker.half_open()
        return breaker

    registry = BreakerRegistry(make, max_size=1)

    async def caller() -> None:
        for turn in range(600):
            breaker = registry[turn % 6]
            with suppress(CircuitOpenError):
                await breaker.call(fine)
            breaker.half_open()

    in_threads(*in_loops(*[caller] * 4))
    assert all(room.visits for room in rooms)
    assert {room.most for room in rooms} == {1}


@pytest.mark.usefixtures("hasty_threads")
def test_listeners_may_come_and_go_while_breakers_are_made() -> None:
    registry: BreakerRegistry[int] = BreakerRegistry(lambda key: CircuitBreaker(str(key)), max_size=50)
    faithful: list[Event] = []
    registry.subscribe(faithful.append)
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            registry.subscribe(lambda event: None, calls=True)()

    def make_and_open() -> None:
        for key in range(300):
            registry[key].force_open()
            registry[key].reset()
        over.set()

    in_threads(come_and_go, come_and_go, make_and_open)
    assert {breaker._gate.hub.wants_calls for breaker in map(registry.__getitem__, registry)} == {False}
    changes = [event for event in faithful if event.name]
    assert [event.name for event in changes] == [str(key) for key in range(300) for _ in range(2)]
    end = registry.subscribe(lambda event: None, calls=True)
    assert {registry[key]._gate.hub.wants_calls for key in registry} == {True}
    end()


def test_a_stream_reads_from_every_thread_and_loop() -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker)
    reading = threading.Barrier(3)

    async def read() -> None:
        async with registry.events() as events:
            reading.wait(LONG)
            with anyio.fail_after(LONG):
                seen = {(await anext(events)).name for _ in range(2)}
        assert seen == {"a", "b"}

    def give_orders() -> None:
        reading.wait(LONG)
        registry["a"].force_open()
        registry["b"].force_open()

    in_threads(give_orders, *in_loops(read, read))


FORKING = """
import os, signal, sys, threading, time
import anyio
from aiobreaker import BreakerRegistry, CircuitBreaker, State

begun, go_on = threading.Event(), threading.Event()
parent = os.getpid()
made = []

def make(key):
    if key == "slow" and os.getpid() == parent:
        begun.set()
        go_on.wait(10)
    elif key == "slow":
        time.sleep(0.01)  # for the other thread to ask meanwhile
    made.append(key)
    return CircuitBreaker(key)

registry = BreakerRegistry(make, max_size=2)
calling = threading.Event()

async def call():
    calling.set()
    await anyio.sleep_forever()

def use():
    anyio.run(registry["busy"].call, call)

threading.Thread(target=lambda: registry["slow"], daemon=True).start()
threading.Thread(target=use, daemon=True).start()
begun.wait(10), calling.wait(10)
registry["open"].open()
child = os.fork()
if not child:
    signal.alarm(5)
    try:
        threads = [threading.Thread(target=lambda: registry["slow"]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == ["busy", "open", "slow"], made
        registry["new"]
        assert list(registry) == ["open", "new"], list(registry)
        assert registry.snapshot()["open"].state is State.OPEN
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)
status = os.waitpid(child, 0)[1]
assert list(registry) == ["busy", "open"], list(registry)
go_on.set()
sys.exit(status != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_makes_what_its_parent_was_making_and_has_nothing_in_use() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]  # a fork beside threads is the point
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")
