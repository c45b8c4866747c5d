"""Coroutines that are begun by hand, `coroutine.send(None)`, to see whether they have to wait; how they go on; one that ended.

Law: the task, the context and the cancel scopes are those of whoever begins it and awaits the rest. Between the two nothing is
awaited, and whoever has entered a scope in between has left it, as scopes must nest.
"""

from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType, coroutine
from typing import Any, Never, cast


def beginning(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    """A coroutine that has not begun, for anything that can be awaited."""
    return awaitable if isinstance(awaitable, CoroutineType) else _awaited(awaitable)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def failed(error: BaseException) -> Never:
    """In place of the rest, if it has raised at once."""
    try:
        raise error
    finally:
        del error  # it and the frame in its traceback would keep one another alive


@coroutine
def rest(begun: Coroutine[Any, Any, Any], waits_for: object) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that has been begun, and has yielded this to the event loop."""
    while True:
        sent, thrown = None, None
        try:
            sent = yield waits_for
        except GeneratorExit:
            begun.close()
            raise
        except BaseException as error:
            thrown = error
        try:
            waits_for = begun.send(sent) if thrown is None else begun.throw(thrown)
        except StopIteration as answer:
            return answer.value
        finally:
            del thrown


@coroutine
def _nothing() -> Generator[None]:
    return
    yield


ENDED = cast("Coroutine[Any, Any, None]", _nothing())
"""To be awaited, as often as wanted, in place of a coroutine that has nothing to wait for: it takes no frame."""
next(iter(cast("Any", ENDED)), None)  # what has ended ends at once, ever again
