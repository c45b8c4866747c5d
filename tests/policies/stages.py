"""What stands around a call that is cancelled: the policy, what it calls, others who use it, and what may be left of it."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from aiobreaker.policy import Policy

CLOCK = anyio.current_time


class Work:
    """What is called: each call does what the script says, the last step again and again. It counts by itself."""

    def __init__(self, *script: str) -> None:
        self.answer = anyio.Event()
        self.begun: list[float] = []
        self.ended = self.returned = 0
        self._script = script

    async def run(self, key: str) -> str:
        step = self._script[min(len(self.begun), len(self._script) - 1)]
        self.begun.append(CLOCK())
        try:
            await self._do(step)
        finally:
            self.ended += 1
        self.returned += 1
        return key

    async def _do(self, step: str) -> None:
        if step == "returns":
            return
        await checkpoint()
        if step == "fails":
            raise OSError("down")
        if step == "hangs":
            await anyio.sleep_forever()
        try:
            await self.answer.wait()
        except anyio.get_cancelled_exc_class():
            if step == "cleans up":
                with anyio.CancelScope(shield=True):
                    await checkpoint()
                    await checkpoint()
            raise
        await checkpoint()


async def fine(key: str) -> str:
    return key


async def failing(key: str) -> str:
    raise OSError("down")


class Stage:
    """A policy before, during and after a call of the victim. `check` gets how that has ended."""

    script: tuple[str, ...] = ("answers",)
    least = 30  # half steps at which the victim is surely cancelled
    end = "returned"  # how the call ends if it is not
    tick = 0.5  # seconds that pass at every fourth step
    has_block = True
    started = False

    def __init__(self) -> None:
        self.work = Work(*self.script)
        self.others: list[str] = []
        self.expected_others = 0
        self.policy: Any = self.make()

    def make(self) -> Policy[Any]:
        raise NotImplementedError

    async def prepare(self, tasks: TaskGroup) -> None:
        """What happens before the victim comes."""

    def follow(self, tasks: TaskGroup) -> None:
        """Who comes after the victim."""

    def release(self) -> None:
        """Clear the victim's way."""

    # -- what the victim does

    async def by_call(self) -> None:
        assert await self.policy.call(self.work.run, "key") == "key"

    async def by_decorator(self) -> None:
        assert await self.policy(self.work.run)("key") == "key"

    async def by_block(self) -> None:
        async with self.policy.guard():
            await self.work.run("key")

    # -- what comes of it

    async def other(self, work: Callable[[str], Awaitable[str]], key: str = "key") -> None:
        self.others.append(await self.policy.call(work, key))

    async def check(self, end: str) -> None:
        """Nothing is left of the victim, and a following call works."""
        assert self.work.ended == len(self.work.begun)
        assert self.others == ["key"] * self.expected_others
        for seen in self.snapshots():
            assert [getattr(seen, name, 0) for name in ("running", "waiting", "in_flight")] == [0, 0, 0], seen
        await self.check_more(end)
        with anyio.fail_after(1):
            assert await self.policy.call(fine, "next") == "next"

    def snapshots(self) -> tuple[Any, ...]:
        return (self.policy.snapshot(),)

    async def check_more(self, end: str) -> None:
        """What is left of it in this policy: what has happened."""
