"""The books of one breaker: every call is settled here, once, and what came of it is told.

Law: a settlement never awaits. No user code runs under the thread lock.
"""

from collections.abc import Callable
from functools import partial
from typing import Self

from .core.circuit import Circuit
from .core.eras import Era, Flowing, Permit, Refusal, State
from .core.outcomes import Outcome
from .errors import CircuitOpenError, FailureSummary
from .events import CallFinished, CallRefused
from .hub import EventHub
from .locking import LOCK, interrupted, process
from .loops import BACKLOG, Bell, Lobby
from .settings import Settings, Shape

Pass = Permit | Flowing
"""What an admitted call holds: a permit of its own, or the era that all calls share."""

_NO_TYPES: frozenset[type[BaseException]] = frozenset()
_NOBODY = EventHub("", lambda: None)  # the hub of breakers that nobody has ever observed


class Ledger:
    """The state of one breaker, and the books that are kept of its calls."""

    __slots__ = (
        "_brisk",
        "_hub",
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
        self.above: tuple[Self, ...] = ()
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

    def stand_under(self, parent: Self) -> None:
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

    # -- settling

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
        self._count(permit, outcome, subject, hint, began)
        for above in reversed(self.above):
            above._tell()
        self._tell()

    def abandon(self, permit: Pass) -> None:
        """End a call that was thrown away. That may be in the middle of anything, so observers hear of it a little later.

        A garbage collection may come while one of them holds a lock of its own, and would wait for itself there.
        """
        if interrupted():
            BACKLOG.add(partial(self.abandon, permit))
            return
        self._count(permit, Outcome.IGNORED)
        family: tuple[Ledger, ...] = (self, *self.above)
        for each in reversed(family):
            each._ring()
            if each._hub.outbox:
                with LOCK:
                    BACKLOG.add(each._hub.deliver)

    def _count(
        self,
        permit: Pass,
        outcome: Outcome,
        subject: object = None,
        hint: float | None = None,
        began: float | None = None,
    ) -> None:
        """Settle a call here and above, once. What is to be told of it is in line."""
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
                self._count(permit, Outcome.IGNORED, began=began)
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
            self.above[0]._count(permit.above, outcome, subject)

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

    def leave_old_process(self) -> None:
        """After a fork: what was running or waiting in the parent does not run here."""
        if self._process != process():
            self._process = process()
            self.waiting = 0
            with LOCK:
                self.circuit.forget_calls()

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
        self._ring()
        if self._hub.outbox:
            self._hub.deliver()

    def _ring(self) -> None:
        lobby = self.above[-1]._lobby if self.above else self._lobby
        if lobby is not None and lobby.changed.ears:
            lobby.changed.ring()

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
