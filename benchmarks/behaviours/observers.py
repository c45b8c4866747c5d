"""Behaviours towards observers, and towards those who only look."""

from inspect import isawaitable

from ..peers import Made, Peer
from .script import OPEN_FOR, Answer, Circuit, Section, cannot, fail, pause

SECTION = Section("Observers and readers")

NO_OBSERVERS = "it has no observers"


class ObserverError(Exception):
    """What an observer raises."""


@SECTION.behaviour("An observer of transitions raises: what does that to the call and the circuit")
async def raising_observer(peer: Peer) -> Answer:
    """The observer raises at every transition. Three calls fail, and the third opens the circuit."""
    if peer.observed is None:
        return cannot(NO_OBSERVERS)

    def observer(state: str) -> None:
        raise ObserverError(state)

    circuit = Circuit(peer, peer.observed(observer, 3, OPEN_FOR))
    attempts = [await circuit.attempt(fail) for _ in range(3)]
    opened = not await circuit.admits()
    harm = "" if opened else "it does not open"
    if any(isinstance(attempt.error, ObserverError) for attempt in attempts):
        harm = "; ".join(["the caller gets the observer's error", *filter(None, [harm])])
    return Answer(harm or "nothing")


@SECTION.behaviour("An observer reads the state and closes the circuit, from within")
async def ordering_observer(peer: Peer) -> Answer:
    """The observer of the transition to open reads the state and closes the circuit again. Is the next call admitted?"""
    if peer.observed is None:
        return cannot(NO_OBSERVERS)
    breakers: list[Made] = []

    def observer(state: str) -> object:
        (made,) = breakers
        if state != "open" or made.state is None or made.close is None:
            return None
        made.state()
        return made.close()

    made = peer.observed(observer, 3, OPEN_FOR)
    if made.close is None:
        return cannot("it cannot be closed by hand")
    breakers.append(made)
    circuit = Circuit(peer, made)
    for _ in range(3):
        await circuit.attempt(fail)
    return Answer("works" if await circuit.admits() else "it stays open")


@SECTION.behaviour("An observer is told that the circuit is half-open")
async def half_open_told(peer: Peer) -> Answer:
    """The first trial looks whether the observer has been told yet."""
    if peer.observed is None:
        return cannot(NO_OBSERVERS)
    told: list[str] = []
    in_time = False

    async def trial() -> None:
        nonlocal in_time
        in_time = "half_open" in told

    circuit = Circuit(peer, peer.observed(told.append, 3, OPEN_FOR))
    await circuit.open_and_wait()
    await circuit.attempt(trial)
    await pause()
    if in_time:
        return Answer("before the trial")
    return Answer("after the trial" if "half_open" in told else "never")


@SECTION.behaviour("Reading the state of an open circuit whose time is over makes a transition")
async def reading_the_state(peer: Peer) -> Answer:
    """The state is read, and it is seen whether the observer is told of a transition by that."""
    if peer.observed is None:
        return cannot(NO_OBSERVERS)
    told: list[str] = []
    made = peer.observed(told.append, 3, OPEN_FOR)
    circuit = Circuit(peer, made)
    await circuit.open_and_wait()
    if made.state is None:
        return cannot("its state cannot be read")
    before = len(told)
    seen = made.state()
    if isawaitable(seen):
        await seen
    await pause()
    after = len(told)
    await circuit.attempt()
    await pause()
    if "half_open" not in told:
        return cannot("its observers are never told of half-open")
    return Answer("no" if after == before else "yes")
