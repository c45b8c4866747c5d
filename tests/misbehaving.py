"""A dependency that misbehaves by a timetable, from the beginning again and again; within a phase by seeded chance.

Law: it counts each call once when it begins and once when it ends, however that is.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import anyio
from anyio.lowlevel import checkpoint

CLEANING_UP = 0.01  # seconds that some calls take when they are cancelled
NORMAL = 0.02  # seconds that a call takes on average when all is well


class OverloadedError(ConnectionError):
    """It turns calls down, and says for how long."""

    retry_after = 0.05


class MistakeError(Exception):
    """An error that says nothing about the dependency: nobody retries it, and nobody answers it."""


class Call:
    """One call, as its caller makes it. Calls that ask the same are equal, as arguments of a function are."""

    __slots__ = (
        "attempts",
        "began",
        "behind_cache",
        "end",
        "failed",
        "item",
        "key",
        "number",
        "racing",
        "tenant",
        "tries",
        "way",
        "winner",
    )

    def __init__(self, number: int, item: int, variant: int, way: str, began: int) -> None:
        self.number = number
        self.item = item
        self.key = (item, variant)
        self.tenant = item % 3
        self.way = way
        self.began = began  # a tick: they number what happens
        self.behind_cache = False  # whether its own task went further than the cache
        self.failed = False  # whether an error came out of the cache
        self.tries = 0  # of the retry
        self.attempts = 0  # of the hedge, in the newest try
        self.racing = 0  # how many of these run
        self.winner = 0  # which was the first to return
        self.end = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<call {self.number} for {self.key}>"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returns: to whom, and whether it is worth anything."""

    item: int
    maker: int
    spoilt: bool = False
    mirrored: bool = False


def is_spoilt(answer: Answer) -> bool:
    return answer.spoilt


class Misbehaving:
    """The dependency. `begun` and `ended` count its calls, `running` are those between."""

    def __init__(self, seed: int) -> None:
        self.begun = self.ended = self.running = 0
        self.stubborn = 0  # calls that raised something else when they were cancelled
        self._random = Random(seed)
        self._timetable: list[tuple[float, Callable[[Call], Awaitable[object]]]] = [
            (3.0, self._well),
            (1.5, self._slow),
            (1.5, self._failing),
            (0.8, self._refusing),
            (1.5, self._hanging),
            (2.0, self._flapping),
            (3.0, self._recovering),
        ]
        self._period = sum(seconds for seconds, _ in self._timetable)

    async def answer(self, call: Call) -> Answer:
        self.begun += 1
        self.running += 1
        try:
            await self._phase()(call)
        except anyio.get_cancelled_exc_class():
            await self._clean_up()
            raise
        finally:
            self.running -= 1
            self.ended += 1
        return Answer(call.item, call.number)

    def _phase(self) -> Callable[[Call], Awaitable[object]]:
        time = anyio.current_time() % self._period
        for seconds, phase in self._timetable:
            time -= seconds
            if time < 0:
                return phase
        return self._well

    async def _clean_up(self) -> None:
        """What a call does that is cancelled: mostly nothing, or it takes its time, or fails with something else."""
        chance = self._random.random()
        if chance < 0.05:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(CLEANING_UP)
        elif chance < 0.08:
            self.stubborn += 1
            raise ConnectionError("the connection broke when the call was cancelled")

    # -- the phases

    async def _take(self, seconds: float) -> None:
        if self._random.random() < 0.005:
            raise MistakeError("no such item")
        await anyio.sleep(self._random.expovariate(1 / seconds))

    async def _well(self, call: Call) -> None:
        chance = self._random.random()
        if chance < 0.1:
            return  # at once, without an await
        if chance < 0.2:
            await checkpoint()
        else:
            await self._take(NORMAL)

    async def _slow(self, call: Call) -> None:
        await anyio.sleep(0.1 + 0.01 * self.running)

    async def _failing(self, call: Call) -> None:
        if self._random.random() < 0.3:
            raise ConnectionError("down")
        await self._take(NORMAL)
        if self._random.random() < 0.7:
            raise ConnectionError("reset")

    async def _refusing(self, call: Call) -> None:
        if self._random.random() < 0.6:
            raise OverloadedError("too many calls")
        await self._well(call)

    async def _hanging(self, call: Call) -> None:
        if self._random.random() < 0.6:
            await anyio.sleep_forever()
        await self._well(call)

    async def _flapping(self, call: Call) -> None:
        await (self._failing if int(anyio.current_time() * 5) % 2 else self._well)(call)

    async def _recovering(self, call: Call) -> None:
        if self._random.random() < 0.15:
            raise ConnectionError("not yet")
        await self._take(2 * NORMAL)
