"""The async shell around one circuit: admission, settlement, and what is told of them. What is awaited is in `waiting.py`.

Law: between an admission and the first line of the guarded code there is no await, and a settlement never awaits. No user code
runs under the thread lock.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from .core.circuit import Circuit
from .core.eras import Era, Flowing, HalfOpen, Permit, Refusal, State, Stopped
from .core.outcomes import Outcome
from .errors import CircuitOpenError, FailureSummary, told
from .events import CallFinished, CallRefused
from .hub import EventHub
from .locking import LOCK, interrupted, process
from .loops import BACKLOG, Bell, Lobby
from .settings import Settings, Shape

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

Pass = Permit | Flowing
"""What an admitted call holds: a permit of its own, or the era that all calls share."""

_YIELD_EVERY = 64  # refusals in a row; a power of two
_YIELD_MASK = _YIELD_EVERY - 1
_MOST_TYPES = 64  # of exceptions that are known to be plain failures

_NO_TYPES: frozenset[type[BaseException]] = frozenset()
_NOBODY = EventHub("", lambda: None)  # the hub of breakers that nobody has ever observed


class Gate:
    """Where every guarded call of one breaker comes in and goes out."""

    __slots__ = (
        "_brisk",
        "_hub",
        "_in_a_row",
        "_lobby",
        "_newest",
        "_process",
        "above",
        "circuit",
        "clock",
        "judges",
        "last_failure",
        "name",
        "plain_failures",
        "settings",
        "waiting",
    )

    def __init__(self, name: str, settings: Settings, clock: Callable[[], float], draw: Callable[[], float]) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.circuit = Circuit(settings.rules, clock(), draw)
        self._hub = _NOBODY
        self._lobby: Lobby | None = None
        self.above: tuple[Gate, ...] = ()
        self._in_a_row = 0
        self.last_failure: FailureSummary | None = None
        self._newest: tuple[type[BaseException], str, float] | None = None
        self.waiting = 0
        self._process = process()
        self.judges = self._brisk = False
        self.plain_failures: frozenset[type[BaseException]] = _NO_TYPES
        self.show_door()

    @property
    def hub(self) -> EventHub:
        """The events of this breaker; from now on there may be somebody who asks for them."""
        if self._hub is _NOBODY:
            hub = EventHub(self.name, self.show_door)
            with LOCK:
                self._hub = hub if self._hub is _NOBODY else self._hub
        return self._hub

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell of transitions."""
        return self._hub.wanted

    @property
    def lobby(self) -> Lobby:
        """Where to wait. One bell rings for all changes under the same roof."""
        if self._lobby is None:
            lobby = Lobby(self.above[-1].lobby.changed if self.above else Bell())
            with LOCK:
                self._lobby = self._lobby or lobby
        return self._lobby

    def stand_under(self, parent: "Gate") -> None:
        """From now on every call through this gate needs the other one's permit too, and is counted there as well."""
        self.above = (parent, *parent.above)
        self.show_door()

    def show_door(self) -> None:
        """Let guards pass by themselves, unless single calls are watched."""
        BACKLOG.do(self._show_door)

    def _show_door(self) -> None:
        self.judges = self.settings.shape is Shape.JUDGED
        self._brisk = not self._hub.wants_calls and self.settings.retry_after is None
        self.plain_failures = _NO_TYPES
        with LOCK:
            self.circuit.watched = self._hub.wants_calls
            self.circuit.personal = self._hub.wants_calls or bool(self.above)
            self.circuit.open_door()

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
        for gate in (self, *self.above):
            if gate.settings.probe is not None and gate.circuit.wants_trial(gate.clock()):
                due = gate
            elif self.above and not gate.circuit.would_admit(gate.clock()):
                return None
        return due

    def ask(self) -> "Permit | Refused":
        """The circuit's own answer, and that of those above it: all of them admit a call, or none."""
        BACKLOG.catch_up()
        family = [(gate, gate.clock()) for gate in (self, *self.above)]
        with LOCK:
            answer = _ask(family)
            changed = [gate for gate, _ in family if gate._note_log()]
        try:
            for gate in changed:
                gate._tell()
        except BaseException:  # an observer was interrupted
            if isinstance(answer, Permit):
                self.settle(answer, Outcome.IGNORED)
            raise
        return answer

    def refuse(self, refusal: Refusal, now: float) -> CircuitOpenError:
        """Count a refusal and tell it to those who watch calls. The answer is to be raised."""
        state, reason, retry_after = refusal
        with LOCK:
            self.circuit.era.refused += 1
            if self._hub.wants_calls:
                stamp = self._hub.stamp(now)
                self._hub.post(CallRefused(state=state, reason=reason, retry_after=retry_after, **stamp))
        self._tell()
        return CircuitOpenError(self.name, state, reason, retry_after, self.last_failure)

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
            self.settle(permit, Outcome.IGNORED)
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

    def look(self) -> float:
        """Make what there is to see true, and say when."""
        self.leave_old_process()
        BACKLOG.catch_up()
        self.sum_up()
        return self.clock()

    def sum_up(self) -> None:
        """Put the newest failure together, only now that somebody asks."""
        if self._newest is not None:
            (kind, words, at), self._newest = self._newest, None
            self.last_failure = FailureSummary(kind.__name__, words, at)

    def answered(self, permit: Permit) -> None:
        """A stream has given its first item."""
        now = self.clock()
        with LOCK:
            self.circuit.answered(permit, now)
        if permit.above is not None:
            self.above[0].answered(permit.above)

    def settle(
        self,
        permit: Pass,
        outcome: Outcome,
        subject: object = None,
        hint: float | None = None,
        began: float | None = None,
    ) -> None:
        """End a call with this outcome, once. `subject` is the error or result that made it a failure."""
        if interrupted():
            BACKLOG.add(partial(self.settle, permit, outcome, subject, hint, began))
            return
        now = self.clock()
        era: Era = permit.era if isinstance(permit, Permit) else permit
        if isinstance(permit, Permit):
            if permit.settled:
                return
            began = permit.began
        failure: FailureSummary | None = None
        if outcome is Outcome.FAILURE:
            try:
                self.last_failure = failure = FailureSummary.of(subject, now)
            except BaseException:  # interrupted
                self.settle(permit, Outcome.IGNORED, began=began)
                raise
            self._newest = None
        with LOCK:
            if isinstance(permit, Permit) and permit.settled:  # another thread was faster
                return
            in_time = self.circuit.settle(permit, outcome, now, now if began is None else began, failure, hint)
            if self._hub.wants_calls and era.state is not State.DISABLED:
                elapsed = None if began is None else now - began
                finished = CallFinished(
                    outcome=outcome,
                    elapsed=elapsed,
                    slow=elapsed is not None and elapsed >= self.settings.rules.slow_after,
                    trial=era.state is State.HALF_OPEN,
                    late=not in_time,
                    failure=failure,
                    **self._hub.stamp(now),
                )
                self._hub.post(finished)
            if self.circuit.log:
                self._note_log()
        if isinstance(permit, Permit) and permit.above is not None:
            self.above[0].settle(permit.above, outcome, subject)
        self._tell()

    # -- telling

    def command(self, order: Callable[[float], object]) -> None:
        """Carry out an order to the circuit, and tell what it changed."""
        BACKLOG.do(partial(self._carry_out, order))

    def hold(self, reason: str) -> object:
        """Refuse everything until this hold is released."""
        self.leave_old_process()
        return self._carry_out(lambda now: self.circuit.hold(now, reason))

    def _carry_out(self, order: Callable[[float], object]) -> object:
        BACKLOG.catch_up()
        now = self.clock()
        with LOCK:
            answer = order(now)
            self._note_log()
        self._tell()
        return answer

    def _tell(self) -> None:
        BACKLOG.catch_up()
        lobby = self.above[-1]._lobby if self.above else self._lobby
        if lobby is not None and lobby.changed.ears:
            lobby.changed.ring()
        if self._hub.outbox:
            self._hub.deliver()

    def _note_log(self) -> bool:
        """Make events of what the circuit has logged. Under the lock. True if there was anything."""
        log = self.circuit.log
        if not log:
            return False
        self.circuit.log = ()
        self.sum_up()
        if self._hub.wanted:
            for entry in log:
                self._hub.note(entry)
        return True

    def leave_old_process(self) -> None:
        """After a fork: what was running or waiting in the parent does not run here."""
        if self._process != process():
            self._process = process()
            self.waiting = 0
            with LOCK:
                self.circuit.forget_calls()


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
