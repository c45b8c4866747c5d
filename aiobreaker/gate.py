"""Where every guarded call of one breaker comes in and goes out. What is awaited is in `waiting.py`.

Law: between an admission and the first line of the guarded code there is no await.
"""

from collections.abc import Callable
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from .core.eras import HalfOpen, Permit, Refusal, Stopped
from .core.outcomes import Outcome
from .errors import CircuitOpenError, told
from .ledger import Ledger
from .ledger import Pass as Pass
from .locking import LOCK
from .loops import BACKLOG
from .settings import Settings

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

_YIELD_EVERY = 64  # refusals in a row; a power of two
_YIELD_MASK = _YIELD_EVERY - 1
_MOST_TYPES = 64  # of exceptions that are known to be plain failures


class Gate(Ledger):
    """Where every guarded call of one breaker comes in and goes out."""

    __slots__ = ("_in_a_row",)

    def __init__(self, name: str, settings: Settings, clock: Callable[[], float], draw: Callable[[], float]) -> None:
        super().__init__(name, settings, clock, draw)
        self._in_a_row = 0

    # -- in

    def refusal(self, era: Stopped | HalfOpen, now: float) -> CircuitOpenError | None:
        """The answer while no call passes, and nobody watches. None: the caller must give way first, see `refusal_slowly`."""
        refused = era.refused + 1
        if not refused & _YIELD_MASK or era is not self.circuit.era:
            return None
        era.refused = refused
        retry_after = None if era.until == inf else era.until - now
        return CircuitOpenError(self.name, era.state, era.why, retry_after, self.last_failure)

    async def refusal_slowly(self, era: Stopped | HalfOpen, now: float) -> CircuitOpenError:
        """The same answer, after giving way to the event loop."""
        with LOCK:
            self.circuit.era.refused += 1
        retry_after = None if era.until == inf else era.until - now
        error = CircuitOpenError(self.name, era.state, era.why, retry_after, self.last_failure)
        await anyio.lowlevel.checkpoint()
        return error

    def admit(self) -> Permit | None:
        """Admit one call now, or raise CircuitOpenError. None: something must be awaited first, see `waiting.admit_slowly`."""
        return None if self.must_give_way() or self.due_probe() is not None else self.admit_now()

    def admit_now(self) -> Permit:
        """Admit one call now, or raise CircuitOpenError."""
        answer = self.ask()
        if isinstance(answer, Permit):
            return answer
        raise self.turn_away(answer)

    def turn_away(self, refused: "Refused") -> CircuitOpenError:
        """Count a refusal, and those in a row. The answer is to be raised."""
        self._in_a_row += 1
        return refused.gate.refuse(refused.refusal, refused.at)

    def must_give_way(self) -> bool:
        """Whether so many have been refused in a row that the next one must give way to the event loop. Said once."""
        if self._in_a_row < _YIELD_EVERY - 1:
            return False
        self._in_a_row = 0
        return True

    def due_probe(self) -> "Gate | None":
        """Whose recovery probe must be run before anybody is admitted: the furthest above first, if nobody refuses anyway."""
        due = None
        family: tuple[Gate, ...] = (self, *self.above)
        for gate in family:
            if gate.settings.probe is not None and gate.circuit.wants_trial(gate.clock()):
                due = gate
            elif self.above and not gate.circuit.would_admit(gate.clock()):
                return None
        return due

    def ask(self) -> "Permit | Refused":
        """The circuit's own answer, and that of those above it: all of them admit a call, or none."""
        BACKLOG.catch_up()
        family: tuple[Gate, ...] = (self, *self.above)
        times: list[tuple[Gate, float]] = [(gate, gate.clock()) for gate in family]
        with LOCK:
            answer = _ask(times)
            changed = [gate for gate in family if gate._note_log()]
        try:
            for gate in changed:
                gate._tell()
        except BaseException:  # an observer was interrupted
            if isinstance(answer, Permit):
                self.settle(answer, Outcome.IGNORED)
            raise
        return answer

    # -- out

    def succeeded(self, permit: Pass, began: float | None = None) -> None:
        """A call has ended well, and its guard could not count it by itself. `began` is for calls that share the era."""
        self.settle(permit, Outcome.SUCCESS, began=began)

    def returned(self, permit: Pass, result: object, began: float | None = None) -> None:
        """A call has returned a result that must be judged. What the user's rule raises goes to the caller."""
        try:
            failed, hint = self.verdict(result)
        except BaseException:
            self.settle(permit, Outcome.IGNORED, began=began)
            raise
        if not failed and hint is None and began is not None:
            clock = self.clock
            now = clock()
            era: Any = permit  # a permit of its own is past all thresholds
            if now - began < era.slow_after and now < era.roll_at and (n := era.n + 1) < era.horizon:
                era.n = n
                return
        self.settle(permit, Outcome.FAILURE if failed else Outcome.SUCCESS, result, hint, began)

    def verdict(self, result: object) -> tuple[bool, float | None]:
        """What the rules say of a result: whether it is a failure, and the server's hint."""
        settings = self.settings
        return settings.judge.fails(result), None if settings.retry_after is None else settings.hint(result)

    def broke(self, permit: Pass, error: BaseException, began: float | None = None) -> None:
        """A call has raised. What the user's rule raises in its turn goes to the caller, with the error as its context."""
        if isinstance(error, GeneratorExit):
            self.abandon(permit)
            return
        if type(error) in self.plain_failures:
            clock = self.clock
            now, words = clock(), self._words(permit, error, began)
            elapsed = 0.0 if began is None else now - began
            era: Any = permit  # a permit of its own has nothing to spare
            number, spare = era.n + 1, era.spare - 1
            if spare > 0 and number < era.horizon and now < era.roll_at:
                era.n = number
                era.spare = spare
                era.noted[number] = elapsed
                self._newest = (type(error), words, now)
                return
        try:
            outcome = self.settings.judge.error(error, () if isinstance(error, Exception) else _cancellation())
            hint = None
            if self.settings.retry_after is not None and isinstance(error, Exception):
                hint = self.settings.hint(error)
        except BaseException:
            self.settle(permit, Outcome.IGNORED, began=began)
            raise
        self._learn(error)
        self.settle(permit, outcome, error, hint, began)

    def _words(self, permit: Pass, error: BaseException, began: float | None) -> str:
        try:
            return told(error)
        except BaseException:  # interrupted
            self.settle(permit, Outcome.IGNORED, began=began)
            raise

    def _learn(self, error: BaseException) -> None:
        """Remember a type of which every instance is a plain failure, if nobody watches calls."""
        if not self._brisk or len(self.plain_failures) >= _MOST_TYPES:
            return
        judge = self.settings.judge
        if judge.is_plain_failure(error):
            with LOCK:
                if judge is self.settings.judge:
                    self.plain_failures |= {type(error)}


class Refused(NamedTuple):
    """A refusal: by which gate, and when on its clock."""

    gate: Gate
    refusal: Refusal
    at: float


def _ask(family: list[tuple[Gate, float]]) -> Permit | Refused:
    """Admit a call everywhere, from the nearest gate to the one furthest above, or nowhere. Under the lock."""
    for gate, now in family:
        if not gate.circuit.would_admit(now):
            answer = gate.circuit.admit(now)
            assert isinstance(answer, Refusal)
            return Refused(gate, answer, now)
    permits: list[Permit] = []
    for gate, now in family:
        answer = gate.circuit.admit(now)
        if isinstance(answer, Refusal):  # a lease was over
            for (below, _), permit in zip(family, permits, strict=False):
                below.circuit.withdraw(permit)
            return Refused(gate, answer, now)
        permits.append(answer)
    for permit, above in pairwise(permits):
        permit.above = above
    return permits[0]


def _cancellation() -> type[BaseException] | tuple[()]:
    """What the running event loop cancels with; nothing where no loop runs."""
    try:
        return anyio.get_cancelled_exc_class()
    except RuntimeError:
        return ()
