"""From the settings of a vector to ours. What it does not know, it refuses: no setting is passed over by accident.

A setting that has no counterpart here is left out on purpose (`LEFT_OUT`). Then the fact holds all the same, or its vector is
listed among the contradictions.
"""

from dataclasses import dataclass
from math import inf, nextafter
from typing import Any

from aiobreaker import ConsecutiveFailures, Exponential, FailureCount, FailureRate, LastCalls, LastSeconds, SlowCallRate, Trials
from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import AnyOf, Condition, any_of
from aiobreaker.core.schedules import Schedule, Steps, schedule
from aiobreaker.core.windows import Window

ENDLESS = 10**9  # calls; a window or a minimum that no vector reaches
DEFAULT_OPEN_TIME = 30.0

KNOWN = {
    "config": {"trip", "slow", "open_s", "half", "cancel_as"},
    "trip": {"kind", "failures", "window", "period", "bucket", "min_calls", "rate", "compare"},
    "slow": {"over", "rate"},
    "half": {"kind", "k", "n", "rate", "compare", "permits", "lease", "max_s"},
    "open_s": {"initial", "factor", "max"},
}
LEFT_OUT = {
    ("trip", "on"): "we judge at every outcome, not at failures alone",
    ("trip", "lump"): "we count every failure, however close to the one before",
    ("half", "early"): "we always decide as soon as the result is certain",
    ("half", "permit"): "we want as many verdicts as the round has trials, and a trial without one gives its slot back",
    ("half", "then"): "time never closes a circuit here",
}


class InexpressibleError(Exception):
    """Our settings cannot say this: the library refuses them."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Our settings for one vector."""

    trip: AnyOf
    open_for: Schedule
    trials: Trials
    failure_on: type[BaseException]
    measures_only: bool
    slow_call: float

    @property
    def rules(self) -> Rules:
        """The same for the core."""
        return Rules(self.trip.conditions, self.open_for, 0.0, self.trials)


def setup(config: dict[str, Any]) -> Setup:
    """Our settings for this configuration. Raises InexpressibleError when the library refuses them."""
    _check_keys("config", config)
    trip, slow = config["trip"], config.get("slow", {})
    _check_keys("trip", trip)
    _check_keys("slow", slow)
    try:
        return Setup(
            trip=any_of(*_conditions(trip, slow)),
            open_for=_open_for(config.get("open_s", DEFAULT_OPEN_TIME)),
            trials=_trials(config.get("half", {"kind": "success_ratio", "k": 1, "n": 1})),
            failure_on=BaseException if config.get("cancel_as") == "failure" else Exception,
            measures_only=trip["kind"] == "never",
            slow_call=slow.get("over", inf) + 1,
        )
    except (ValueError, TypeError) as refused:
        raise InexpressibleError(str(refused)) from refused


def _check_keys(part: str, settings: dict[str, Any]) -> None:
    for key in settings:
        if key not in KNOWN[part] and (part, key) not in LEFT_OUT:
            raise KeyError(f"{part}.{key} is a setting that this translation does not know")


def _conditions(trip: dict[str, Any], slow: dict[str, Any]) -> list[Condition]:
    kind = trip["kind"]
    if kind == "consecutive":
        return [ConsecutiveFailures(trip["failures"])]
    window = _window(trip)
    if kind == "time_count":
        return [FailureCount(trip["failures"], window)]
    if kind not in ("count", "time", "tumbling", "never"):
        raise KeyError(f"trip.kind {kind!r} is a kind that this translation does not know")
    unreached = window.size if isinstance(window, LastCalls) else ENDLESS
    minimum = trip.get("min_calls", unreached)
    rates: list[Condition] = [FailureRate(_at_least(trip.get("rate", 1.0), trip), window, minimum)]
    return [*rates, SlowCallRate(slow["rate"], slow["over"], window, minimum)] if slow else rates


def _window(trip: dict[str, Any]) -> Window:
    if "window" in trip:
        return LastCalls(trip["window"])
    if trip["period"] is None:
        return LastCalls(ENDLESS)
    if trip["kind"] == "tumbling":
        return LastSeconds(trip["period"], buckets=1)  # the only bucket leaves as a whole: the counts start again
    if "bucket" in trip:
        return LastSeconds(trip["period"], buckets=round(trip["period"] / trip["bucket"]))
    return LastSeconds(trip["period"])


def _at_least(rate: float, settings: dict[str, Any]) -> float:
    """The rate that is reached at `>=`. Above a rate is the same as at the next larger number, or more."""
    return nextafter(rate, inf) if settings.get("compare") == ">" else rate


def _open_for(open_s: Any) -> Schedule:
    if isinstance(open_s, list):
        return Steps(*open_s)
    if isinstance(open_s, dict):
        _check_keys("open_s", open_s)
        return Exponential(open_s["initial"], open_s["factor"], open_s["max"])
    return schedule(open_s)


def _trials(half: dict[str, Any]) -> Trials:
    _check_keys("half", half)
    count = half["n"]
    return Trials(
        count,
        concurrent=half.get("permits", count),
        required=_required(half, count),
        lease=half.get("lease", half.get("max_s")),
    )


def _required(half: dict[str, Any], count: int) -> int:
    kind = half["kind"]
    if kind == "success_ratio":
        return int(half["k"])
    if kind == "failure_ratio":
        return count - int(half["k"]) + 1
    if kind == "rate":
        return successes_to_close(count, _at_least(half["rate"], half))
    raise KeyError(f"half.kind {kind!r} is a kind that this translation does not know")


def successes_to_close(count: int, failure_rate: float) -> int:
    """How many of `count` trials must succeed so that the failures stay below this rate."""
    failures_to_open = next(failures for failures in range(count + 2) if failures / count >= failure_rate)
    return count - failures_to_open + 1
