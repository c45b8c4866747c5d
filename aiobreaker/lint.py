"""What a pipeline can say about itself: a drawing of its order, and what in it contradicts itself.

Law: it knows policies by their traits only, and a rule says in one sentence what happens and what to do about it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, prod
from typing import Literal

Kind = Literal["breaker", "retry", "timeout", "limit", "hedge", "fallback", "cache", "coalesce", "chaos", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What others must know of a policy.

    Args:
        kind: what it is, as far as others care. A deadline is a timeout.
        words: what it does, in words, with its name.
        seconds: the most that a call inside it can take.
        attempts: how often it makes the call, at most.
        open_for: for how many seconds a breaker refuses.
        slow_after: after how many seconds a breaker takes a call for slow.
        max_wait: for how many seconds a caller may wait in line.
        hides: whether it answers in place of every error.
    """

    kind: Kind
    words: str
    seconds: float = inf
    attempts: float = 1
    open_for: float = inf
    slow_after: float = inf
    max_wait: float = 0.0
    hides: bool = False


def drawing(traits: Sequence[Traits]) -> str:
    """The order, from the outermost to the function."""
    words = [*(each.words for each in traits), "the function"]
    return "\n".join(f"{'   ' * (depth - 1) + '└─ ' if depth else ''}{each}" for depth, each in enumerate(words))


Rule = Callable[[Sequence[Traits]], Iterator[str]]


def contradictions(traits: Sequence[Traits]) -> list[str]:
    """What the rules have against this order, the outermost first."""
    return [found for rule in _RULES for found in rule(traits)]


def _pairs(traits: Sequence[Traits], outer: Kind, inner: Kind) -> Iterator[tuple[int, int]]:
    """Where a policy of one kind stands around one of another kind."""
    for i, j in combinations(range(len(traits)), 2):
        if (traits[i].kind, traits[j].kind) == (outer, inner):
            yield i, j


def _timeout_outside_breaker(traits: Sequence[Traits]) -> Iterator[str]:
    for i, j in _pairs(traits, "timeout", "breaker"):
        if not any(each.kind == "timeout" and each.seconds < traits[i].seconds for each in traits[j + 1 :]):
            yield (
                f"{traits[i].words} stands outside of {traits[j].words}: a call that it ends is cancelled there, "
                "which is no failure. Put a shorter timeout inside the breaker."
            )


def _timeout_longer_than_open_time(traits: Sequence[Traits]) -> Iterator[str]:
    for i, j in _pairs(traits, "breaker", "timeout"):
        if traits[j].seconds > traits[i].open_for:
            yield (
                f"{traits[j].words} is longer than {traits[i].open_for:g} s, for which {traits[i].words} stays open: a trial "
                "can hang for longer than the circuit was open. Shorten the timeout, or open for longer."
            )


def _retry_inside_breaker(traits: Sequence[Traits]) -> Iterator[str]:
    for i, j in _pairs(traits, "breaker", "retry"):
        yield (
            f"{traits[j].words} stands inside of {traits[i].words}: the breaker sees one call where there were "
            f"{traits[j].attempts:g}, and cannot stop them when it opens. Put the retry outside."
        )


def _fallback_that_hides(traits: Sequence[Traits]) -> Iterator[str]:
    for each in traits:
        if each.kind == "fallback" and each.hides:
            yield f"{each.words} hides every error, mistakes in your own code too. Name the errors that it is for."


def _fallback_inside(traits: Sequence[Traits]) -> Iterator[str]:
    for kind in ("breaker", "retry"):
        for i, j in _pairs(traits, kind, "fallback"):
            yield f"{traits[j].words} stands inside of {traits[i].words}, which does not see the errors that it answers."


def _too_many_attempts(traits: Sequence[Traits]) -> Iterator[str]:
    for i, j in _pairs(traits, "timeout", "timeout"):
        times = prod(each.attempts for each in traits[i:j] if each.kind == "retry")
        if times > 1 and times * traits[j].seconds > traits[i].seconds:
            yield (
                f"{times:g} attempts of up to {traits[j].seconds:g} s take up to {times * traits[j].seconds:g} s, more than "
                f"{traits[i].words} allows: the last ones are cut off. Shorten {traits[j].words}, or try less often."
            )


def _attempts_multiply(traits: Sequence[Traits]) -> Iterator[str]:
    several = [each for each in traits if each.kind in {"retry", "hedge"} and each.attempts > 1]
    if len(several) > 1:
        product = " x ".join(f"{each.attempts:g}" for each in several)
        yield (
            f"attempts multiply: {product} makes up to {prod(each.attempts for each in several):g} calls of one. Leave one of "
            f"{', '.join(each.words for each in several)}."
        )


def _waits_too_long(traits: Sequence[Traits]) -> Iterator[str]:
    for i, j in _pairs(traits, "timeout", "limit"):
        if inf > traits[j].max_wait >= traits[i].seconds:
            yield (
                f"{traits[j].words} lets callers wait for {traits[j].max_wait:g} s, and {traits[i].words} ends the call "
                "before. Wait for less."
            )


def _waiting_counts_as_slow(traits: Sequence[Traits]) -> Iterator[str]:
    for i, j in _pairs(traits, "breaker", "limit"):
        if traits[j].max_wait >= traits[i].slow_after:
            yield (
                f"time in the line of {traits[j].words} counts as slowness in {traits[i].words}, from "
                f"{traits[i].slow_after:g} s. Put the line outside the breaker, or wait for less."
            )


_RULES: tuple[Rule, ...] = (
    _timeout_outside_breaker,
    _timeout_longer_than_open_time,
    _retry_inside_breaker,
    _fallback_that_hides,
    _fallback_inside,
    _too_many_attempts,
    _attempts_multiply,
    _waits_too_long,
    _waiting_counts_as_slow,
)
