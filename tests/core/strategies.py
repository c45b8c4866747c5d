"""Random settings for property tests, and how many examples they try."""

import os

from hypothesis import strategies as st

from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import Condition, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from aiobreaker.core.eras import State, Trials
from aiobreaker.core.schedules import Exponential, Fixed, Schedule, Steps
from aiobreaker.core.windows import LastCalls, LastSeconds, Window

THOROUGHNESS = float(os.environ.get("THOROUGHNESS", "1"))


def examples(usual: int) -> int:
    """How many examples to try: so many, times what the environment variable THOROUGHNESS says."""
    return max(1, int(usual * THOROUGHNESS))


RATES = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 2 / 3, 0.9, 1.0])

call_windows: st.SearchStrategy[Window] = st.builds(LastCalls, st.integers(1, 8))
windows: st.SearchStrategy[Window] = call_windows | st.builds(LastSeconds, st.sampled_from([1.0, 5.0, 10.0]), st.integers(1, 5))
schedules: st.SearchStrategy[Schedule] = st.sampled_from([Fixed(10.0), Steps(1.0, 60.0), Exponential(2.0, 2.0, 16.0)])


@st.composite
def conditions(draw: st.DrawFn, in_flight: bool = False, windows: st.SearchStrategy[Window] = windows) -> Condition:
    kind = draw(st.sampled_from([ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate]))
    if kind is ConsecutiveFailures:
        return ConsecutiveFailures(draw(st.integers(1, 4)))
    window = draw(windows)
    most = window.size if isinstance(window, LastCalls) else 8
    number = draw(st.integers(1, most))
    if kind is FailureCount:
        return FailureCount(number, window)
    if kind is FailureRate:
        return FailureRate(draw(RATES), window, minimum_calls=number)
    return SlowCallRate(
        draw(RATES), draw(st.sampled_from([0.5, 1.0, 2.0])), window, minimum_calls=number, count_in_flight=in_flight
    )


@st.composite
def trials(draw: st.DrawFn) -> Trials:
    count = draw(st.integers(1, 4))
    return Trials(
        count,
        draw(st.integers(1, count)),
        draw(st.none() | st.integers(1, count)),
        draw(st.none() | st.sampled_from([2.0, 20.0])),
        draw(st.none() | st.integers(1, 3)),
    )


@st.composite
def rules(draw: st.DrawFn, in_flight: bool = False, windows: st.SearchStrategy[Window] = windows) -> Rules:
    """Settings with one or two conditions. With `in_flight` there is one more, which counts running calls.

    Then windows are over calls: one over seconds can be met by time alone, and nobody promises when that is seen.
    """
    kinds = conditions(in_flight, call_windows if in_flight else windows)
    trip = draw(st.lists(kinds, min_size=1, max_size=2))
    if in_flight:
        trip.append(SlowCallRate(draw(RATES), draw(st.sampled_from([0.5, 1.0, 2.0])), LastCalls(4), 2, count_in_flight=True))
    return Rules(tuple(trip), draw(schedules), draw(st.sampled_from([0.0, 0.5])), draw(trials()))


def other_rules(in_flight: bool = False) -> st.SearchStrategy[Rules]:
    """What a circuit may be reconfigured to. Running calls may begin or cease to count."""
    return rules(True) | rules(windows=call_windows) if in_flight else rules()


states = st.sampled_from(State)
