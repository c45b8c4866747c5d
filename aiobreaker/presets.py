"""Pipelines for usual dependencies, as plain functions: every number is a choice, and its docstring says why.

Law: nothing in here is special. Whoever needs another number copies the body. `clock` is for tests.
"""

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Never

from .breaker import CircuitBreaker
from .budget import RetryBudget
from .core import checks
from .core.conditions import ConsecutiveFailures, FailureRate, SlowCallRate
from .core.outcomes import ErrorRule
from .core.schedules import Exponential
from .core.windows import LastCalls, LastSeconds
from .policies.bulkhead import Bulkhead
from .policies.deadline import Deadline
from .policies.rate_limit import RateLimit
from .policies.retry import Retry, check_retried_errors
from .policies.timeout import Timeout
from .policy import Pipeline

Clock = Callable[[], float]

_OUTAGES: ErrorRule = (OSError, TimeoutError)


def http_service(name: str, *, on: ErrorRule = _OUTAGES, clock: Clock = monotonic) -> Pipeline[Never]:
    """For requests to a service that somebody waits for. The calls must be idempotent: they are tried up to 3 times.

    `on` are the errors that are outages: exception types, or a function of the exception. Give your client's transport
    errors.

    * Deadline 10 s: the limit of a person's attention (Nielsen, "Usability Engineering", 1993, chapter 5).
    * Retry, 3 attempts: two more help against a restart or a lost packet; what a third does not cure, a fourth seldom does.
      Waits are drawn from up to 0.1 s, then 0.2 s: longer than a connection takes, shorter than anybody notices. At most a
      fifth of the calls are made again (Finagle's default): retries cannot multiply an outage.
    * Circuit breaker: opens when half of at least 20 calls within 30 s failed (fewer calls are no rate), or when 4 in 5
      took 2 s or longer; for 5 s first, long enough for a process to start, and for at most 60 s. Then 3 calls must
      succeed.
    * Bulkhead 100: the usual size of a client's connection pool. As many may wait, for 1 s: less than the 2 s that are
      slow.
    * Timeout 3 s per attempt: 3 of them, and the waits between, fit into the deadline.
    """
    trip = FailureRate(0.5, window=LastSeconds(30), minimum_calls=20) | SlowCallRate(
        0.8, slower_than=2.0, window=LastSeconds(30), minimum_calls=20
    )
    return Pipeline(
        Deadline(10, name=f"{name}: deadline", clock=clock),
        Retry(
            on,
            attempts=3,
            backoff=Exponential(0.1, maximum=2),
            budget=RetryBudget(0.2, clock=clock),
            name=f"{name}: retry",
            clock=clock,
        ),
        CircuitBreaker(name, trip=trip, open_for=Exponential(5, maximum=60), trials=3, failure_on=on, clock=clock),
        Bulkhead(100, max_waiters=100, max_wait=1, name=f"{name}: bulkhead", clock=clock),
        Timeout(3, name=f"{name}: timeout", clock=clock),
    )


def database(name: str, *, connections: int = 20, on: ErrorRule = _OUTAGES, clock: Clock = monotonic) -> Pipeline[Never]:
    """For queries to a database, over a pool of so many `connections`. Nothing is tried twice: it may have been carried out.

    `on` are the errors that are outages: exception types, or a function of the exception. A constraint that is violated is
    none.

    * Bulkhead of the pool's size, outside the breaker: waiting for a connection is our shortage, and no slowness of the
      database. 10 callers per connection may wait, for 2 s: whoever has waited for so long is better refused than served.
    * Circuit breaker: opens after 5 failures in a row, which is a connection that is gone and not a bad query, or when half
      of the last 100 calls took 1 s or longer, a hundred times what a query takes. For 10 s first, about a failover, and
      for at most 60 s. Then one query decides: a database that comes back must not be met by a crowd.
    * Timeout 5 s: longer queries belong elsewhere; shorter than the breaker stays open.
    """
    checks.count("connections", connections)
    check_retried_errors(on)
    trip = ConsecutiveFailures(5) | SlowCallRate(0.5, slower_than=1.0, window=LastCalls(100), minimum_calls=20)
    return Pipeline(
        Bulkhead(connections, max_waiters=10 * connections, max_wait=2, name=f"{name}: bulkhead", clock=clock),
        CircuitBreaker(name, trip=trip, open_for=Exponential(10, maximum=60), failure_on=on, clock=clock),
        Timeout(5, name=f"{name}: timeout", clock=clock),
    )


def queue_consumer(
    name: str, *, visibility: float = 30.0, on: ErrorRule = _OUTAGES, clock: Clock = monotonic
) -> Pipeline[Never]:
    """For what the handler of a queued message calls. Nobody waits for it, so it is patient.

    But after `visibility` seconds the message comes again, to somebody else; until then all must be over.

    `on` are the errors that are outages: exception types, or a function of the exception.

    * Deadline at 0.9 of the visibility: what is left is for the acknowledgement.
    * Retry as often as the deadline allows, also when refused: then it waits until the breaker lets calls through again. Waits
      are drawn from up to 0.5 s, doubling, at most 10 s.
    * Circuit breaker: opens after 5 failures in a row, for a sixth of the visibility: a message that is refused can wait
      for the trial and still be handled in time.
    * Timeout of a tenth of the visibility per attempt: five of them open the breaker, and a trial still follows in time.
    """
    checks.seconds("visibility", visibility)
    check_retried_errors(on)
    return Pipeline(
        Deadline(0.9 * visibility, name=f"{name}: deadline", clock=clock),
        Retry(
            on, attempts=inf, backoff=Exponential(0.5, maximum=10), wait_when_refused=True, name=f"{name}: retry", clock=clock
        ),
        CircuitBreaker(name, trip=ConsecutiveFailures(5), open_for=visibility / 6, failure_on=on, clock=clock),
        Timeout(0.1 * visibility, name=f"{name}: timeout", clock=clock),
    )


def language_model(name: str, *, per_minute: int = 60, on: ErrorRule = _OUTAGES, clock: Clock = monotonic) -> Pipeline[Never]:
    """For calls to a language model, which take long, cost money, and are allowed so many times `per_minute`.

    `on` are the errors that are outages: exception types, or a function of the exception. Give your client's own.

    * Deadline 300 s: the longest answers take minutes, and nobody waits for more than five.
    * Retry, 2 attempts: each costs as much as the first. Waits are drawn from up to 1 s: such services ask for seconds.
    * Rate limit: what the account allows, a tenth of it at once; waits for up to 30 s. Inside the retry, so that every
      attempt counts, and outside the breaker, where waiting is no slowness.
    * Circuit breaker: opens when half of at least 10 calls within 120 s failed; the window is wide because calls are few
      and long. For 120 s, as long as a trial may hang, and for at most 300 s. Slowness says little here: an answer's length
      decides it.
    * Timeout 120 s per attempt: two of them, and two waits for the rate, fill the deadline.
    """
    checks.count("per_minute", per_minute)
    return Pipeline(
        Deadline(300, name=f"{name}: deadline", clock=clock),
        Retry(on, attempts=2, backoff=Exponential(1, maximum=10), name=f"{name}: retry", clock=clock),
        RateLimit(per_minute, per=60, burst=max(1, per_minute // 10), max_wait=30, name=f"{name}: rate limit", clock=clock),
        CircuitBreaker(
            name,
            trip=FailureRate(0.5, window=LastSeconds(120), minimum_calls=10),
            open_for=Exponential(120, maximum=300),
            failure_on=on,
            clock=clock,
        ),
        Timeout(120, name=f"{name}: timeout", clock=clock),
    )
