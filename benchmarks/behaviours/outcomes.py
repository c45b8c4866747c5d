"""Behaviours that turn on what the end of a call means: cancelled, cut off from outside, never ended, a group of errors."""

from collections.abc import Callable

from ..peers import Made, Peer
from .clock import later
from .script import OPEN_FOR, Answer, Circuit, Section, cannot, fail, succeed, under_way

SECTION = Section("What counts")

HANGING = 20  # calls


@SECTION.behaviour("A call cancelled from outside counts as")
async def cancelled_call(peer: Peer) -> Answer:
    """Three failures open it. Two calls fail, one is cancelled, one more fails: if it opens at the cancellation, that was a
    failure; if it opens at the last one, nothing; if it does not open, the cancellation was a success, and broke the row.
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    async with under_way() as calls:
        await circuit.attempt(fail)
        await circuit.attempt(fail)
        await (await calls.start_trial(circuit)).cancel()
        if not await circuit.admits(fail):
            return Answer("a failure")
        return Answer("a success" if await circuit.admits() else "nothing")


@SECTION.behaviour("The dependency hangs, and callers give up by a timeout around the guarded call: does it open")
async def outer_timeout(peer: Peer) -> Answer:
    """Twenty calls, one after the other, hang and are cancelled from outside after 10 seconds. A breaker that knows slow calls
    takes those of a second or longer for slow, and opens at a half of at least five. Is any of the calls refused? (A timeout
    inside the guard would be a failure to all of them.)
    """
    circuit = _counting_slow_calls(peer, peer.slow)
    async with under_way() as calls:
        for _ in range(HANGING):
            call = await calls.start(circuit)
            if not call.ran:
                return Answer("yes", _without_slow_calls(peer))
            later(10)
            await call.cancel()
    return Answer("no", _without_slow_calls(peer))


def _counting_slow_calls(peer: Peer, make: Callable[[float, int], Made] | None) -> Circuit:
    return Circuit(peer, peer.plain(5, OPEN_FOR, 1) if make is None else make(1.0, 5))


def _without_slow_calls(peer: Peer) -> str:
    return "" if peer.slow is not None else "it has no slow calls, and counts what it can"


@SECTION.behaviour("The dependency never answers, and nobody gives up: does it open")
async def never_answers(peer: Peer) -> Answer:
    """As before, but the twenty calls are under way at the same time and nothing ends them; after a minute three more calls are
    made. Is the last one refused? (A timeout inside the guard would end them.)
    """
    circuit = _counting_slow_calls(peer, peer.in_flight or peer.slow)
    async with under_way() as calls:
        for _ in range(HANGING):
            await calls.start_trial(circuit)
        later(60)
        admitted = [await circuit.admits() for _ in range(3)]
    return Answer("no" if admitted[-1] else "yes", _without_slow_calls(peer))


@SECTION.behaviour("Only `ConnectionError` is a failure: is an `ExceptionGroup` of them")
async def exception_group(peer: Peer) -> Answer:
    """As a task group raises it. Three failures open it; three calls raise a group of one `ConnectionError`. Is the next call
    refused?
    """
    if peer.only is None:
        return cannot("it cannot be given the types that are failures: only those that are not, or a function that decides")
    circuit = Circuit(peer, peer.only(ConnectionError, 3))

    async def act() -> None:
        raise ExceptionGroup("all went wrong", [ConnectionError()])

    for _ in range(3):
        await circuit.attempt(act)
    return Answer("no" if await circuit.admits(succeed) else "yes")


@SECTION.behaviour("A time window forgets what is older than it")
async def window_forgets(peer: Peer) -> Answer:
    """Half of at least four calls within 10 seconds must fail to open it. Three calls fail; 15 seconds later one more does. Is
    the next call refused?
    """
    if peer.recent is None:
        return cannot("it has no time window")
    circuit = Circuit(peer, peer.recent(10, 4))
    for _ in range(3):
        await circuit.attempt(fail)
    later(15)
    await circuit.attempt(fail)
    return Answer("yes" if await circuit.admits() else "no")
