"""structlog: one event per transition with its keys and values, and sums of what happens to single calls.

Law: refusals, and whatever else may come with every call, are summed, never logged one by one.
"""

import time
from collections.abc import Callable
from typing import Any

import structlog

from ..journal import Journal, Line, Told


def log_events(
    *sources: Told,
    logger: Any = None,
    every: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> Journal:
    """Log what breakers, other policies, pipelines and registries tell, from now on.

    The answer ends it when it is called (`stop = log_events(payments)`), or when its block ends (`with log_events(payments):`).
    What is still summed up is logged then.

    A transition is one event, `state changed`, by `warning` when the circuit opens, else by `info`, with the number of calls
    that were refused since the one before it. What policies tell of single calls is summed: the first of a kind is logged at
    once, those that follow within `every` seconds together. Retries that gave up, timeouts, and refusals by policies are
    warnings.

    Args:
        sources: at least one. To log the breakers of a registry, give the registry: it does not let go of breakers that have
            an observer of their own.
        logger: a structlog logger; None for `structlog.get_logger("aiobreaker")`.
        every: for how many seconds what may come with every call is summed up.
        clock: seconds, steadily rising, by which `every` is measured.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it, its value, and what is allowed.
    """
    log = structlog.get_logger("aiobreaker") if logger is None else logger
    if not (callable(getattr(log, "info", None)) and callable(getattr(log, "warning", None))):
        raise TypeError(f"logger must be a structlog logger, not {logger!r}")

    def write(line: Line) -> None:
        (log.warning if line.warning else log.info)(line.event, **line.about)

    return Journal(sources, write, every=every, clock=clock)
