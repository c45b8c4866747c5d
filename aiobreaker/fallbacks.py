"""What stands in for an answer that cannot be had: values, functions and last good answers, asked in turn.

Law: a source is asked only in place of an error it was meant for, and cancellation is none. Where no source has an answer, the
original error is raised, as itself.
"""

import inspect
from collections.abc import Callable, Coroutine, Hashable, Sequence
from functools import wraps
from math import inf
from typing import Any

from .core import checks
from .core.entries import Entries, Entry
from .locking import LOCK

Function = Callable[..., Coroutine[Any, Any, Any]]
Errors = type[Exception] | tuple[type[Exception], ...]
Told = Callable[[int, Exception], object]
"""Is told which source, from 1, has answered in place of an error; 0 if none has."""

_NOTHING: Any = object()


class LastGood:
    """The last good result for the same arguments, if it is not older than `max_age` seconds.

    At most `max_size` results are kept, the least recently used goes first. Calls whose arguments cannot be hashed are not
    remembered. Where nothing is remembered, the next source is asked; if there is none, the error is raised.
    """

    def __init__(self, max_age: float = inf, *, max_size: int = 256) -> None:
        allowed = "a number of seconds above 0 (infinity allowed)"
        if checks.wait("max_age", max_age) == 0:
            raise ValueError(f"max_age must be {allowed}, not {max_age!r}")
        self.max_age = float(max_age)
        self.max_size = checks.count("max_size", max_size)

    def __repr__(self) -> str:
        return f"LastGood(max_age={self.max_age!r}, max_size={self.max_size!r})"


class Memory:
    """The last good results, by function and arguments. Threads may meet in it."""

    __slots__ = ("_clock", "_entries", "_max_age")

    def __init__(self, rule: LastGood, clock: Callable[[], float]) -> None:
        self._max_age = rule.max_age
        self._clock = clock
        self._entries = Entries(rule.max_size)

    def __len__(self) -> int:
        return len(self._entries.by_key)

    def keep(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> None:
        """Remember a result."""
        key = _key(fn, args, kwargs)
        if key is None:
            return
        entries = self._entries
        entry = Entry(key, result, self._clock())
        entries.n = entry.used = entries.n + 1
        entries.by_key[key] = entry
        while len(entries.by_key) > entries.max_size:
            with LOCK:
                oldest = entries.oldest()
            if oldest is not None:
                self._forget(oldest)

    def recall(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is remembered, or _NOTHING."""
        key = _key(fn, args, kwargs)
        entries = self._entries
        entry = None if key is None else entries.by_key.get(key)
        if entry is None:
            return _NOTHING
        if self._clock() - entry.since > self._max_age:
            self._forget(entry)
            return _NOTHING
        entries.n = entry.used = entries.n + 1
        return entry.result

    def _forget(self, entry: Entry) -> None:
        by_key = self._entries.by_key
        if by_key.get(entry.key) is entry:
            by_key.pop(entry.key, None)


def _key(fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    key = (fn, args, tuple(sorted(kwargs.items())) if kwargs else ())
    try:
        hash(key)
    except Exception:  # whatever a __hash__ raises: the call itself went well
        return None
    return key


class Sources:
    """What is asked in place of the errors in `on`, one after another; and what is remembered for that."""

    __slots__ = ("_sources", "_told", "memories", "on")

    def __init__(self, sources: Sequence[object], on: Errors, clock: Callable[[], float], told: Told) -> None:
        self.on = on
        self._sources = [Memory(source, clock) if isinstance(source, LastGood) else source for source in sources]
        self.memories = tuple(source for source in self._sources if isinstance(source, Memory))
        self._told = told

    def keep(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> None:
        """Remember a result, where that is wanted."""
        for memory in self.memories:
            memory.keep(fn, args, kwargs, result)

    async def answer(
        self, error: Exception, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any], place: int = 0
    ) -> Any:
        """What the first source has to say that has an answer, from this place on; else the error is raised.

        To be awaited while the error is handled. Then an error of a source, too, says what it came from.
        """
        if place == len(self._sources):
            self._told(0, error)
            raise error
        answer = source = self._sources[place]
        try:
            if isinstance(source, Memory):
                answer = source.recall(fn, args, kwargs)
            elif callable(source):
                answer = source(error, *args, **kwargs)
                if inspect.isawaitable(answer):
                    answer = await answer
        except self.on:
            return await self.answer(error, fn, args, kwargs, place + 1)
        if answer is _NOTHING:
            return await self.answer(error, fn, args, kwargs, place + 1)
        self._told(place + 1, error)
        return answer

    def around(self, fn: Function) -> Function:
        """The function, with the sources in place of its errors."""
        on, answer, keep = self.on, self.answer, self.keep

        async def with_stand_in(*args: Any, **kwargs: Any) -> Any:
            try:
                return await (fn(*args, **kwargs) if kwargs else fn(*args))
            except on as error:
                return await answer(error, fn, args, kwargs)

        async def with_memory(*args: Any, **kwargs: Any) -> Any:
            try:
                result = await (fn(*args, **kwargs) if kwargs else fn(*args))
            except on as error:
                return await answer(error, fn, args, kwargs)
            keep(fn, args, kwargs, result)
            return result

        return with_memory if self.memories else with_stand_in


def with_fallback(guarded: Function, fallback: object, on: Errors, clock: Callable[[], float]) -> Function:
    """The guarded function, with the fallback in place of the errors in `on`. The fallback itself is not guarded."""
    return wraps(guarded)(Sources((fallback,), on, clock, lambda source, error: None).around(guarded))


def check_fallback_errors(on: object) -> None:
    """TypeError unless `on` is an exception type or a tuple of them."""
    if not checks.error_types("on", on):
        raise ValueError(f"on must be an exception type or a tuple of at least one, not {on!r}")
