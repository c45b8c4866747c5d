"""Policy: whatever stands around an awaited call, in one shape; and Pipeline, several of them, the first outermost.

Law: a policy knows nothing of its siblings. What others must know of it, for `explain` and `lint`, are its traits.
A pipeline adds nothing of its own to a call.
"""

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from functools import partial, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from .events import Event
from .hub import EventHub, EventStream
from .locking import LOCK, interrupted
from .loops import BACKLOG

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
    Whoever writes one needs `call` only. What it is called with may be the `call` of the next policy; see `target`.
    """

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """See to it that the decorator goes through the newest `call`: a faster way is one around the `call` beside it."""
        super().__init_subclass__(**options)
        newest = next(vars(base) for base in cls.__mro__ if "call" in vars(base) or "_around" in vars(base))
        if "_around" not in newest:
            cls._around = Policy._around  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

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
        if inspect.isasyncgenfunction(fn):
            raise TypeError(f"only circuit breakers can decorate async generator functions; {self!r} cannot decorate {fn!r}")
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"only async functions can be decorated, not {fn!r}; see call() for others")
        inside = self._around(fn)
        return fn if inside is fn else wraps(fn)(inside)

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

    def _tell(self, kind: type[Event], /, **about: Any) -> None:
        """Tell of an event, if anybody listens."""
        hub = self._hub
        if hub is None or not hub.wanted:
            return
        if interrupted():  # in a finaliser: observers must not run in the middle of a transition
            BACKLOG.add(partial(self._tell, kind, **about))
            return
        BACKLOG.catch_up()
        now = self._clock()
        with LOCK:
            hub.post(kind(**about, **hub.stamp(now)))
        hub.deliver()


class Pipeline(Policy[A_co]):
    """Several policies around one call, the first outermost. Pipelines in it are laid open, so `a | b | c` is flat."""

    __slots__ = ("__weakref__", "_inner", "_outer", "policies")

    policies: tuple[Policy[Any], ...]
    """The policies, from the outermost to the innermost."""

    def __init__(self, *policies: Policy[A_co]) -> None:
        flat: list[Policy[Any]] = []
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(f"policies must be policies, not {policy!r}")
            if isinstance(policy, Pipeline) and type(policy)._around is Pipeline._around:  # and so is its `call`
                flat.extend(policy.policies)
            else:
                flat.append(policy)
        if not flat:
            raise ValueError("a pipeline needs at least one policy")
        self.policies = tuple(flat)
        self._outer: Function = flat[0].call
        self._inner = tuple(policy.call for policy in flat[1:])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.policies))})"

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | A_co:
        """Call the function and await what it returns, through all policies."""
        outer = self._outer
        result: T | A_co = await (outer(*self._inner, fn, *args, **kwargs) if kwargs else outer(*self._inner, fn, *args))
        return result

    def _around(self, fn: Function) -> Function:
        for policy in reversed(self.policies):
            fn = policy(fn)
        return fn

    # -- what there is to see

    def explain(self) -> str:
        """A drawing of the order, from the outermost to the function, and in words what each does."""
        from .lint import drawing

        return drawing(self._all_traits())

    def lint(self) -> list[str]:
        """What contradicts itself in this order and these settings, in words. Empty if nothing does."""
        from .lint import contradictions

        return contradictions(self._all_traits())

    def _all_traits(self) -> "list[Traits]":
        known = {id(policy): policy.traits for policy in self.policies}
        return [known[id(policy)] for policy in self.policies]

    def snapshot(self) -> tuple[object, ...]:
        """The snapshots of all policies that have one, from the outermost."""
        return tuple(seen for policy in self.policies if (seen := policy.snapshot()) is not None)

    def events(self, *, buffer: int = 256, calls: bool = False) -> EventStream:
        """The events of all policies in one stream, from now on: `async with pipeline.events() as events: ...`.

        Those of one policy come in their order; `name` says whose an event is. With `calls`, a breaker's events of single calls
        come too. An `EventsLost` has no name here, and its `seq` says nothing.
        """
        return EventStream(_Confluence(self.policies, calls).hub, buffer, calls)

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        """Call a function with every event of every policy, one at a time; what it raises is logged.

        The answer is a function that ends it. Until then it goes on for as long as there are the policies, with or without
        the pipeline.
        """
        return _Confluence(self.policies, calls).hub.subscribe(observer, calls)


class _Confluence:
    """Where the events of several policies come together for one observer or reader. It listens exactly as long as they do."""

    __slots__ = ("_calls", "_ends", "_policies", "hub")

    def __init__(self, policies: tuple[Policy[Any], ...], calls: bool) -> None:
        self._policies = {id(policy): policy for policy in policies}.values()  # the same one may stand there twice
        self._calls = calls
        self._ends: ExitStack | None = None
        self.hub = EventHub("", self._audience_changed)

    def _audience_changed(self) -> None:
        ends, self._ends = self._ends, None
        if not self.hub.wanted:
            if ends is not None:
                ends.close()
            return
        with ExitStack() as begun:
            for policy in self._policies:
                begun.callback(policy.subscribe(self._take, calls=self._calls))
            self._ends = begun.pop_all()

    def _take(self, event: Event) -> None:
        with LOCK:
            self.hub.post(event)
        self.hub.deliver()


def target(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and arguments that are meant, behind the policies between: their `call` takes the function as its first.

    Other methods of a policy, and partial objects, are functions like any other.
    """
    while args and isinstance(fn, MethodType) and _is_call(fn):
        fn, args = args[0], args[1:]
    return fn, args


def _is_call(method: MethodType) -> bool:
    """Whether it is a policy's `call`, or that of one of its base classes."""
    kind, function = type(method.__self__), method.__func__
    if Policy not in kind.__mro__:
        return False
    return getattr(kind, "call", None) is function or any(vars(base).get("call") is function for base in kind.__mro__)
