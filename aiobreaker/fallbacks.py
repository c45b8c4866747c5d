"""What stands in for an answer that cannot be had: a value, a function, or the last good answer."""

import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import wraps
from math import inf
from typing import Any

from .core import checks

Function = Callable[..., Awaitable[Any]]


class LastGood:
    """The last good result for the same arguments, if it is not older than `max_age` seconds.

    At most `max_size` results are kept, the least recently used goes first. Calls whose arguments cannot be hashed are not
    remembered. Where nothing is remembered, the error is raised.
    """

    def __init__(self, max_age: float = inf, *, max_size: int = 256) -> None:
        allowed = "a number of seconds above 0 (infinity allowed)"
        if checks.wait("max_age", max_age) == 0:
            raise ValueError(f"max_age must be {allowed}, not {max_age!r}")
        self.max_age = float(max_age)
        self.max_size = checks.count("max_size", max_size)

    def __repr__(self) -> str:
        return f"LastGood(max_age={self.max_age!r}, max_size={self.max_size!r})"


class _Memory:
    def __init__(self, rule: LastGood, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._results: OrderedDict[object, tuple[object, float]] = OrderedDict()

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> None:
        key = _key(args, kwargs)
        if key is None:
            return
        self._results[key] = (result, self._clock())
        self._results.move_to_end(key)
        if len(self._results) > self._rule.max_size:
            self._results.popitem(last=False)

    def recall(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        key = _key(args, kwargs)
        if key is None or key not in self._results:
            raise error
        result, kept_at = self._results[key]
        if self._clock() - kept_at > self._rule.max_age:
            del self._results[key]
            raise error
        self._results.move_to_end(key)
        return result


def _key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object | None:
    key = (args, tuple(sorted(kwargs.items())))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def with_fallback(
    guarded: Function,
    fallback: object,
    on: type[Exception] | tuple[type[Exception], ...],
    clock: Callable[[], float],
) -> Function:
    """The guarded function, with the fallback in place of the errors in `on`. The fallback itself is not guarded."""
    memory = _Memory(fallback, clock) if isinstance(fallback, LastGood) else None

    @wraps(guarded)
    async def with_stand_in(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await guarded(*args, **kwargs)
        except on as error:
            if memory is not None:
                return memory.recall(error, args, kwargs)
            if not callable(fallback):
                return fallback
            answer = fallback(error, *args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer
        if memory is not None:
            memory.keep(args, kwargs, result)
        return result

    return with_stand_in


def check_fallback_errors(on: object) -> None:
    """TypeError unless `on` is an exception type or a tuple of them."""
    types = on if isinstance(on, tuple) else (on,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise TypeError(f"on must be an exception type or a tuple of them, not {on!r}")
