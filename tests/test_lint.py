"""Every rule speaks where something contradicts itself, in a sentence that says what to do, and is silent just beside it."""

import itertools
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker
from aiobreaker.core.conditions import SlowCallRate
from aiobreaker.core.windows import LastCalls
from aiobreaker.lint import Traits, contradictions, drawing


def timeout(seconds: float, words: str = "timeout of {:g} s") -> Traits:
    return Traits(kind="timeout", words=words.format(seconds), seconds=seconds)


def deadline(seconds: float) -> Traits:
    return timeout(seconds, "deadline of {:g} s")


def retry(attempts: float = 3, seconds: float = inf) -> Traits:
    return Traits(kind="retry", words=f"retry 'again' (up to {attempts:g} attempts)", attempts=attempts, seconds=seconds)


def hedge(attempts: float = 2, delay: float = 0.0) -> Traits:
    return Traits(kind="hedge", words="hedge 'race' (a second call)", attempts=attempts, delay=delay)


def bulkhead(max_wait: float = 0.0) -> Traits:
    return Traits(kind="limit", words="bulkhead 'few' (10 at once)", max_wait=max_wait)


def rate_limit(max_wait: float = 0.0) -> Traits:
    return Traits(kind="limit", words="rate limit 'slowly' (5 per second)", max_wait=max_wait, per_attempt=True)


def fallback(hides: bool = False) -> Traits:
    return Traits(kind="fallback", words="fallback 'instead' (a value)", hides=hides)


def breaker(open_for: float = 30.0, slow_after: float = inf) -> Traits:
    return Traits(kind="breaker", words="circuit breaker 'db' (opens)", open_for=open_for, slow_after=slow_after)


CACHE = Traits(kind="cache", words="cache 'kept' (60 s)")
COALESCE = Traits(kind="coalesce", words="coalesce 'shared'")
OTHER = Traits(kind="other", words="<Mine>")

GOOD = [fallback(), deadline(10), retry(3), breaker(30), rate_limit(0.5), bulkhead(0.5), timeout(2)]


def test_the_documented_order_is_good() -> None:
    assert contradictions(GOOD) == []
    assert contradictions([GOOD[0], CACHE, COALESCE, *GOOD[1:]]) == []


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_leaving_some_of_it_out_is_good_as_long_as_a_timeout_is_inside(length: int) -> None:
    for some in itertools.combinations(GOOD[:-1], length):
        assert contradictions([*some, GOOD[-1]]) == []


def test_two_services_in_a_row_are_good() -> None:
    assert contradictions([*GOOD[:-1], replace(GOOD[3]), GOOD[-1]]) == []


# -- rule by rule


def test_a_timeout_outside_the_breaker() -> None:
    said = [
        (
            "Timeout of 2 s stands outside of circuit breaker 'db': a call that it ends is cancelled there, which is no "
            "failure. Put a shorter timeout inside the breaker."
        )
    ]
    assert contradictions([timeout(2), breaker()]) == said
    assert contradictions([timeout(2), OTHER, breaker(), timeout(2)]) == said, (
        "which of two that are equal ends it, nobody knows"
    )
    assert contradictions([deadline(10), timeout(2), breaker(), timeout(5)])[:1] == said, "of several the shortest"
    assert contradictions([timeout(2), breaker(), timeout(1.9)]) == []
    assert contradictions([timeout(2), breaker(slow_after=2)]) == [], "it counts as slow then"
    assert contradictions([timeout(2), breaker(slow_after=2.1)]) == said
    assert contradictions([breaker(), timeout(2)]) == []
    assert contradictions([timeout(inf), breaker()]) == []


def test_a_timeout_longer_than_the_open_time() -> None:
    assert contradictions([breaker(open_for=5), timeout(6)]) == [
        (
            "Timeout of 6 s is longer than the 5 s for which circuit breaker 'db' stays open: a trial can hang for longer than "
            "the circuit was open. Shorten the timeout, or open for longer."
        )
    ]
    assert contradictions([breaker(open_for=5), timeout(5)]) == []
    assert contradictions([breaker(open_for=5), timeout(6), timeout(4)]) == [], "the shorter one ends it"
    assert contradictions([breaker(open_for=5), timeout(inf)]) == []


