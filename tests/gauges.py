"""A pipeline of all policies, with gauges between them.

Law: the gauges count by themselves what goes in and what comes out, and how; they look into no policy.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Never, ParamSpec, TypeVar

import anyio

from aiobreaker import CircuitBreaker, Event, FailureRate, LastCalls, LastGood, RefusedError, SlowCallRate, StateChanged, Trials
from aiobreaker.budget import RetryBudget
from aiobreaker.core.limits import AIMD
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.quantiles import Quantile
from aiobreaker.core.schedules import Exponential
from aiobreaker.policies.adaptive_limit import AdaptiveLimit
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce
from aiobreaker.policies.deadline import Deadline
from aiobreaker.policies.fallback import Fallback
from aiobreaker.policies.hedge import Hedge
from aiobreaker.policies.rate_limit import RateLimit
from aiobreaker.policies.retry import Retry
from aiobreaker.policies.throttle import Throttle
from aiobreaker.policies.timeout import Timeout
from aiobreaker.policy import Pipeline, Policy
from aiobreaker.testing import Chaos

from .misbehaving import CLEANING_UP, Answer, Call, Misbehaving, OverloadedError, is_spoilt

P = ParamSpec("P")
T = TypeVar("T")

ITEMS = 80
RATE, BURST = 50, 6  # calls per second and at once, for each of three tenants
PLACES = 7
TTL, STALE_FOR, GOOD_FOR = 0.15, 0.3, 1.5  # seconds
DEADLINE, TIMEOUT = 0.5, 0.25  # seconds
ROUNDING = 1e-6  # seconds
THROTTLED = 0.3  # seconds of the throttle's window


def no_token(call: Call) -> None:
    return None


def nothing(call: Call, token: Any, answer: Answer | None, error: BaseException | None) -> None:
    """What most gauges do more than count."""


class Gauge(Policy[Never]):
    """Stands between two policies, and counts. `enter` and `leave` may look closer; `leave` gets what `enter` said."""

    def __init__(self) -> None:
        self.entered = self.running = self.returned = self.spoilt = self.cancelled = 0
        self.raised: Counter[str] = Counter()
        self.enter: Callable[[Call], Any] = no_token
        self.leave: Callable[[Call, Any, Answer | None, BaseException | None], None] = nothing

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        call: Any = args[-1]
        self.entered += 1
        self.running += 1
        token = self.enter(call)
        try:
            answer: Any = await fn(*args, **kwargs)
        except BaseException as error:
            self.running -= 1
            if isinstance(error, Exception):
                self.raised[type(error).__name__] += 1
            elif isinstance(error, anyio.get_cancelled_exc_class()):
                self.cancelled += 1
            self.leave(call, token, None, error)
            raise
        self.running -= 1
        self.returned += 1
        self.spoilt += answer.spoilt
        self.leave(call, token, answer, None)
        return answer  # type: ignore[no-any-return]  # nothing is known of it here


async def from_the_mirror(error: Exception, call: Call) -> Answer:
    """The second source of the fallback: it has every other item, and takes its time."""
    await anyio.sleep(0.01)
    if call.item % 2:
        raise ConnectionError("the mirror does not have it")
    return Answer(call.item, 0, mirrored=True)


def spoil(answer: Answer) -> Answer:
    return Answer(answer.item, answer.maker, spoilt=True)


def hint(subject: object) -> float | None:
    return getattr(subject, "retry_after", None)


class Gauged:
    """The pipeline, its gauges, and what they have seen."""

    def __init__(self, seed: int) -> None:
        self.clock = clock = anyio.current_time
        self.random = random = Random(seed)
        self.dependency = Misbehaving(seed + 1)
        self.budget = RetryBudget(0.2, minimum_per_second=3, window=2.0, clock=clock)
        self.fallback = Fallback(LastGood(GOOD_FOR, max_size=20), from_the_mirror, on=(RefusedError, OSError), clock=clock)
        self.cache = Cache(TTL, stale_for=STALE_FOR, stale_on=(RefusedError, OSError), max_size=150, clock=clock)
        self.coalesce = Coalesce(key=lambda call: call.item, clock=clock)
        self.deadline = Deadline(DEADLINE, clock=clock)
        self.retry = Retry(
            OSError,
            attempts=3,
            total_time=0.35,
            backoff=Exponential(0.05, factor=3, maximum=0.5),
            retry_if=is_spoilt,
            retry_after=hint,
            budget=self.budget,
            clock=clock,
            random=random.random,
        )
        self.throttle = Throttle(1.75, window=THROTTLED, rejected_on=OverloadedError, clock=clock, random=random.random)
        self.rate_limit = RateLimit(RATE, burst=BURST, max_wait=0.08, max_waiters=6, key=lambda call: call.tenant, clock=clock)
        self.breaker = CircuitBreaker(
            "breaker",
            trip=FailureRate(0.6, LastCalls(30), minimum_calls=20) | SlowCallRate(0.7, 0.12, LastCalls(20)),
            open_for=0.3,
            trials=Trials(4, concurrent=2, required=3),
            failure_on=OSError,
            failure_if=is_spoilt,
            retry_after=hint,
            clock=clock,
            random=random.random,
        )
        self.adaptive_limit = AdaptiveLimit(
            AIMD(initial_limit=8, min_limit=5, max_limit=12, timeout=0.3, window=0.2, minimum_samples=5),
            max_waiters=4,
            max_wait=0.1,
            failure_on=TimeoutError,
            failure_if=is_spoilt,
            clock=clock,
            random=random.random,
        )
        self.bulkhead = Bulkhead(PLACES, max_waiters=3, max_wait=0.05, clock=clock)
        self.hedge = Hedge(
            Quantile(0.8, minimum=0.01, initial=0.05, window=50),
            attempts=3,
            budget=self.budget,
            next_on=OverloadedError,
            clock=clock,
        )
        self.timeout = Timeout(TIMEOUT, clock=clock)
        self.chaos = Chaos(
            latency=0.01,
            latency_rate=0.05,
            failure={ConnectionError: 0.01, OverloadedError: 0.005},
            hang=0.003,
            outcome=spoil,
            outcome_rate=0.01,
            seed=seed,
            clock=clock,
        )
        self.names = [
            "fallback",
            "cache",
            "coalesce",
            "deadline",
            "retry",
            "throttle",
            "rate_limit",
            "breaker",
            "adaptive_limit",
            "bulkhead",
            "hedge",
            "timeout",
            "chaos",
        ]
        self.gauges = {name: Gauge() for name in (*self.names, "dependency")}  # each outside of whatever it is called after
        self.events: Counter[tuple[str, str]] = Counter()
        self.tick = 0
        self.complaints: Counter[str] = Counter()
        self.kept: dict[object, tuple[float, int]] = {}  # when the cache has got a result, and at which tick
        self.good: dict[object, float] = {}  # when the fallback has got one
        self.recovered = self.hedged = 0
        self.wins = [0, 0, 0]
        self.levels = [(0.0, 0.0)] * 3  # of each tenant's bucket: how full it was, when
        self.judged: list[tuple[float, bool]] = []  # by the throttle: when, and whether the call was accepted
        self.era = 0
        self.verdicts: Counter[Outcome] = Counter()
        self.late = 0
        self._watch()

    # -- the pipeline

    def build(self) -> None:
        """Put it together; until then policies may be replaced by others."""
        policies: list[Policy[Any]] = []
        for name in self.names:
            policies += [self.gauges[name], getattr(self, name)]
        self.pipeline: Pipeline[Any] = Pipeline(*policies, self.gauges["dependency"])
        self.pipeline.subscribe(self._hear)
        self.ways: dict[str, Callable[[Call], Awaitable[Answer]]] = {
            "decorator": self.pipeline(self.dependency.answer),
            "call": self._by_call,
        }

    async def _by_call(self, call: Call) -> Answer:
        answer: Answer = await self.pipeline.call(self.dependency.answer, call)
        return answer

    def _hear(self, event: Event) -> None:
        self.events[event.name, type(event).__name__] += 1
        if isinstance(event, StateChanged):
            self.era += 1
        elif event.name == "throttle":
            self._judge(False)

    # -- what the gauges look at

    def _watch(self) -> None:
        gauges = self.gauges
        gauges["cache"].leave = self._left_cache
        gauges["coalesce"].enter = self._passes_cache
        gauges["coalesce"].leave = self._is_kept
        gauges["retry"].leave = self._left_retry
        gauges["throttle"].enter = self._tries
        gauges["rate_limit"].leave = self._is_judged
        gauges["breaker"].enter = self._passes_rate_limit
        gauges["adaptive_limit"].enter = lambda call: self.era
        gauges["adaptive_limit"].leave = self._left_dependency
        gauges["hedge"].enter = self._passes_bulkhead
        gauges["hedge"].leave = self._left_hedge
        gauges["deadline"].enter = lambda call: self.clock()
        gauges["deadline"].leave = self._left_deadline
        gauges["timeout"].enter = self._races
        gauges["timeout"].leave = self._raced

    def complain(self, about: str) -> None:
        self.complaints[about] += 1

    def _passes_cache(self, call: Call) -> None:
        call.behind_cache = True

    def _is_kept(self, call: Call, token: None, answer: Answer | None, error: BaseException | None) -> None:
        if answer is not None:
            self.tick += 1
            self.kept[call.way, call.key] = self.clock(), self.tick

    def _left_cache(self, call: Call, token: None, answer: Answer | None, error: BaseException | None) -> None:
        if answer is not None:
            self.good[call.way, call.key] = self.clock()
        elif isinstance(error, Exception):
            call.failed = True

    def _tries(self, call: Call) -> None:
        call.tries += 1
        if call.tries > 3:
            self.complain("a fourth attempt of a retry")

    def _left_retry(self, call: Call, token: None, answer: Answer | None, error: BaseException | None) -> None:
        self.recovered += call.tries > 1 and answer is not None and not answer.spoilt

    def _is_judged(self, call: Call, token: None, answer: Answer | None, error: BaseException | None) -> None:
        if answer is not None or (isinstance(error, Exception) and not isinstance(error, RefusedError)):
            self._judge(not isinstance(error, OverloadedError))

    def _judge(self, accepted: bool) -> None:
        self.judged.append((self.clock(), accepted))
        if len(self.judged) > 400:
            del self.judged[:200]

    def _passes_rate_limit(self, call: Call) -> None:
        """A bucket that leaks as fast as the rate: it must never run over."""
        now = self.clock()
        level, since = self.levels[call.tenant]
        level = max(0.0, level - (now - since) * RATE) + 1
        self.levels[call.tenant] = level, now
        if level > BURST + 1e-3:
            self.complain("more calls passed the rate limit than it allows")

    def _left_dependency(self, call: Call, era: int, answer: Answer | None, error: BaseException | None) -> None:
        """What the breaker will do in the next moment: between here and there nothing can happen."""
        if era != self.era:
            self.late += 1
        elif answer is not None:
            self.verdicts[Outcome.FAILURE if answer.spoilt else Outcome.SUCCESS] += 1
        elif isinstance(error, RefusedError):
            self.verdicts[Outcome.IGNORED] += 1
        elif isinstance(error, Exception):
            self.verdicts[Outcome.FAILURE if isinstance(error, OSError) else Outcome.SUCCESS] += 1
        else:
            self.verdicts[Outcome.CANCELLED] += 1

    def _passes_bulkhead(self, call: Call) -> None:
        call.attempts = call.winner = 0
        if self.gauges["hedge"].running > PLACES:
            self.complain("more calls in the bulkhead than it has places")

    def _races(self, call: Call) -> tuple[int, float]:
        call.racing += 1
        call.attempts += 1
        return call.attempts, self.clock()

    def _raced(self, call: Call, token: tuple[int, float], answer: Answer | None, error: BaseException | None) -> None:
        number, began = token
        call.racing -= 1
        if answer is not None:
            call.winner = call.winner or number
        self._was_in_time("timeout", TIMEOUT, began, error)

    def _left_deadline(self, call: Call, began: float, answer: Answer | None, error: BaseException | None) -> None:
        self._was_in_time("deadline", DEADLINE, began, error)

    def _was_in_time(self, name: str, seconds: float, began: float, error: BaseException | None) -> None:
        elapsed = self.clock() - began
        if elapsed > seconds + CLEANING_UP + ROUNDING:
            self.complain(f"a call that went on when its {name} was over")
        if isinstance(error, TimeoutError) and str(error).startswith(name) and elapsed < seconds - ROUNDING:
            self.complain(f"an error of the {name} before its time")

    def _left_hedge(self, call: Call, token: None, answer: Answer | None, error: BaseException | None) -> None:
        if call.racing:
            self.complain("an attempt of a hedge runs when its call has ended")
        if call.attempts > 1:
            self.hedged += 1
            if answer is not None:
                self.wins[call.winner - 1] += 1
