"""What is timed of the other breakers: the same statements, as their users write them. Nothing here imports our own."""

from contextlib import suppress

from .harness import AWAITED, Case, Function, failing, fails, loop, noop, succeeding
from .peers import Peer

NEVER = 1_000_000_000  # calls before a breaker judges
HOUR = 3600.0

DECORATOR, PLAIN, CALL, BLOCK = "decorator", "plain decorator", "call", "block"
FAILING, REFUSAL = "failing call", "refusal"
WAYS = (DECORATOR, PLAIN, CALL, BLOCK, FAILING, REFUSAL)


def title(peer: str, way: str) -> str:
    """The name of a peer's case."""
    return f"{peer}: {way}"


async def peer_cases(peer: Peer) -> list[Case]:
    """The closed path by every way that the peer has, a failing call that does not open it, and a refusal."""
    made, plain = peer.full(10), peer.guard(noop, failures=5, open_for=30.0, trials=1)
    cases = [
        succeeding(title(peer.label, DECORATOR), loop(AWAITED, fn=made.decorate(noop))),
        succeeding(title(peer.label, PLAIN), loop(AWAITED, fn=plain)),
    ]
    for way, statement in ((CALL, made.call), (BLOCK, made.block)):
        if statement is not None:
            cases.append(succeeding(title(peer.label, way), loop(statement, breaker=made.breaker, fn=noop)))
    cases.append(failing(title(peer.label, FAILING), peer.full(NEVER).decorate(fails)))
    cases.append(failing(title(peer.label, REFUSAL), await _opened(peer)))
    return cases


async def _opened(peer: Peer) -> Function:
    """A function whose breaker refuses for an hour."""
    fn = peer.guard(fails, failures=1, open_for=HOUR, trials=1)
    tripping: tuple[type[BaseException], ...] = (ValueError, *peer.refusals)
    with suppress(*tripping):
        await fn()
    try:
        await fn()
    except peer.refusals:
        return fn
    raise AssertionError(f"{peer.label} did not refuse")
