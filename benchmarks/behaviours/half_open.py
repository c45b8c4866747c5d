"""Behaviours of a half-open circuit: how many trials, and what becomes of one that is cancelled, hangs, or comes late."""

from contextlib import suppress

import anyio

from ..peers import Peer
from .clock import later
from .script import OPEN_FOR, Answer, Circuit, Section, cannot, fail, pause, under_way

SECTION = Section("Half-open")

CALLERS = 10_000
PATIENCE = 3600  # seconds after which a hung trial is taken for one that is never released
NO_LIMIT = "it does not limit trials"


@SECTION.behaviour("How many of 10,000 callers reach the dependency when one trial is wanted; when three are")
async def stampede(peer: Peer) -> Answer:
    """An open circuit's time is over; 10,000 tasks call at once, and the dependency does not answer before all of them have
    come. Counted is how many calls it has got by then. In the second round three trials are wanted, and may run at once.
    """
    (one, waiting), (three, _) = await _crowd(peer, 1), await _crowd(peer, 3)
    note = "the others are not refused: they wait until the trial has ended, and then run if it has closed the circuit"
    return Answer(f"{one:,}; {three:,}", note if waiting else "")


async def _crowd(peer: Peer, trials: int) -> tuple[int, bool]:
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, trials))
    await circuit.open_and_wait()
    answered = anyio.Event()
    reached = ended = 0

    async def act() -> None:
        nonlocal reached
        reached += 1
        await answered.wait()

    async def caller() -> None:
        nonlocal ended
        with suppress(*peer.refusals):
            await circuit.guarded(act)
        ended += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(caller)
        await pause()
        seen, waiting = reached, reached + ended < CALLERS
        answered.set()
    return seen, waiting


@SECTION.behaviour("A trial is cancelled: what does that to the circuit")
async def cancelled_trial(peer: Peer) -> Answer:
    """The only trial is cancelled from outside while it runs. Then one call that fails, and one more: if the first was admitted
    and the second refused, the circuit was still half-open, and nothing has happened to it.
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    await circuit.open_and_wait()
    async with under_way() as calls:
        trial = await calls.start_trial(circuit)
        await trial.cancel()
        if not await circuit.admits(fail):
            later(OPEN_FOR)
            return Answer("re-opens it" if await circuit.admits() else "its slot is lost")
        return Answer("closes it" if await circuit.admits() else "nothing")


@SECTION.behaviour("A trial never ends: after how long do others get through")
async def hung_trial(peer: Peer) -> Answer:
    """The only trial hangs; every 10 seconds another call is made, of a dependency that would answer at once, for an hour. (A
    timeout inside the guard would end the trial.)
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    await circuit.open_and_wait()
    async with under_way() as calls:
        await calls.start_trial(circuit)
        for seconds in range(0, PATIENCE + 1, 10):
            call = await calls.start(circuit)
            if call.ran:
                return Answer(f"{seconds} s" if seconds else "at once", "" if peer.limits_trials else NO_LIMIT)
            if call.waits:
                return Answer("never", "they are not refused: they wait behind the trial for as long as it hangs")
            later(10)
    return Answer("never")


@SECTION.behaviour("A trial of an earlier round is cancelled late: how many trials run then, of two allowed")
async def late_cancellation(peer: Peer) -> Answer:
    """Of the two trials of a first round one hangs and the other fails, so that the circuit opens again. In the next round one
    trial runs; the old one is cancelled; five more calls are made. Counted is how many calls of the second round run at once.
    """
    if not peer.limits_trials:
        return cannot(NO_LIMIT)
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 2))
    await circuit.open_and_wait()
    async with under_way() as calls:
        old = await calls.start_trial(circuit)
        await (await calls.start_trial(circuit)).fail()
        if await circuit.admits():
            raise AssertionError("a failed trial has not re-opened it")
        later(OPEN_FOR)
        first = await calls.start(circuit)
        if not first.ran:
            return cannot("a round of trials does not end before all of its trials have ended")
        await old.cancel()
        others = [await calls.start(circuit) for _ in range(5)]
        return Answer(str(1 + sum(call.ran for call in others)))