def test_a_retry_inside_the_breaker() -> None:
    said = (
        "Retry 'again' stands inside of circuit breaker 'db': the breaker sees one call where there were up to 3, and cannot "
        "stop them when it opens. Put the retry outside."
    )
    assert contradictions([breaker(), retry()]) == [said]
    assert contradictions([breaker(), retry(inf)]) == [said.replace("up to 3", "any number")]
    assert contradictions([retry(), breaker()]) == []
    assert contradictions([breaker(), retry(1)]) == []


def test_a_fallback_that_hides_every_error() -> None:
    assert contradictions([fallback(hides=True), breaker()]) == [
        "Fallback 'instead' hides every error, mistakes in your own code too. Name the errors that it is for."
    ]
    assert contradictions([fallback(), breaker()]) == []
    assert contradictions([replace(OTHER, hides=True)]) == []


@pytest.mark.parametrize(("outer", "name"), [(breaker(), "circuit breaker 'db'"), (retry(), "retry 'again'")])
def test_a_fallback_inside(outer: Traits, name: str) -> None:
    assert contradictions([outer, OTHER, fallback()]) == [
        f"Fallback 'instead' stands inside of {name}, which does not see the errors that it answers. Put the fallback outside."
    ]
    assert contradictions([fallback(), OTHER, outer]) == []


def test_a_fallback_inside_a_cache() -> None:
    assert contradictions([CACHE, fallback()]) == [
        (
            "Fallback 'instead' stands inside of cache 'kept', which keeps its answers as if they were the dependency's own. "
            "Put the fallback outside."
        )
    ]
    assert contradictions([fallback(), CACHE]) == []


def test_answers_inside_the_breaker_that_are_not_the_dependencys() -> None:
    assert contradictions([breaker(), CACHE]) == [
        (
            "Cache 'kept' stands inside of circuit breaker 'db': what it answers counts as a success of the dependency, which "
            "was not asked, and while the circuit is open it cannot answer. Put the cache outside."
        )
    ]
    assert contradictions([breaker(), COALESCE]) == [
        (
            "Coalesce 'shared' stands inside of circuit breaker 'db': one failure counts once for each caller who shares it. "
            "Put the breaker inside."
        )
    ]
    assert contradictions([CACHE, COALESCE, breaker()]) == []


def test_attempts_that_take_longer_than_the_deadline() -> None:
    said = [
        (
            "3 attempts of up to 4 s take up to 12 s, more than deadline of 10 s allows: the last are cut off. "
            "Shorten timeout of 4 s, or try less often."
        )
    ]
    assert contradictions([deadline(10), retry(), timeout(4)]) == said
    assert contradictions([deadline(10), retry(), breaker(), bulkhead(), timeout(4)]) == said
    assert contradictions([deadline(12), retry(), timeout(4)]) == []
    assert contradictions([deadline(10), retry(2), timeout(4)]) == []
    assert contradictions([deadline(10), timeout(4)]) == []
    assert contradictions([deadline(10), retry()]) == []
    assert contradictions([retry(), deadline(10), timeout(4)]) == []
    assert contradictions([deadline(10), retry(inf), timeout(4)]) == [], "until time is up, on purpose"


def test_only_what_can_really_take_so_long_is_too_long() -> None:
    assert contradictions([deadline(10), timeout(9), retry(), timeout(3)]) == []
    (said,) = contradictions([deadline(20), timeout(8), retry(), timeout(3)])
    assert said.startswith("3 attempts of up to 3 s take up to 9 s, more than timeout of 8 s allows")
    assert contradictions([deadline(10), retry(), timeout(4), timeout(2)]) == []


def test_a_retry_with_a_time_of_its_own_is_judged_by_it() -> None:
    assert contradictions([deadline(10), retry(10, seconds=8), timeout(2)]) == []
    assert contradictions([deadline(10), retry(inf, seconds=8), timeout(2)]) == []
    assert contradictions([deadline(10), retry(inf, seconds=15), timeout(2)]) == [
        (
            "Retry 'again' may begin attempts for 15 s, longer than deadline of 10 s allows: the last are cut off. "
            "Shorten retry 'again', or try less often."
        )
    ]


