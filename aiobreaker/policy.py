"""Policy: whatever stands around an awaited call, in one shape; and Pipeline, several of them, the first outermost.

Law: a policy knows nothing of its siblings. What others must know of it, for `explain` and `lint`, are its traits.
"""

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from .events import Event
from .hub import EventHub, EventStream
from .locking import LOCK

if TYPE_CHECKING:  # loaded when it is asked for: few do, and it takes time
    from .lint import Traits

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
B = TypeVar("B")
A_co = TypeVar("A_co", covariant=True)

Function = Callable[..., Coroutine[Any, Any, Any]]


class Policy(ABC, Generic[A_co]):
    """Stands around calls: `await policy.call(fn, ...)`, or `@policy` above an async function; `a | b` puts `a` outside of `b`.

    Of the type `Policy[A]` is what may answer with an `A` in place of the function's own result; most are `Policy[Never]`.
    Whoever writes one needs `call` only.
    """

    __slots__ = ()

    @abstractmethod
    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | A_co:
        """Call the function and await what it returns, as this policy has it."""

    @overload
    def __call__(
        self, fn: "staticmethod[P, Coroutine[Any, Any, T]]", /
    ) -> "staticmethod[P, Coroutine[Any, Any, T | A_co]]": ...
    @overload
    def __call__(
        self, fn: "classmethod[S, P, Coroutine[Any, Any, T]]", /
    ) -> "classmethod[S, P, Coroutine[Any, Any, T | A_co]]": ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | A_co]]: ...

    def __call__(self, fn: Any, /) -> Any:
        """Put this policy around an async function, as a decorator. It keeps its name and signature.

        Raises:
            TypeError: it is anything else.
        """
        if isinstance(fn, staticmethod | classmethod):
            return type(fn)(self(fn.__func__))
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"only async functions can be decorated, not {fn!r}; see call() for others")
        return wraps(fn)(self._around(fn))

    def _around(self, fn: Function) -> Function:
        """The function inside this policy. Whoever knows a faster way than through `call` says so here."""
        call = self.call

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            return await call(fn, *args, **kwargs)

        return guarded

    def __or__(self, inner: "Policy[B]") -> "Pipeline[A_co | B]":
        if not isinstance(inner, Policy):
            return NotImplemented
        return Pipeline(self, inner)

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from .lint import Traits

        return Traits(kind="other", words=repr(self))

    def snapshot(self) -> object:
        """One look at it, as a value that does not change. None if there is nothing to see."""
        return None

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        """Call a function with every event; what it raises is logged, not passed on. The answer is a function that ends it.

        With `calls`, the events of single calls come too, where a policy distinguishes them. This one tells nothing.
        """
        if not callable(observer):
            raise TypeError(f"observer must be a function of one event, not {observer!r}")
        return lambda: None


class NamedPolicy(Policy[A_co]):
    """A policy with a name, a clock and events of its own."""

    __slots__ = ("__weakref__", "_clock", "_hub", "name")

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if not name:
            raise ValueError("name must not be empty, it is what errors and events call the policy")
        if not callable(clock):
            raise TypeError(f"clock must be a function without arguments that returns a number, not {clock!r}")
        self.name = name
        self._clock = clock
        self._hub: EventHub | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def events(self, *, buffer: int = 256) -> EventStream:
        """The events from now on: `async with policy.events() as events: async for event in events: ...`.

        A reader who falls more than `buffer` events behind loses the oldest, and gets an `EventsLost` that says how many.
        """
        return EventStream(self._open_hub(), buffer, calls=False)

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        """Call a function with every event, from inside whatever made it happen; what it raises is logged, not passed on.

        The answer is a function that ends it. `calls` makes no difference here.
        """
        return self._open_hub().subscribe(observer, calls=False)

    def _open_hub(self) -> EventHub:
        with LOCK:
            self._hub = self._hub or EventHub(self.name, lambda: None)
            return self._hub

    def _tell(self, kind: type[Event], **about: Any) -> None:
        """Tell of an event, if anybody listens."""
        hub = self._hub
        if hub is None or not hub.wanted:
            return
        now = self._clock()
        with LOCK:
            hub.post(kind(**about, **hub.stamp(now)))
        hub.deliver()


class Pipeline(Policy[A_co]):
    """Several policies around one call, the first outermost. Pipelines in it are laid open, so `a | b | c` is flat."""

    __slots__ = ("__weakref__", "_hub", "_inner", "_outer", "_unsubscribe", "policies")

    policies: tuple[Policy[Any], ...]
    """The policies, from the outermost to the innermost."""

    def __init__(self, *policies: Policy[A_co]) -> None:
        flat: list[Policy[Any]] = []
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(f"policies must be policies, not {policy!r}")
            flat.extend(policy.policies if isinstance(policy, Pipeline) else [policy])
        if not flat:
            raise ValueError("a pipeline needs at least one policy")
        self.policies = tuple(flat)
        self._outer: Function = flat[0].call
        self._inner = tuple(policy.call for policy in flat[1:])
        self._hub: EventHub | None = None
        self._unsubscribe: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self.policies))})"

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | A_co:
        """Call the function and await what it returns, through all policies."""
        result: T | A_co = await self._outer(*self._inner, fn, *args, **kwargs)
        return result

    def _around(self, fn: Function) -> Function:
        for policy in reversed(self.policies):
            fn = policy(fn)
        return fn

    # -- what there is to see

    def explain(self) -> str:
        """A drawing of the order, from the outermost to the function, and in words what each does."""
        from .lint import drawing

        return drawing([policy.traits for policy in self.policies])

    def lint(self) -> list[str]:
        """What contradicts itself in this order and these settings, in words. Empty if nothing does."""
        from .lint import contradictions

        return contradictions([policy.traits for policy in self.policies])

    def snapshot(self) -> tuple[object, ...]:
        """The snapshots of all policies that have one, from the outermost."""
        return tuple(seen for policy in self.policies if (seen := policy.snapshot()) is not None)

    def events(self, *, buffer: int = 256, calls: bool = False) -> EventStream:
        """The events of all policies in one stream, from now on: `async with pipeline.events() as events: ...`.

        Those of one policy come in their order; `name` says whose an event is. With `calls`, a breaker's events of single calls
        come too.
        """
        return EventStream(self._open_hub(), buffer, calls)

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        """Call a function with every event of every policy; what it raises is logged. The answer is a function that ends it."""
        return self._open_hub().subscribe(observer, calls)

    def _open_hub(self) -> EventHub:
        with LOCK:
            self._hub = self._hub or EventHub("", self._audience_changed)
            return self._hub

    def _audience_changed(self) -> None:
        """Listen to the policies exactly as long as somebody listens here."""
        hub = self._open_hub()
        ended, self._unsubscribe = self._unsubscribe, []
        if hub.wanted:
            listened = dict.fromkeys(self.policies)  # the same one may stand in it twice
            self._unsubscribe = [policy.subscribe(hub.hand_out, calls=hub.wants_calls) for policy in listened]
        for unsubscribe in ended:
            unsubscribe()


def target(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and arguments that are meant, behind the policies between: their `call` takes the function as its first."""
    while isinstance(getattr(fn, "__self__", None), Policy) and args:
        fn, *rest = args
        args = tuple(rest)
    return fn, args
