"""Windows to the last call, second and bucket, and what is left of a memory that goes on under another window."""

from math import inf

import pytest

from aiobreaker.core.windows import CallMemory, LastCalls, LastSeconds, Memory, SecondsMemory, carry_over, remember


def filled(window: LastCalls | LastSeconds, marked: dict[float, str]) -> tuple[Memory, int]:
    """A memory that has taken in calls (x: marked, .: not) at these times; and how many there were."""
    memory, number = remember(window), 0
    for now, calls in marked.items():
        for call in calls:
            number += 1
            memory.take(number, now, call == "x")
    return memory, number


def test_calls_leave_the_last_n_one_by_one() -> None:
    memory = CallMemory(LastCalls(3))
    answers = [memory.take(number, 0.0, mark == "x") for number, mark in enumerate("x.xx...", start=1)]
    assert answers == [(1, 1), (1, 2), (2, 3), (2, 3), (2, 3), (1, 3), (0, 3)]


def test_calls_up_to_the_origin_are_not_in_it() -> None:
    calls = remember(LastCalls(3), origin=10)
    assert calls.counts(10) == (0, 0)
    assert calls.take(11, 0.0, True) == (1, 1)
    assert calls.counts(14) == (0, 3)
    seconds = remember(LastSeconds(10), origin=10)
    assert seconds.counts(10) == (0, 0)
    assert seconds.take(11, 0.0, False) == (0, 1)
    assert seconds.take(12, 0.0, True) == (1, 2)


def test_marks_may_be_handed_over_later() -> None:
    calls = remember(LastCalls(3))
    calls.take_marks([2, 3])
    calls.take_marks([5])
    assert calls.history(5) == [3, 5]
    assert calls.counts(6) == (1, 3)
    seconds, number = filled(LastSeconds(10), {0.0: ".", 2.0: "x", 5.0: "x"})
    seconds.take_marks([4, 5])
    seconds.take_marks([6])
    assert seconds.counts(number + 3) == (5, 6)
    assert seconds.history(number + 3) == [2, 3, 4, 5, 6]
    seconds.expire(number + 3, 12.0)
    assert seconds.counts(number + 3) == (4, 4), "they belong to the newest bucket"
    seconds.expire(number + 3, 15.0)
    assert seconds.counts(number + 3) == (0, 0)


def test_a_memory_of_seconds_without_calls_has_no_place_for_marks() -> None:
    seconds = SecondsMemory(LastSeconds(10))
    seconds.take_marks([1, 2])
    assert seconds.counts(2) == (0, 2)


def test_a_bucket_is_as_wide_as_its_share_of_the_span_and_opens_at_its_first_call() -> None:
    memory = SecondsMemory(LastSeconds(10.0, buckets=5))
    assert memory.roll_at == -inf
    memory.take(1, 1.0, True)
    assert memory.roll_at == 3.0
    memory.take(2, 2.999, True)
    assert memory.roll_at == 3.0, "the same bucket"
    memory.take(3, 3.0, True)
    assert memory.roll_at == 5.0, "the next one"
    memory.take(4, 10.5, True)
    assert memory.roll_at == 11.0, "the first one leaves before the newest is full"
    memory.expire(4, 10.999)
    assert memory.counts(4) == (4, 4)
    memory.expire(4, 11.0)
    assert memory.counts(4) == (2, 2), "it leaves as a whole"
    memory.expire(4, 13.0)
    assert memory.counts(4) == (1, 1)
    memory.take(5, 20.5, False)
    assert memory.counts(5) == (0, 1)


def test_history_tells_the_marked_calls_of_each_bucket() -> None:
    memory, number = filled(LastSeconds(10), {0.0: ".xx", 2.0: "..", 4.0: "xxx"})
    assert memory.history(number) == [2, 3, 6, 7, 8]
    calls, number = filled(LastCalls(4), {0.0: "x.xx.x"})
    assert calls.history(number) == [3, 4, 6]
    assert calls.history(number + 1) == [4, 6]


@pytest.mark.parametrize("window", [LastSeconds(10), LastSeconds(30, buckets=3)], ids=str)
def test_seconds_go_on_under_other_seconds_with_the_times_they_have(window: LastSeconds) -> None:
    old, number = filled(LastSeconds(20), {0.0: "x.", 5.0: ".x.x", 9.0: "x"})
    new = carry_over(old, window, number, 9.0)
    assert new.counts(number) == (4, 7)
    for start, counts in [(0.0, (3, 5)), (5.0, (1, 1)), (9.0, (0, 0))]:
        before = new.counts(number)
        new.expire(number, start + window.span - 0.001)
        assert new.counts(number) == before
        new.expire(number, start + window.span)
        assert new.counts(number) == counts
    assert old.counts(number) == (4, 7), "what it was taken from is not changed"


def test_what_has_left_the_old_window_does_not_come_back_under_a_longer_one() -> None:
    old, number = filled(LastSeconds(10), {0.0: "xx", 5.0: "x."})
    new = carry_over(old, LastSeconds(100), number, 10.0)
    assert new.counts(number) == (1, 2)
    assert new.take(number + 1, 10.0, True) == (2, 3)


def test_calls_go_on_under_seconds_as_if_they_were_made_now() -> None:
    old, number = filled(LastCalls(5), {0.0: "xx.x..x"})
    new = carry_over(old, LastSeconds(10, buckets=2), number, 100.0)
    assert new.counts(number) == (2, 5)
    assert new.roll_at == 105.0
    assert new.take(number + 1, 104.999, True) == (3, 6)
    assert new.take(number + 2, 105.0, True) == (4, 7)
    new.expire(number + 2, 110.0)
    assert new.counts(number + 2) == (1, 1), "and leave together with what came right after"
    assert new.history(number + 2) == [number + 2]


def test_seconds_go_on_under_calls_as_the_last_ones_of_their_buckets() -> None:
    old, number = filled(LastSeconds(10), {0.0: "x..", 2.0: ".xx."})
    new = carry_over(old, LastCalls(6), number, 3.0)
    assert new.counts(number) == (3, 6)
    assert new.history(number) == [3, 6, 7]
    assert carry_over(old, LastCalls(2), number, 3.0).counts(number) == (2, 2)
    assert carry_over(old, LastCalls(9), number, 11.0).counts(number) == (2, 4)


def test_windows_of_calls_shrink_and_grow() -> None:
    old, number = filled(LastCalls(5), {0.0: "xx.x..x"})
    shorter, longer = carry_over(old, LastCalls(3), number, 0.0), carry_over(old, LastCalls(9), number, 0.0)
    assert shorter.history(number) == [7]
    assert shorter.counts(number) == (1, 3)
    assert longer.history(number) == [4, 7]
    assert longer.counts(number) == (2, 5), "it knows no more than the old one did"
    assert longer.counts(number + 4) == (2, 9)
    assert longer.counts(number + 6) == (1, 9)


def test_an_empty_memory_goes_on_empty() -> None:
    for old in (LastCalls(3), LastSeconds(5)):
        for window in (LastCalls(4), LastSeconds(6)):
            new = carry_over(remember(old, origin=7), window, 7, 1.0)
            assert new.counts(7) == (0, 0)
            assert new.history(7) == []
            assert new.take(8, 1.5, True) == (1, 1)
