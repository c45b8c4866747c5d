"""The line that callers wait in: first come, first served; who leaves it leaves no trace; nobody waits in vain."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker.lines import Line

HANGS = 1000  # seconds


class Shop:
    """Has so many places, and a line in front."""

    def __init__(self, places: int, max_waiters: int = 100) -> None:
        self.places = places
        self.line = Line(max_waiters)
        self.served: list[str] = []
        self.asked = 0

    def ask(self) -> float:
        self.asked += 1
        if not self.places:
            return inf
        self.places -= 1
        return 0.0

    def open_places(self, number: int) -> None:
        self.places += number
        self.line.move()

    async def visit(self, name: str, max_wait: float = inf) -> str | None:
        why = await self.line.wait(self.ask, max_wait)
        if why is None:
            self.served.append(name)
        return why


async def settle() -> None:
    for _ in range(10):
        await checkpoint()


async def test_first_come_first_served() -> None:
    shop = Shop(0)
    async with anyio.create_task_group() as tasks:
        for name in "abcdef":
            tasks.start_soon(shop.visit, name)
            await settle()
        assert shop.line.waiting == 6
        assert shop.asked == 1  # the head alone
        shop.open_places(1)
        await settle()
        assert shop.served == ["a"]
        shop.open_places(3)
        await settle()
        assert shop.served == ["a", "b", "c", "d"]
        assert shop.line.waiting == 2
        shop.open_places(2)
    assert shop.served == list("abcdef")
    assert (shop.line.waiting, shop.places) == (0, 0)


async def test_room_that_is_there_is_taken_at_once() -> None:
    shop = Shop(1)
    visit = shop.visit("a")
    with pytest.raises(StopIteration):
        visit.send(None)  # it did not wait at all
    assert (shop.line.waiting, shop.places) == (0, 0)


async def test_those_who_leave_are_passed_over() -> None:
    shop = Shop(0)
    scopes: dict[str, anyio.CancelScope] = {}

    async def visit(name: str) -> None:
        with anyio.CancelScope() as scopes[name]:
            await shop.visit(name)

    async with anyio.create_task_group() as tasks:
        for name in "abcde":
            tasks.start_soon(visit, name)
            await settle()
        scopes["a"].cancel()  # the head
        scopes["d"].cancel()  # one in the middle
        await settle()
        assert shop.line.waiting == 3
        shop.open_places(2)
        await settle()
        assert shop.served == ["b", "c"]
        scopes["e"].cancel()
    assert shop.line.waiting == 0
    assert shop.line._queues == {}


async def test_whoever_is_cancelled_when_called_leaves_the_room_to_the_next() -> None:
    shop = Shop(0)
    scope = anyio.CancelScope()

    async def first() -> None:
        with scope:
            await shop.visit("a")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await settle()
        tasks.start_soon(shop.visit, "b")
        await settle()
        shop.open_places(1)
        scope.cancel()
    assert shop.served == ["b"]
    assert (shop.line.waiting, shop.places) == (0, 0)


async def test_only_so_many_wait() -> None:
    shop = Shop(0, max_waiters=2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shop.visit, "a")
        await settle()
        tasks.start_soon(shop.visit, "b")
        await settle()
        assert await shop.visit("c") == "2 callers are waiting already"
        shop.open_places(1)
        await settle()
        tasks.start_soon(shop.visit, "d")
        await settle()
        shop.open_places(2)
    assert shop.served == ["a", "b", "d"]


@pytest.mark.parametrize(("max_waiters", "max_wait"), [(0, inf), (5, 0.0)])
async def test_nobody_may_wait(max_waiters: int, max_wait: float) -> None:
    shop = Shop(1, max_waiters)
    assert await shop.visit("a", max_wait) == "nobody may wait"
    assert shop.asked == 0


async def test_nobody_waits_for_longer_than_allowed() -> None:
    shop = Shop(0)
    began = anyio.current_time()
    assert await shop.visit("a", max_wait=2.5) == "there was no room within 2.5 s"
    assert anyio.current_time() - began == pytest.approx(2.5)
    assert (shop.line.waiting, shop.line._queues) == (0, {})


async def test_nobody_waits_in_vain() -> None:
    shop = Shop(0)
    began = anyio.current_time()
    assert await shop.line.wait(shop.ask, 2.0, expected=2.1) == "the wait would be 2.1 s, more than 2 s"
    with anyio.move_on_after(1.5):
        words = "the wait would be past the deadline, which is in 1.5 s"
        assert await shop.line.wait(shop.ask, 2.0, expected=1.6) == words
    assert anyio.current_time() == began
    assert shop.asked == 0


async def test_whoever_has_been_cancelled_already_is_cancelled_and_not_refused() -> None:
    shop = Shop(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await shop.visit("a")
    assert scope.cancelled_caught
    assert (shop.asked, shop.line.waiting) == (0, 0)


async def test_nobody_waits_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiobreaker.lines.remaining", lambda: 0.0)  # over, but the loop has not noticed
    shop = Shop(1)
    assert await shop.visit("a") == "the deadline is over"
    assert (shop.asked, shop.line.waiting) == (0, 0)


async def test_an_expected_wait_of_just_the_time_allowed_is_worth_it() -> None:
    shop = Shop(0)
    assert await shop.line.wait(shop.ask, 0.3, expected=0.1 + 0.2) == "there was no room within 0.3 s"


async def test_a_deadline_around_the_wait_ends_it() -> None:
    shop = Shop(0)
    with anyio.move_on_after(1) as scope:
        await shop.visit("a")
    assert scope.cancelled_caught
    assert (shop.line.waiting, shop.served) == (0, [])


async def test_room_that_comes_in_the_last_moment_is_taken() -> None:
    line = Line(10)
    until = anyio.current_time() + 2.0

    def ask() -> float:
        left = until - anyio.current_time()
        return left if left > 1e-9 else 0.0

    assert await line.wait(ask, 2.0, expected=2.0) is None


async def test_the_last_moment_is_the_heads() -> None:
    shop = Shop(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shop.visit, "a")
        await settle()

        async def impatient() -> None:
            assert await shop.visit("b", max_wait=1) == "there was no room within 1 s"
            shop.line.move()

        tasks.start_soon(impatient)
        await anyio.sleep(0.5)
        shop.places = 1  # without a word
        await anyio.sleep(1)
    assert shop.served == ["a"]


async def test_whoever_knows_when_there_is_room_is_asked_then() -> None:
    line = Line(10)
    answers = iter([1.5, 0.25, 0.0])
    asked_at: list[float] = []
    began = anyio.current_time()

    def ask() -> float:
        asked_at.append(anyio.current_time() - began)
        return next(answers)

    assert await line.wait(ask, inf) is None
    assert asked_at == pytest.approx([0.0, 1.5, 1.75])


@pytest.mark.parametrize("rest", [1e-300, 1e-18, 1e-12])
async def test_a_delay_that_no_clock_can_sleep_does_not_stop_the_loop(rest: float) -> None:
    await anyio.sleep(1e6)
    line = Line(10)
    began = anyio.current_time()

    def ask() -> float:
        return rest if anyio.current_time() == began else 0.0

    with anyio.fail_after(HANGS):
        assert await line.wait(ask, inf) is None
    assert 0 < anyio.current_time() - began < 1e-3


async def test_what_an_ask_raises_is_raised_and_the_next_one_is_asked() -> None:
    shop = Shop(0)

    def broken() -> float:
        if shop.places:
            raise ZeroDivisionError
        return inf

    async def first() -> None:
        with pytest.raises(ZeroDivisionError):
            await shop.line.wait(broken, inf)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await settle()
        tasks.start_soon(shop.visit, "b")
        await settle()
        shop.open_places(1)
    assert shop.served == ["b"]
    assert shop.line.waiting == 0


async def test_a_queue_that_was_late_is_waited_for_again_when_its_head_has_come() -> None:
    shop = Shop(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shop.visit, "a")
        await settle()
        (queue,) = shop.line._queues.values()
        queue.late = True
        shop.line.move()
        await settle()
        assert not queue.late
        shop.open_places(1)


Cancel = Callable[[], object]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("victim", ["head", "second", "only"])
async def test_cancelled_at_every_step_nothing_is_lost_and_nobody_is_left(
    victim: str, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("trio has scopes only")
    for cancel_at in range(24):
        shop = Shop(0)
        async with anyio.create_task_group() as tasks:
            if victim == "second":
                tasks.start_soon(shop.visit, "first")
                await settle()
            cancel = start(shop, tasks, native)
            if victim == "head":
                await checkpoint()
                tasks.start_soon(shop.visit, "last")
            for step in range(12):  # room comes at step 5; cancelled before or after what else happens in a step
                if cancel_at == 2 * step:
                    cancel()
                if step == 5:
                    shop.open_places(2)
                if cancel_at == 2 * step + 1:
                    cancel()
                await checkpoint()
        others = {"head": ["last"], "second": ["first"], "only": []}[victim]
        assert set(shop.served) in ({*others}, {*others, "victim"}), cancel_at
        assert shop.places == 2 - len(shop.served)
        assert (shop.line.waiting, shop.line._queues) == (0, {})
        if cancel_at == 0:
            assert "victim" not in shop.served
    assert "victim" in shop.served


def start(shop: Shop, tasks: anyio.abc.TaskGroup, native: bool) -> Cancel:
    scope = anyio.CancelScope()

    async def live() -> None:
        with scope:
            await shop.visit("victim")

    if not native:
        tasks.start_soon(live)
        return scope.cancel
    task = asyncio.create_task(live())

    async def watch() -> None:
        with suppress(asyncio.CancelledError):
            await task

    tasks.start_soon(watch)
    return task.cancel


@pytest.mark.parametrize("max_waiters", [-1, 1.5, True, "3"])
def test_the_number_of_waiters_is_checked(max_waiters: int) -> None:
    with pytest.raises((ValueError, TypeError), match="max_waiters must be a whole number, 0 or more"):
        Line(max_waiters)
