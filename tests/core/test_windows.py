"""Windows forget exactly at their edge, and cost the same however long they are."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.core.windows import CallMemory, LastCalls, LastSeconds, SecondsMemory, carry_over, remember


def test_the_last_calls_forget_the_call_before_the_last_n() -> None:
    memory = CallMemory(LastCalls(3))
    assert memory.take(1, 0.0, marked=True) == (1, 1)
    assert memory.counts(3) == (1, 3)
    assert memory.counts(4) == (0, 3)
    assert memory.roll_at == inf
    assert memory.history(4) == []


def test_a_call_memory_allocates_nothing_before_the_first_mark() -> None:
    memory = CallMemory(LastCalls(10**9))
    assert memory.counts(10**6)[0] == 0
    assert memory._marked is None


def test_an_entry_exactly_one_window_old_is_out() -> None:
    memory = SecondsMemory(LastSeconds(10.0))
    assert memory.take(1, 5.0, marked=True) == (1, 1)
    memory.expire(1, 14.999)
    assert memory.counts(1) == (1, 1)
    memory.expire(1, 15.0)
    assert memory.counts(1) == (0, 0)
    memory.expire(1, 15.0)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200), st.integers(1, 5))
def test_no_more_buckets_than_asked_for(steps: list[float], buckets: int) -> None:
    memory = SecondsMemory(LastSeconds(10.0, buckets=buckets))
    now = 0.0
    for number, step in enumerate(sorted(steps)):
        now += step % 4
        memory.take(number + 1, now, marked=True)
        assert memory._buckets is not None
        assert len(memory._buckets) <= buckets
        assert all(now < bucket.start + 10.0 for bucket in memory._buckets)


def test_what_is_known_of_marks_in_seconds_is_right_to_the_bucket() -> None:
    memory = SecondsMemory(LastSeconds(10.0))
    for number, now in [(1, 0.0), (2, 0.5), (3, 2.0)]:
        memory.take(number, now, marked=number != 1)
    assert memory.history(3) == [2, 3]
    assert remember(LastSeconds(5.0)).history(9) == []


def test_carry_over_between_calls_and_seconds() -> None:
    calls = CallMemory(LastCalls(5))
    for number in (2, 4, 6):
        calls.take(number, 0.0, marked=True)
    seconds = carry_over(calls, LastSeconds(10.0), 6, now=3.0)
    assert seconds.counts(6) == (3, 5)
    seconds.expire(6, 12.9)
    assert seconds.counts(6)[0] == 3
    back = carry_over(seconds, LastCalls(4), 6, now=4.0)
    assert back.counts(6) == (3, 4)
    longer = carry_over(seconds, LastSeconds(20.0), 6, now=4.0)
    longer.expire(6, 22.9)
    assert longer.counts(6)[0] == 3
    longer.expire(6, 23.0)
    assert longer.counts(6)[0] == 0


@pytest.mark.parametrize("window", [LastCalls(7), LastSeconds(60), LastSeconds(0.5)])
def test_a_window_says_what_it_is(window: LastCalls | LastSeconds) -> None:
    assert str(window) in {"the last 7 calls", "the last 60 seconds", "the last 0.5 seconds"}