def test_retries_in_retries_multiply_the_time_too() -> None:
    said = contradictions([deadline(10), retry(2), retry(3), timeout(2)])
    assert said[0].startswith("6 attempts of up to 2 s take up to 12 s, more than deadline of 10 s allows")
    assert len(said) == 2


def test_a_timeout_that_is_never_reached() -> None:
    assert contradictions([deadline(5), bulkhead(), timeout(6)]) == [
        "Timeout of 6 s can never end a call: deadline of 5 s around it is over first. Make it shorter."
    ]
    assert contradictions([deadline(5), bulkhead(), timeout(5)]) == []
    assert contradictions([deadline(5), timeout(inf)]) == []


def test_attempts_that_multiply() -> None:
    assert contradictions([retry(3), hedge(2)]) == [
        "Attempts multiply: retry 'again' and hedge 'race' make up to 3 x 2 = 6 calls of one. Keep one of them."
    ]
    assert contradictions([retry(inf), retry(2)]) == [
        "Attempts multiply without limit: retry 'again' and retry 'again' stand around one another. Keep one of them."
    ]
    assert contradictions([retry(3), hedge(1)]) == []
    assert contradictions([retry(3)]) == []


@pytest.mark.parametrize(
    ("inner", "names", "calls"),
    [
        ([retry(3)], "retry 'again'", "up to 3 calls"),
        ([hedge(2)], "hedge 'race'", "up to 2 calls"),
        ([OTHER, retry(inf)], "retry 'again'", "any number of calls"),
    ],
)
def test_attempts_that_pass_a_limit_together(inner: list[Traits], names: str, calls: str) -> None:
    assert contradictions([rate_limit(), *inner]) == [
        (
            f"Rate limit 'slowly' stands outside of {names}: it lets one call pass, and {calls} reach the dependency. "
            "Put the limit inside."
        )
    ]
    assert contradictions([*inner, rate_limit()]) == []
    assert contradictions([bulkhead(), *inner]) == [], "one at a time is still one at a time"
    assert contradictions([rate_limit(), retry(1)]) == []


def test_a_line_longer_than_the_timeout() -> None:
    assert contradictions([deadline(5), timeout(3), bulkhead(max_wait=3)]) == [
        "Bulkhead 'few' lets callers wait for 3 s, and timeout of 3 s ends the call before. Wait for less."
    ]
    assert contradictions([timeout(3), bulkhead(max_wait=2.9)]) == []
    assert contradictions([bulkhead(max_wait=3), timeout(3)]) == []
    assert contradictions([timeout(3), bulkhead(max_wait=inf)]) == [], "as long as there is time"


def test_a_line_that_looks_like_slowness() -> None:
    assert contradictions([breaker(slow_after=2), bulkhead(max_wait=2)]) == [
        (
            "Time in the line of bulkhead 'few' counts as slowness in circuit breaker 'db', from 2 s. "
            "Put the line outside the breaker, or wait for less."
        )
    ]
    assert contradictions([breaker(slow_after=2), bulkhead(max_wait=1.9)]) == []
    assert contradictions([bulkhead(max_wait=2), breaker(slow_after=2)]) == []


def test_a_hedge_that_never_begins() -> None:
    assert contradictions([timeout(2), hedge(delay=2)]) == [
        "Hedge 'race' waits for 2 s before its second call, and timeout of 2 s ends the call before. Wait for less."
    ]
    assert contradictions([timeout(2), hedge(delay=1.9)]) == []
    assert contradictions([hedge(delay=2), timeout(2)]) == []


def test_a_hedge_that_joins_itself() -> None:
    assert contradictions([hedge(), OTHER, COALESCE]) == [
        (
            "Hedge 'race' stands outside of coalesce 'shared': its second call joins the first in place of racing it. "
            "Put the hedge inside."
        )
    ]
    assert contradictions([COALESCE, hedge()]) == []


