"""The async shell around one circuit: admission, settlement, waiting, the recovery probe, and what is told of them.

Law: between an admission and the first line of the guarded code there is no await, and a settlement never awaits. What must
be awaited around a transition runs under the breaker's anyio lock. No user code runs under the thread lock.
"""

import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import anyio

from .core.circuit import Circuit
from .core.eras import Era, Flowing, HalfOpen, Permit, Refusal, State, Stopped
from .core.outcomes import Outcome
from .errors import CircuitOpenError, FailureSummary, fresh_error, told
from .events import CallFinished, CallRefused
from .hub import EventHub
from .locking import LOCK, interrupted, process
from .loops import BACKLOG, Bell, PerLoop
from .settings import Settings, Shape

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

Pass = Permit | Flowing
"""What an admitted call holds: a permit of its own, or the era that all calls share."""

_YIELD_EVERY = 64  # refusals in a row; a power of two
_MOST_TYPES = 64  # of exceptions that are known to be plain failures


_NO_TYPES: frozenset[type[BaseException]] = frozenset()
_NOBODY = EventHub("", lambda: None)  # the hub of breakers that nobody has ever observed


class _Lobby:
    """Where callers wait, and whoever awaits something around a transition. Made when somebody first does."""

    __slots__ = ("changed", "errands", "line")

    def __init__(self) -> None:
        self.changed = Bell()
        self.line = PerLoop(_turnstile)
        self.errands = PerLoop(_lock)


