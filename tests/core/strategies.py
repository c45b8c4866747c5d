"""Random settings for property tests."""

from hypothesis import strategies as st

from aiobreaker.core.conditions import Condition, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from aiobreaker.core.windows import LastCalls, LastSeconds, Window

RATES = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 2 / 3, 0.9, 1.0])

windows: st.SearchStrategy[Window] = st.builds(LastCalls, st.integers(1, 8)) | st.builds(
    LastSeconds, st.sampled_from([1.0, 5.0, 10.0]), st.integers(1, 5)
)


@st.composite
def conditions(draw: st.DrawFn, in_flight: bool = False) -> Condition:
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