def test_the_same_twice() -> None:
    same, limit, mine = breaker(), bulkhead(), replace(OTHER)
    assert contradictions([same, OTHER, same, same]) == [
        (
            "Circuit breaker 'db' stands here twice: a failure counts twice, and a trial that the outer one admits, the inner "
            "one can refuse. Leave one out."
        )
    ]
    assert contradictions([limit, limit]) == [
        "Bulkhead 'few' stands here twice: each call takes from it twice, and can stand in its own way. Leave one out."
    ]
    assert contradictions([same, replace(same), limit, replace(limit), mine, mine]) == [], "alike is not the same"


# -- all together


def test_what_is_found_is_sorted_by_rule_and_then_from_the_outside_in() -> None:
    first, second = (Traits(kind="breaker", words=f"breaker {name}", open_for=1) for name in "ab")
    found = contradictions([fallback(hides=True), first, second, retry(), timeout(2)])
    assert [said.split(",")[0].split(":")[0] for said in found] == [
        "Timeout of 2 s is longer than the 1 s for which breaker a stays open",
        "Timeout of 2 s is longer than the 1 s for which breaker b stays open",
        "Retry 'again' stands inside of breaker a",
        "Retry 'again' stands inside of breaker b",
        "Fallback 'instead' hides every error",
    ]


def some(kind: st.SearchStrategy[Traits]) -> st.SearchStrategy[list[Traits]]:
    return st.lists(kind, min_size=1, max_size=8)


numbers = st.sampled_from([0.5, 1.0, 2.0, 5.0, inf])
anything = st.one_of(
    st.builds(timeout, numbers),
    st.builds(retry, st.sampled_from([1, 2, 3, inf]), numbers),
    st.builds(hedge, st.sampled_from([1, 2]), numbers),
    st.builds(bulkhead, numbers),
    st.builds(rate_limit, numbers),
    st.builds(fallback, st.booleans()),
    st.builds(breaker, numbers, numbers),
    st.sampled_from([CACHE, COALESCE, OTHER]),
)


@given(some(anything))
def test_every_finding_is_a_sentence(traits: list[Traits]) -> None:
    for said in contradictions(traits):
        assert not said[0].islower()
        assert said.endswith(".")
        assert " inf" not in said
        assert "nan" not in said
    assert len(drawing(traits).splitlines()) == len(traits) + 1


def worst(traits: list[Traits]) -> float:
    """The most seconds that they can take, as far as the traits tell."""
    if not traits:
        return inf
    outermost, *inside = traits
    seconds = outermost.attempts * worst(inside) if outermost.kind == "retry" else worst(inside)
    return min(seconds, outermost.seconds)


@given(some(anything))
def test_what_is_too_long_is_found_at_every_timeout_and_nowhere_else(traits: list[Traits]) -> None:
    too_long = [each for i, each in enumerate(traits) if each.kind == "timeout" and inf > worst(traits[i + 1 :]) > each.seconds]
    found = [said for said in contradictions(traits) if "are cut off" in said or "can never end a call" in said]
    assert len(found) == len(too_long)
    assert all(each.name in said for each, said in zip(too_long, found, strict=True))


# -- words


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("timeout of 2 s", "timeout of 2 s"),
        ("retry 'a' (3 attempts)", "retry 'a'"),
        ("retry 'a (b)' (3 attempts (or so))", "retry 'a (b)'"),
        ("bulkhead 'a) (b'", "bulkhead 'a) (b'"),
        ("bulkhead 'a)' (10 at once)", "bulkhead 'a)'"),
        ("Mine(x=1)", "Mine(x=1)"),
        ("(all)", "(all)"),
        ("odd)", "odd)"),
        ("", ""),
    ],
)
def test_sentences_do_without_the_brackets_at_the_end(words: str, name: str) -> None:
    assert Traits(kind="other", words=words).name == name


def test_a_breakers_traits() -> None:
    assert CircuitBreaker("db").traits == Traits(
        kind="breaker", words="circuit breaker 'db' (opens for 30 s on 5 failures in a row)", open_for=30.0
    )
    slow = SlowCallRate(0.5, slower_than=2, window=LastCalls(10))
    assert CircuitBreaker("db", trip=slow, open_for=5).traits.slow_after == 2.0