class Gate:
    """Where every guarded call of one breaker comes in and goes out."""

    __slots__ = (
        "_brisk",
        "_hub",
        "_lobby",
        "_newest",
        "_process",
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
        self._lobby: _Lobby | None = None
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
    def lobby(self) -> _Lobby:
        """Where to wait."""
        if self._lobby is None:
            lobby = _Lobby()
            with LOCK:
                self._lobby = self._lobby or lobby
        return self._lobby

    def show_door(self) -> None:
        """Let guards pass by themselves, unless single calls are watched."""
        BACKLOG.do(self._show_door)

    def _show_door(self) -> None:
        self.judges = self.settings.shape is Shape.JUDGED
        self._brisk = not self._hub.wants_calls and self.settings.retry_after is None
        self.plain_failures = _NO_TYPES
        with LOCK:
            self.circuit.personal = self._hub.wants_calls
            self.circuit.open_door()

    # -- in

    def refusal(self, era: Stopped | HalfOpen, now: float) -> CircuitOpenError | None:
        """The answer while no call passes, and nobody watches. None: the caller must give way first, see `refusal_slowly`."""
        era.refused = refused = era.refused + 1
        if not refused % _YIELD_EVERY:
            return None
        retry_after = None if era.until == inf else era.until - now
        return fresh_error(CircuitOpenError, self.name, era.state, era.why, retry_after, self.last_failure)

    async def refusal_slowly(self, era: Stopped | HalfOpen, now: float) -> CircuitOpenError:
        """The same answer, after giving way to the event loop. It is counted already."""
        retry_after = None if era.until == inf else era.until - now
        error = CircuitOpenError(self.name, era.state, era.why, retry_after, self.last_failure)
        await anyio.lowlevel.checkpoint()
        return error

    def admit(self) -> Permit | None:
        """Admit one call now, or raise CircuitOpenError. None: something must be awaited first, see `admit_slowly`."""
        now = self.clock()
        if (self.circuit.era.refused + 1) % _YIELD_EVERY == 0 or self._probe_is_due(now):
            return None
        return self._admit_at(now)

    async def admit_slowly(self) -> Permit:
        """Run the recovery probe if one is due, else give way to the event loop; then admit, or raise CircuitOpenError."""
        if self._probe_is_due(self.clock()):
            await self._run_probe()
        else:
            await anyio.lowlevel.checkpoint()
        return self._admit_at(self.clock())

    def _probe_is_due(self, now: float) -> bool:
        return self.settings.probe is not None and self.circuit.wants_trial(now)

    def _admit_at(self, now: float) -> Permit:
        answer = self.ask(now)
        if isinstance(answer, Refusal):
            raise self.refuse(answer, now)
        return answer

    async def admit_patiently(self, max_wait: float) -> Permit:
        """Admit one call, after waiting in line for up to `max_wait` seconds if need be."""
        if not max_wait or not self.waiting or self._too_far(max_wait):
            try:
                return self.admit() or await self.admit_slowly()
            except CircuitOpenError:
                if not max_wait or self._too_far(max_wait):
                    raise
        if self.waiting >= self.settings.max_waiters:
            raise await self._refuse_slowly(f"{self.waiting} callers are waiting already")
        self.waiting += 1
        try:
            with anyio.move_on_after(max_wait):
                return await self._stand_in_line()
        finally:
            self.waiting -= 1
        raise await self._refuse_slowly(f"no admission within {max_wait:g} s: {self.circuit.era.reason}")

    async def _refuse_slowly(self, reason: str) -> CircuitOpenError:
        if not (self.circuit.era.refused + 1) % _YIELD_EVERY:
            await anyio.lowlevel.checkpoint()
        now = self.clock()
        return self.refuse(Refusal(self.circuit.era.state, reason, self.circuit.retry_after(now)), now)

    def _too_far(self, max_wait: float) -> bool:
        return self.circuit.era.state is State.OPEN and self.circuit.next_change() - self.clock() > max_wait

    async def _stand_in_line(self) -> Permit:
        """First come, first served: only the head of the line asks, and the circuit alone admits."""
        lobby = self.lobby
        with lobby.line.borrow() as turnstile:
            async with turnstile:
                while True:
                    with lobby.changed.heard() as changed:
                        if self._probe_is_due(self.clock()):
                            await self._run_probe()
                        now = self.clock()
                        answer = self.ask(now)
                        if isinstance(answer, Permit):
                            return answer
                        delay = self.circuit.next_change() - now
                        with anyio.move_on_after(delay if delay > 0 else inf):
                            await changed.wait()

    def ask(self, now: float) -> Permit | Refusal:
        """The circuit's own answer."""
        BACKLOG.catch_up()
        with LOCK:
            answer = self.circuit.admit(now)
            changed = self._note_log()
        if changed:
            try:
                self._tell()
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
            outcome, subject, hint = self.verdict(result)
        except BaseException:
            self.settle(permit, Outcome.IGNORED, began=began)
            raise
        if outcome is Outcome.SUCCESS and hint is None and isinstance(permit, Flowing) and began is not None:
            now = self.clock()
            if now - began < permit.slow_after and now < permit.roll_at and (n := permit.n + 1) < permit.horizon:
                permit.n = n
                return
        self.settle(permit, outcome, subject, hint, began)

    def verdict(self, result: object) -> tuple[Outcome, object, float | None]:
        """What the rules say of a result: outcome, the result itself, and the server's hint."""
        return self.settings.judge.result(result), result, self.settings.hint(result, time.time())

    def broke(self, permit: Pass, error: BaseException, began: float | None = None) -> None:
        """A call has raised. What the user's rule raises in its turn goes to the caller, with the error as its context."""
        if isinstance(error, GeneratorExit):
            self.settle(permit, Outcome.IGNORED)
            return
        if type(error) in self.plain_failures:
            clock = self.clock
            now, words = clock(), told(error)
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
                hint = self.settings.hint(error, time.time())
        except BaseException:
            self.settle(permit, Outcome.IGNORED, began=began)
            raise
        self._learn(error)
        self.settle(permit, outcome, error, hint, began)

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
        self._leave_parent()
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
            self.last_failure = failure = FailureSummary.of(subject, now)
            self._newest = None
        with LOCK:
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
        self._tell()

    # -- telling

    def command(self, order: Callable[[float], object]) -> None:
        """Carry out an order to the circuit, and tell what it changed."""
        BACKLOG.do(partial(self._carry_out, order))

    def hold(self, reason: str) -> object:
        """Refuse everything until this hold is released."""
        self._leave_parent()
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
        if self._lobby is not None and self._lobby.changed.ears:
            self._lobby.changed.ring()
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

    # -- what awaits

    async def _run_probe(self) -> None:
        """Ask the probe whether the dependency is back, as a trial with its lease."""
        lobby = self.lobby
        with lobby.errands.borrow() as errands:
            async with errands:
                now = self.clock()
                permit = self.ask(now) if self.circuit.wants_trial(now) else None
                if not isinstance(permit, Permit):
                    return
                if not isinstance(permit.era, HalfOpen):  # closed in the meantime, from another thread
                    self.settle(permit, Outcome.IGNORED)
                    return
                assert self.settings.probe is not None
                try:
                    with anyio.fail_after(permit.era.slots.lease):
                        back = await self.settings.probe() is not False
                except Exception as error:
                    self.settle(permit, Outcome.FAILURE, error)
                except BaseException as error:
                    self.broke(permit, error)
                    raise
                else:
                    self.settle(permit, Outcome.SUCCESS if back else Outcome.FAILURE, back)

    def _leave_parent(self) -> None:
        """After a fork: what was running or waiting in the parent does not run here."""
        if self._process != process():
            self._process = process()
            self.waiting = 0
            with LOCK:
                self.circuit.forget_calls()

    async def drain(self, hold: object) -> None:
        """Wait until the calls from before this hold have ended, or the hold itself."""
        lobby = self.lobby
        with lobby.errands.borrow() as errands:
            async with errands:
                while True:
                    with lobby.changed.heard() as changed:
                        if not self.circuit.stragglers or not self.circuit.holds(hold):
                            return
                        await changed.wait()


def _turnstile() -> "anyio.Semaphore":
    return anyio.Semaphore(1, fast_acquire=True)


def _lock() -> "anyio.Lock":
    return anyio.Lock(fast_acquire=True)


def _cancellation() -> type[BaseException] | tuple[()]:
    """What the running event loop cancels with; nothing where no loop runs."""
    try:
        return anyio.get_cancelled_exc_class()
    except RuntimeError:
        return ()
