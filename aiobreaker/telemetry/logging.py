"""Standard logging: one line per transition, and sums of what happens to single calls.

Law: refusals, and whatever else may come with every call, are summed, never logged one by one.
"""

import logging
import time
from collections.abc import Callable

from ..journal import Journal, Line, Told


def log_events(
    *sources: Told,
    logger: logging.Logger | str = "aiobreaker",
    every: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> Journal:
    """Log what breakers, other policies, pipelines and registries tell, from now on.

    The answer ends it when it is called (`stop = log_events(payments)`), or when its block ends (`with log_events(payments):`).
    What is still summed up is logged then.

    A transition is one line, WARNING when the circuit opens, else INFO, with the number of calls that were refused since the
    line before it. What policies tell of single calls is summed: the first of a kind is a line at once, those that follow
    within `every` seconds share one. Retries that gave up, timeouts, and refusals by policies are WARNING, the rest INFO. What
    a line says in words its record has as attributes too (`extra`), for formatters that write JSON.

    Args:
        sources: at least one. To log the breakers of a registry, give the registry: it does not let go of breakers that have
            an observer of their own.
        logger: a logger, or its name.
        every: for how many seconds what may come with every call is summed up.
        clock: seconds, steadily rising, by which `every` is measured.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it, its value, and what is allowed.
    """
    if not isinstance(logger, logging.Logger | str):
        raise TypeError(f"logger must be a logger or its name, not {logger!r}")
    log = logging.getLogger(logger) if isinstance(logger, str) else logger

    def write(line: Line) -> None:
        log.log(logging.WARNING if line.warning else logging.INFO, line.message, extra=dict(line.about))

    return Journal(sources, write, every=every, clock=clock)
