"""Fallback: what is answered in place of an error: a value, a function, the last good result, or several of them in turn.

Law: cancellation is never answered, and sources see the user's own arguments, whatever stands between.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, overload

from ..errors import FailureSummary, RefusedError
from ..fallbacks import Errors, LastGood, Sources, check_fallback_errors
from ..policy import Function, NamedPolicy, Policy, target
from .events import FellBack

if TYPE_CHECKING:
    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackSnapshot:
    """What a fallback has done so far.

    `answered` says for each source how many errors it has stood in for, `unanswered` how many errors were raised because no
    source had an answer. `remembered` is how many last good results are kept at the moment.
    """

    name: str
    answered: tuple[int, ...]
    unanswered: int
    remembered: int


class Fallback(NamedPolicy[F_co]):
    """Answers in place of an error, by default in place of refusals (an open circuit, a full bulkhead, a rate limit...).

        Fallback(None) | breaker
        Fallback(LastGood(max_age=60), price_from_the_mirror, 0.0, on=(RefusedError, OSError)) | breaker

    Sources are asked in turn, until one has an answer. Each is one of these:

    * a function, sync or async, of the error and the call's own arguments. What it raises is raised, but an error of the kinds
      in `on` hands on to the next source.
    * `LastGood(max_age=...)`: the last good result for the same function and arguments. If it remembers none, the next source
      is asked. The function is told by its identity: with `call`, give the same one each time, no new lambda.
    * anything that cannot be called: a value. It always answers, so it comes last. A class can be called: it is a function.

    Where no source has an answer, the original error is raised, as itself; if a source has failed in the meantime, that error
    is its `__context__`. Sources are not guarded by what stands inside. Cancellation is never answered. An
    exception group is not opened: it is answered only if `on` names its type.

    Args:
        sources: what is asked, one or more.
        on: the errors to be answered: an exception type, or several.
        name: what events call it.
        clock: seconds, steadily rising, for events and the age of results.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = ("_on", "_sources", "_told")

    # longer chains are `Fallback[Any]`, unless it is written out: `Fallback[str | None](first, second, None)`
    @overload
    def __init__(
        self: "Fallback[Never]", source: LastGood, /, *, on: Errors = ..., name: str = ..., clock: Clock = ...
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]", source: Callable[..., Awaitable[F]], /, *, on: Errors = ..., name: str = ..., clock: Clock = ...
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]", source: Callable[..., F], /, *, on: Errors = ..., name: str = ..., clock: Clock = ...
    ) -> None: ...
    @overload
    def __init__(self: "Fallback[F]", source: F, /, *, on: Errors = ..., name: str = ..., clock: Clock = ...) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]",
        first: LastGood,
        second: Callable[..., Awaitable[F]],
        /,
        *,
        on: Errors = ...,
        name: str = ...,
        clock: Clock = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]",
        first: LastGood,
        second: Callable[..., F],
        /,
        *,
        on: Errors = ...,
        name: str = ...,
        clock: Clock = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Fallback[F]", first: LastGood, second: F, /, *, on: Errors = ..., name: str = ..., clock: Clock = ...
    ) -> None: ...
    @overload
    def __init__(self: "Fallback[Any]", *sources: Any, on: Errors = ..., name: str = ..., clock: Clock = ...) -> None: ...

    def __init__(self, *sources: Any, on: Errors = RefusedError, name: str = "fallback", clock: Clock = time.monotonic) -> None:
        super().__init__(name, clock)
        check_fallback_errors(on)
        if not sources:
            raise ValueError("sources must be one or more: values, functions, LastGood")
        for source in filter(_always_answers, sources[:-1]):
            raise ValueError(f"sources must have nothing after a value: {source!r} always answers, the next one is never asked")
        self._on = on
        self._sources = Sources(sources, on, clock, self._note)
        self._told = [0] * (len(sources) + 1)

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T | F_co:
        """Call the function and await what it returns; if that raises an error it is for, answer what a source says."""
        sources = self._sources
        answer: T | F_co
        try:
            answer = await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]
        except self._on as error:
            answer = await sources.answer(error, *target(fn, args), kwargs)
            return answer
        if sources.memories:
            sources.keep(*target(fn, args), kwargs, answer)
        return answer

    def _around(self, fn: Function) -> Function:
        if isinstance(getattr(fn, "__self__", None), Policy):  # its arguments begin with functions
            return super()._around(fn)
        return self._sources.around(fn)

    def _note(self, source: int, error: Exception) -> None:
        self._told[source] += 1
        if source and self._hub is not None:
            self._tell(FellBack, source=source, failure=FailureSummary.of(error, self._clock()))

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        types = self._on if isinstance(self._on, tuple) else (self._on,)
        words = f"fallback {self.name!r} (in place of {' or '.join(each.__name__ for each in types)})"
        return Traits(kind="fallback", words=words, hides=Exception in types)

    def snapshot(self) -> FallbackSnapshot:
        """How often each source has answered."""
        unanswered, *answered = self._told
        remembered = sum(map(len, self._sources.memories))
        return FallbackSnapshot(name=self.name, answered=tuple(answered), unanswered=unanswered, remembered=remembered)


def _always_answers(source: object) -> bool:
    return not callable(source) and not isinstance(source, LastGood)
