"""Behaviours with results that come when their time is over: of calls that began in an earlier life of the circuit."""

from ..peers import Peer
from .script import OPEN_FOR, Answer, Circuit, Section, under_way

SECTION = Section("Late results")


@SECTION.behaviour("A success that arrives while it is open")
async def late_success(peer: Peer) -> Answer:
    """One call is under way; three others fail and open the circuit; then the first one succeeds. Is the next call refused?"""
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    async with under_way() as calls:
        late = await calls.start_trial(circuit)
        await circuit.open()
        await late.succeed()
        return Answer("closes it" if await circuit.admits() else "is ignored")


@SECTION.behaviour("A failure from before the outage that arrives while a trial runs")
async def late_failure(peer: Peer) -> Answer:
    """One call is under way; three others fail and open the circuit; its time passes; one of two trials that are allowed is
    under way; then the old call fails. Is a second trial admitted?
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 2))
    async with under_way() as calls:
        late = await calls.start_trial(circuit)
        await circuit.open_and_wait()
        await calls.start_trial(circuit)
        await late.fail()
        second = await calls.start(circuit)
        return Answer("is ignored" if second.ran else "re-opens it")


@SECTION.behaviour("Failures from before the outage that arrive after the recovery")
async def late_failures(peer: Peer) -> Answer:
    """Three calls are under way; three others fail and open the circuit; its time passes, and a trial closes it; then the three
    old calls fail. Is the next call refused?
    """
    circuit = Circuit(peer, peer.plain(3, OPEN_FOR, 1))
    async with under_way() as calls:
        late = [await calls.start_trial(circuit) for _ in range(3)]
        await circuit.open_and_wait()
        if not await circuit.admits():
            raise AssertionError("no trial was admitted")
        for call in late:
            await call.fail()
        return Answer("are ignored" if await circuit.admits() else "open it again")
