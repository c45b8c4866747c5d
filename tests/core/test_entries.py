"""What a cache keeps: exactly the most recently used, and each for its time."""

from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiobreaker.core.entries import Entries, Entry

KEYS = "abcde"


STEPS = st.tuples(st.sampled_from(["use", "use", "put", "drop", "evict", "evict"]), st.sampled_from(KEYS))


@given(steps=st.lists(STEPS, max_size=60))
@example(steps=[("evict", ""), ("use", "b"), ("evict", "")])
@example(steps=[("evict", ""), ("put", "b"), ("evict", "")])
def test_the_least_recently_used_goes_first(steps: list[tuple[str, str]]) -> None:
    entries = Entries(1)
    recent: list[str] = []  # the model: in order of their last use
    for what, key in [*(("put", key) for key in KEYS), *steps]:
        if what == "put":
            entry = Entry(key, None, 0.0)
            entries.use(entry)
            entries.by_key[key] = entry
            recent = [*(other for other in recent if other != key), key]
        elif what == "use" and key in recent:
            entries.use(entries.by_key[key])
            recent = [*(other for other in recent if other != key), key]
        elif what == "drop" and key in recent:
            del entries.by_key[key]
            recent.remove(key)
        elif what == "evict":
            oldest = entries.oldest()
            while oldest is not None and entries.by_key.get(str(oldest.key)) is not oldest:  # it has gone in another way
                oldest = entries.oldest()
            assert (None if oldest is None else oldest.key) == (recent[0] if recent else None)
            if oldest is not None:
                del entries.by_key[oldest.key]
                del recent[0]
    assert set(entries.by_key) == set(recent)


def test_the_entries_are_put_in_order_once_for_many_that_go() -> None:
    """Each sort serves for as many evictions as there are entries: the cost of one does not grow with them."""
    looks = 0

    class Counting(dict[object, Entry]):
        def values(self) -> object:  # type: ignore[override]
            nonlocal looks
            looks += 1
            return super().values()

    entries = Entries(100)
    entries.by_key = Counting()
    for number in range(10_100):
        entry = Entry(number, None, 0.0)
        entries.use(entry)
        entries.by_key[number] = entry
        if number >= 100:
            oldest = entries.oldest()
            assert oldest is not None
            assert oldest.key == number - 100
            del entries.by_key[oldest.key]
    assert looks <= 101


@pytest.mark.parametrize(("now", "serves"), [(4.999, False), (5.0, True), (19.999, True), (20.0, False)])
def test_an_entry_serves_from_when_it_was_kept_to_its_last_time(now: float, serves: bool) -> None:
    entry = Entry("key", "result", 5.0)
    entry.stale_until = 20.0
    assert entry.serves_stale(now) is serves


def test_an_entry_is_kept_as_it_was_given_and_has_not_been_used() -> None:
    entry = Entry("key", "result", 5.0)
    assert (entry.key, entry.result, entry.since, entry.used) == ("key", "result", 5.0, 0)


def test_what_has_never_been_used_goes_before_what_has() -> None:
    entries = Entries(4)
    kept = {key: Entry(key, None, 0.0) for key in "abcd"}
    entries.by_key.update(kept)
    entries.use(kept["b"])
    entries.use(kept["a"])
    found = [entries.oldest() for _ in range(4)]
    assert {id(entry) for entry in found[:2]} == {id(kept["c"]), id(kept["d"])}
    assert found[2:] == [kept["b"], kept["a"]]


def test_uses_are_numbered_and_those_that_were_no_hits_are_counted() -> None:
    entries = Entries(7)
    assert (entries.max_size, entries.n, entries.other_uses) == (7, 0, 0)
    first, second = Entry("a", None, 0.0), Entry("b", None, 0.0)
    entries.use(first)
    entries.n = first.used = entries.n + 1  # a hit
    entries.use(second)
    assert (first.used, second.used, entries.n, entries.other_uses) == (2, 3, 3, 2)


def test_an_entry_serves_nobody_before_it_is_complete() -> None:
    entry = Entry("key", "result", 5.0)
    assert entry.fresh_until == -inf
    assert not entry.serves_stale(5.0)


def test_of_nothing_none_is_the_oldest() -> None:
    entries = Entries(1)
    assert entries.oldest() is None
    entries.use(Entry("gone", None, 0.0))
    assert entries.oldest() is None
