"""The plot of the demo: which outages come, when, and the settings that its length asks for. It knows nothing of I/O."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..breaker import CircuitBreaker
from ..core.conditions import FailureRate, SlowCallRate
from ..core.eras import Trials
from ..core.outcomes import ErrorRule, ResultRule
from ..core.windows import LastSeconds

DEFAULT_DURATION = 20.0  # seconds
LEAST_DURATION = 8.0  # below this an outage is over before enough calls have seen it
MOST_DURATION = 300.0
CALLS_PER_SECOND = 40
CALLER_TIMEOUT = 0.8  # seconds
SLOW_AFTER = 0.25  # seconds
TRIP_RATE = 0.5
TRIALS = 2


class Fault(StrEnum):
    """A way in which a service goes down."""

    REFUSED = "connection refused"
    ERRORS = "answers 500"
    HANGING = "hanging"
    SLOW = "slow"

    @property
    def told(self) -> str:
        """What has been done to the service, in words."""
        return _TOLD[self]


_TOLD = {
    Fault.REFUSED: "process killed: connections are refused",
    Fault.ERRORS: "answers every payment with status 500",
    Fault.HANGING: "takes payments and never answers",
    Fault.SLOW: "takes half a second and more for an answer",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """Every outage has an equal share of the time: fine for a while, broken for a while, the rest to recover."""

    duration: float = DEFAULT_DURATION

    def __post_init__(self) -> None:
        if not LEAST_DURATION <= self.duration <= MOST_DURATION:
            allowed = f"at least {LEAST_DURATION:g} and at most {MOST_DURATION:g} seconds"
            raise ValueError(f"must be {allowed}, not {self.duration:g}")

    @property
    def share(self) -> float:
        """Seconds from the beginning of one act to that of the next."""
        return self.duration / len(Fault)

    @property
    def fine(self) -> float:
        """Seconds before the service breaks."""
        return 0.2 * self.share

    @property
    def broken(self) -> float:
        """Seconds for which it stays broken."""
        return 0.45 * self.share

    @property
    def patience(self) -> float:
        """Seconds, at most, to wait for the circuit to close after the service is back."""
        return self.share + 3.0

    @property
    def window(self) -> float:
        """Seconds that the conditions look back."""
        return 0.4 * self.share

    @property
    def open_for(self) -> float:
        """Seconds that the circuit stays open before it tries again."""
        return 0.16 * self.share

    def breaker(self, failure_on: ErrorRule, failure_if: ResultRule, random: Callable[[], float]) -> CircuitBreaker:
        """The breaker under show."""
        window = LastSeconds(self.window)
        return CircuitBreaker(
            "payments",
            trip=FailureRate(TRIP_RATE, window, minimum_calls=10)
            | SlowCallRate(TRIP_RATE, SLOW_AFTER, window, minimum_calls=10, count_in_flight=True),
            open_for=self.open_for,
            trials=Trials(TRIALS),
            failure_on=failure_on,
            failure_if=failure_if,
            random=random,
        )
