"""Plans of callers who share calls, what must come of them (by a slow and obvious model), and what comes of them."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from math import inf

import anyio
from hypothesis import strategies as st

TICK = 2.0**-12  # times are sums of these, so that they are exact, and no two of different origin are the same


class StopError(BaseException):
    """What is no Exception, and so nobody else's."""


@dataclass(frozen=True)
class Caller:
    """Who calls with a key, when, until when (of the plan), and what becomes of the call if it is made in its task."""

    number: int
    key: str
    start: float
    until: float
    takes: float
    ending: str  # "returns", "raises", "stops"


@dataclass(frozen=True)
class Order:
    """Forget a key, or all of them (None)."""

    at: float
    key: str | None


@dataclass(frozen=True)
class Plan:
    callers: list[Caller]
    orders: list[Order] = field(default_factory=list)


@st.composite
def plans(draw: st.DrawFn, orders: bool = False) -> Plan:
    callers = []
    for number in range(1, draw(st.integers(1, 8)) + 1):
        start = draw(st.integers(0, 9)) + number * TICK
        patience = draw(st.sampled_from([inf, inf, 0.0, 1.0, 3.0]))
        takes = draw(st.sampled_from([0.0, 1.0, 1.0, 3.0])) + 256 * number * TICK
        ending = draw(st.sampled_from(["returns", "returns", "returns", "raises", "raises", "stops"]))
        key = draw(st.sampled_from("aab" if not orders else "aaabc"))
        callers.append(Caller(number, key, start, int(start) + patience + (16 * number + 8) * TICK, takes, ending))
    given = [
        Order(draw(st.integers(0, 9)) + (160 + number) * TICK, draw(st.sampled_from(["a", "a", "b", None])))
        for number in range(1, draw(st.integers(0, 3)) + 1 if orders else 1)
    ]
    return Plan(callers, given)


Ends = dict[int, tuple[str, object, float]]
"""For each caller: how it ended, with what, and when."""


@dataclass
class Shared:
    """A call in the model: who waits for it, the leader first."""

    key: str
    crew: list[Caller]
    lands: float
    joinable: bool = True
    void: bool = False


class Model:
    """One thing after the other, at its time. There is one call for each key, and it is its leader's."""

    def __init__(self, plan: Plan) -> None:
        self.now = 0.0
        self.ends: Ends = {}
        self.made: list[int] = []
        self.replaced: list[int] = []
        self.shared = 0
        self.calls: list[Shared] = []
        self._todo: list[tuple[float, Callable[[], None]]] = []
        for caller in plan.callers:
            self._at(caller.start, partial(self.begin, caller))
            if caller.until < inf:
                self._at(caller.until, partial(self.cancel, caller))
        for order in plan.orders:
            self._at(order.at, partial(self.forget, order.key))

    def _at(self, time: float, what: Callable[[], None]) -> None:
        self._todo.append((time, what))

    def run(self) -> None:
        while self._todo:
            step = min(self._todo, key=lambda step: step[0])
            self._todo.remove(step)
            self.now = step[0]
            step[1]()

    def begin(self, caller: Caller) -> None:
        for call in self.calls:
            if call.key == caller.key and call.joinable:
                call.crew.append(caller)
                return
        call = Shared(caller.key, [caller], inf)
        self.calls.append(call)
        self.lead(call)

    def lead(self, call: Shared) -> None:
        leader = call.crew[0]
        self.made.append(leader.number)
        call.lands = self.now + leader.takes
        self._at(call.lands, lambda: self.land(call, leader))

    def land(self, call: Shared, leader: Caller) -> None:
        if call not in self.calls or call.crew[0] is not leader:
            return  # it was cancelled
        if leader.ending == "stops":
            self.leave(call, leader, "stopped")
            return
        self.calls.remove(call)
        self.shared += len(call.crew) - 1
        if leader.ending == "returns" and not call.void:
            self.keep(call.key, leader.number)
        for caller in call.crew:
            self.answer(caller, leader)

    def keep(self, key: str, result: int) -> None:
        """Nothing is kept."""

    def answer(self, caller: Caller, leader: Caller) -> None:
        self.ends[caller.number] = (leader.ending, leader.number, self.now)

    def cancel(self, caller: Caller) -> None:
        for call in self.calls:
            if caller in call.crew:
                self.leave(call, caller, "cancelled")
                return

    def leave(self, call: Shared, caller: Caller, how: str) -> None:
        led = call.crew[0] is caller
        call.crew.remove(caller)
        self.ends[caller.number] = (how, None, self.now)
        if not call.crew:
            self.calls.remove(call)
        elif led:
            self.replaced.append(len(call.crew))
            call.void = False  # what is called now is up to date
            call.joinable = call.joinable or not any(other.key == call.key and other.joinable for other in self.calls)
            self.lead(call)

    def forget(self, key: str | None) -> None:
        for call in self.calls:
            if key in (None, call.key):
                call.void, call.joinable = True, False


ME: ContextVar[Caller] = ContextVar("ME")


async def play(
    plan: Plan,
    call: Callable[[str], Awaitable[int]],
    forget: Callable[[str | None], object] = lambda key: None,
) -> Ends:
    """What really comes of the plan: `call` makes `work` shared."""
    ends: Ends = {}
    began = anyio.current_time()

    def now() -> float:
        return anyio.current_time() - began

    async def live(caller: Caller) -> None:
        ME.set(caller)
        await anyio.sleep(caller.start)
        how: tuple[str, object] = ("cancelled", None)
        with anyio.CancelScope(deadline=began + caller.until):
            try:
                how = ("returns", await call(caller.key))
            except OSError as error:
                how = ("raises", error.args[0])
            except StopError:
                how = ("stopped", None)
        ends[caller.number] = (*how, now())

    async def order(order: Order) -> None:
        await anyio.sleep(order.at)
        forget(order.key)

    async with anyio.create_task_group() as tasks:
        for caller in plan.callers:
            tasks.start_soon(live, caller)
        for given in plan.orders:
            tasks.start_soon(order, given)
    return ends


class Work:
    """The function that is called: what becomes of it is its leader's."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.running = 0

    async def __call__(self, key: str) -> int:
        leader = ME.get()
        assert leader.key == key
        self.made.append(leader.number)
        self.running += 1
        try:
            await anyio.sleep(leader.takes)
        finally:
            self.running -= 1
        if leader.ending == "raises":
            raise OSError(leader.number)
        if leader.ending == "stops":
            raise StopError
        return leader.number
