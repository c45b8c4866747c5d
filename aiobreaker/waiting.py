"""What is awaited around an admission: a place in line, the recovery probe, the end of old calls.

Law: first come, first served, and the circuit alone admits. Whatever must be awaited around a transition runs under the
breaker's anyio lock, one task at a time.
"""

from math import inf
from typing import TYPE_CHECKING

import anyio

from .core.eras import HalfOpen, Permit, Refusal, State
from .core.outcomes import Outcome
from .deadlines import remaining
from .errors import CircuitOpenError
from .gate import Gate, Refused
from .loops import BACKLOG

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004


async def admit_slowly(gate: Gate) -> Permit:
    """Run the recovery probes that are due, else give way to the event loop; then admit, or raise CircuitOpenError."""
    if not await _run_probes(gate):
        await anyio.lowlevel.checkpoint()
    return gate.admit_now()


async def admit_patiently(gate: Gate, max_wait: float) -> Permit:
    """Admit one call, after waiting in line for up to `max_wait` seconds if need be."""
    if not max_wait:
        return gate.admit() or await admit_slowly(gate)
    if not gate.waiting or _too_far(gate, max_wait):
        await _run_probes(gate)
        answer = gate.ask()
        if isinstance(answer, Permit):
            return answer
        if _too_far(gate, max_wait):
            raise await _turn_away(gate, answer)
    if gate.waiting >= gate.settings.max_waiters:
        raise await _refuse(gate, gate, f"{gate.waiting} callers are waiting already")
    gate.waiting += 1
    try:
        with anyio.move_on_after(max_wait):
            return await _stand_in_line(gate)
    finally:
        gate.waiting -= 1
    closed = next((each for each in (gate, *gate.above) if not each.circuit.would_admit(each.clock())), gate)
    raise await _refuse(gate, closed, f"no admission within {max_wait:g} s: {closed.circuit.era.reason}")


async def _refuse(gate: Gate, by: Gate, reason: str) -> CircuitOpenError:
    now = by.clock()
    return await _turn_away(gate, Refused(by, Refusal(by.circuit.era.state, reason, by.circuit.retry_after(now)), now))


async def _turn_away(gate: Gate, refused: Refused) -> CircuitOpenError:
    error = gate.turn_away(refused)
    if gate.must_give_way():
        await anyio.lowlevel.checkpoint()
    return error


def _too_far(gate: Gate, max_wait: float) -> bool:
    """Whether waiting must be in vain, because a circuit stays open for longer, or past the deadline of whoever waits."""
    for each in (gate, *gate.above):
        if each.circuit.era.state is State.OPEN:
            wait = each.circuit.next_change() - each.clock()
            if wait > max_wait or 0 < wait >= remaining():
                return True
    return False


async def _stand_in_line(gate: Gate) -> Permit:
    """Only the head of the line asks."""
    lobby = gate.lobby
    with lobby.line.borrow() as turnstile:
        async with turnstile:
            while True:
                with lobby.changed.heard() as changed:
                    await _run_probes(gate)
                    answer = gate.ask()
                    if isinstance(answer, Permit):
                        return answer
                    delay = answer.gate.circuit.next_change() - answer.at
                    with anyio.move_on_after(delay if delay > 0 else inf):
                        await changed.wait()


async def _run_probes(gate: Gate) -> bool:
    """Run the probes that are due, from above. False if there was none."""
    probed = None
    for _ in (gate, *gate.above):
        due = gate.due_probe()
        if due is None or due is probed:  # it has been tried
            break
        probed = due
        await _run_probe(due)
    return probed is not None


async def _run_probe(gate: Gate) -> None:
    """Ask the probe whether the dependency is back, as a trial with its lease."""
    with gate.lobby.errands.borrow() as errands:
        async with errands:
            permit = gate.ask() if gate.circuit.wants_trial(gate.clock()) else None
            if not isinstance(permit, Permit):
                return
            if not isinstance(permit.era, HalfOpen):  # closed in the meantime, from another thread
                gate.settle(permit, Outcome.IGNORED)
                return
            assert gate.settings.probe is not None
            try:
                with anyio.fail_after(permit.era.slots.lease):
                    back = await gate.settings.probe() is not False
            except Exception as error:
                gate.settle(permit, Outcome.FAILURE, error)
            except BaseException as error:
                gate.broke(permit, error)
                raise
            else:
                gate.settle(permit, Outcome.SUCCESS if back else Outcome.FAILURE, back)


async def drain(gate: Gate, hold: object) -> None:
    """Wait until the calls from before this hold have ended, or the hold itself."""
    lobby = gate.lobby
    with lobby.errands.borrow() as errands:
        async with errands:
            while True:
                with lobby.changed.heard() as changed:
                    BACKLOG.catch_up()
                    if not gate.circuit.stragglers or not gate.circuit.holds(hold):
                        return
                    await changed.wait()
