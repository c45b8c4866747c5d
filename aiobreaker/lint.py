"""What a pipeline can say about itself: a drawing of its order, and what in it contradicts itself.

Law: it knows policies by their traits only, and a rule says in plain words what happens and what to do about it.
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
        words: what it does, in words, with its name. Brackets at the end are for the drawing; sentences do without.
        seconds: the most that a call inside it can take; of a retry, for how long its attempts may begin.
        attempts: how often it makes the call, at most; infinity if only time ends it.
        delay: after how many seconds at the earliest a hedge makes its second call.
        open_for: for how many seconds a breaker refuses.
        slow_after: after how many seconds a breaker takes a call for slow.
        max_wait: for how many seconds a caller may wait in line.
        per_attempt: whether it must see every single attempt to keep what it promises, as a rate limit must.
        hides: whether it answers in place of every error.
    """

    kind: Kind
    words: str
    seconds: float = inf
    attempts: float = 1
    delay: float = 0.0
    open_for: float = inf
    slow_after: float = inf
    max_wait: float = 0.0
    per_attempt: bool = False
    hides: bool = False

    @property
    def name(self) -> str:
        """The words without the brackets at their end."""
        depth = 0
        for place in range(len(self.words) - 1, 0, -1):
            depth += (self.words[place] == ")") - (self.words[place] == "(")
            if not depth:
                return self.words[: place - 1] if self.words[place - 1 : place + 1] == " (" else self.words
        return self.words


def drawing(traits: Sequence[Traits]) -> str:
    """The order, from the outermost to the function."""
    words = [*(" ".join(each.words.split()) for each in traits), "the function"]
    return "\n".join(f"{'   ' * (depth - 1) + '└─ ' if depth else ''}{each}" for depth, each in enumerate(words))


def contradictions(traits: Sequence[Traits]) -> list[str]:
    """What the rules have against this order, rule by rule, the outermost first. What stands there twice has one `Traits`."""
    return [found[:1].upper() + found[1:] for rule in _RULES for found in rule(traits)]


Rule = Callable[[Sequence[Traits]], Iterator[str]]


def _pairs(traits: Sequence[Traits], outer: Kind, inner: Kind) -> Iterator[tuple[Traits, Traits]]:
    """What policies of one kind stand around which of another kind."""
    return ((one, two) for one, two in combinations(traits, 2) if (one.kind, two.kind) == (outer, inner))


def _around(traits: Sequence[Traits], kind: Kind) -> Iterator[tuple[Sequence[Traits], Traits, Sequence[Traits]]]:
    """Each policy of a kind, between those outside and those inside of it."""
    return ((traits[:i], each, traits[i + 1 :]) for i, each in enumerate(traits) if each.kind == kind)


def _shortest(traits: Sequence[Traits]) -> Traits | None:
    """The timeout among them that is over first."""
    return min((each for each in traits if each.kind == "timeout"), key=lambda each: each.seconds, default=None)


def _and(names: Sequence[Traits]) -> str:
    return " and ".join(each.name for each in names)


def _timeout_outside_breaker(traits: Sequence[Traits]) -> Iterator[str]:
    for outside, breaker, inside in _around(traits, "breaker"):
        outer, inner = _shortest(outside), _shortest(inside)
        if outer is None or outer.seconds == inf or breaker.slow_after <= outer.seconds:  # it knows such a call as slow
            continue
        if inner is None or inner.seconds >= outer.seconds:
            yield (
                f"{outer.name} stands outside of {breaker.name}: a call that it ends is cancelled there, "
                "which is no failure. Put a shorter timeout inside the breaker."
            )


def _timeout_longer_than_open_time(traits: Sequence[Traits]) -> Iterator[str]:
    for _, breaker, inside in _around(traits, "breaker"):
        timeout = _shortest(inside)
        if timeout is not None and inf > timeout.seconds > breaker.open_for:
            yield (
                f"{timeout.name} is longer than the {breaker.open_for:g} s for which {breaker.name} stays open: a trial "
                "can hang for longer than the circuit was open. Shorten the timeout, or open for longer."
            )


def _retry_inside_breaker(traits: Sequence[Traits]) -> Iterator[str]:
    for breaker, retry in _pairs(traits, "breaker", "retry"):
        if retry.attempts > 1:
            several = "any number" if retry.attempts == inf else f"up to {retry.attempts:g}"
            yield (
                f"{retry.name} stands inside of {breaker.name}: the breaker sees one call where there were {several}, "
                "and cannot stop them when it opens. Put the retry outside."
            )


def _fallback_that_hides(traits: Sequence[Traits]) -> Iterator[str]:
    for each in traits:
        if each.kind == "fallback" and each.hides:
            yield f"{each.name} hides every error, mistakes in your own code too. Name the errors that it is for."


def _fallback_inside(traits: Sequence[Traits]) -> Iterator[str]:
    for outer in ("breaker", "retry"):
        for one, fallback in _pairs(traits, outer, "fallback"):
            yield (
                f"{fallback.name} stands inside of {one.name}, which does not see the errors that it answers. "
                "Put the fallback outside."
            )
    for cache, fallback in _pairs(traits, "cache", "fallback"):
        yield (
            f"{fallback.name} stands inside of {cache.name}, which keeps its answers as if they were the dependency's own. "
            "Put the fallback outside."
        )


def _answers_inside_breaker(traits: Sequence[Traits]) -> Iterator[str]:
    for breaker, cache in _pairs(traits, "breaker", "cache"):
        yield (
            f"{cache.name} stands inside of {breaker.name}: what it answers counts as a success of the dependency, which was "
            "not asked, and while the circuit is open it cannot answer. Put the cache outside."
        )
    for breaker, coalesce in _pairs(traits, "breaker", "coalesce"):
        yield (
            f"{coalesce.name} stands inside of {breaker.name}: one failure counts once for each caller who shares it. "
            "Put the breaker inside."
        )


def _too_long_for_the_timeout(traits: Sequence[Traits]) -> Iterator[str]:
    """From the function outwards: the most that it can take by then, and why."""
    takes, why, limited = inf, "", False  # limited: by a single timeout, without a retry between
    found: list[str] = []
    cause, times = traits[0], 1.0
    for each in reversed(traits):
        if each.kind == "retry":
            if each.attempts > 1:
                times *= each.attempts
                takes *= each.attempts
                limited = False
                why = f"{times:g} attempts of up to {cause.seconds:g} s take up to {takes:g} s, more than"
            if each.seconds < takes:
                takes, cause, times, limited = each.seconds, each, 1.0, False
                why = f"{each.name} may begin attempts for {takes:g} s, longer than"
        elif each.kind == "timeout":
            if inf > takes > each.seconds and limited:
                found.append(f"{cause.name} can never end a call: {each.name} around it is over first. Make it shorter.")
            elif inf > takes > each.seconds:
                found.append(f"{why} {each.name} allows: the last are cut off. Shorten {cause.name}, or try less often.")
            if each.seconds < takes:
                takes, cause, times, limited = each.seconds, each, 1.0, True
    return reversed(found)


def _attempts_multiply(traits: Sequence[Traits]) -> Iterator[str]:
    several = [each for each in traits if each.kind in {"retry", "hedge"} and each.attempts > 1]
    if len(several) < 2:
        return
    product = prod(each.attempts for each in several)
    if product == inf:
        yield f"attempts multiply without limit: {_and(several)} stand around one another. Keep one of them."
    else:
        factors = " x ".join(f"{each.attempts:g}" for each in several)
        yield f"attempts multiply: {_and(several)} make up to {factors} = {product:g} calls of one. Keep one of them."


def _attempts_past_a_limit(traits: Sequence[Traits]) -> Iterator[str]:
    for _, limit, inside in _around(traits, "limit"):
        several = [each for each in inside if each.kind in {"retry", "hedge"} and each.attempts > 1]
        if limit.per_attempt and several:
            most = prod(each.attempts for each in several)
            calls = "any number of calls" if most == inf else f"up to {most:g} calls"
            yield (
                f"{limit.name} stands outside of {_and(several)}: it lets one call pass, and {calls} reach the dependency. "
                "Put the limit inside."
            )


def _waits_too_long(traits: Sequence[Traits]) -> Iterator[str]:
    for outside, limit, _ in _around(traits, "limit"):
        timeout = _shortest(outside)
        if timeout is not None and inf > limit.max_wait >= timeout.seconds:
            yield (
                f"{limit.name} lets callers wait for {limit.max_wait:g} s, and {timeout.name} ends the call before. "
                "Wait for less."
            )


def _waiting_counts_as_slow(traits: Sequence[Traits]) -> Iterator[str]:
    for breaker, limit in _pairs(traits, "breaker", "limit"):
        if limit.max_wait >= breaker.slow_after < inf:
            yield (
                f"time in the line of {limit.name} counts as slowness in {breaker.name}, from "
                f"{breaker.slow_after:g} s. Put the line outside the breaker, or wait for less."
            )


def _hedge_in_vain(traits: Sequence[Traits]) -> Iterator[str]:
    for outside, hedge, inside in _around(traits, "hedge"):
        timeout = _shortest(outside)
        if timeout is not None and inf > hedge.delay >= timeout.seconds:
            yield (
                f"{hedge.name} waits for {hedge.delay:g} s before its second call, and {timeout.name} ends the call before. "
                "Wait for less."
            )
        for coalesce in inside:
            if coalesce.kind == "coalesce":
                yield (
                    f"{hedge.name} stands outside of {coalesce.name}: its second call joins the first in place of racing it. "
                    "Put the hedge inside."
                )


def _the_same_twice(traits: Sequence[Traits]) -> Iterator[str]:
    twice = {id(one): one for one, two in combinations(traits, 2) if one is two}
    for each in twice.values():
        if each.kind == "breaker":
            yield (
                f"{each.name} stands here twice: a failure counts twice, and a trial that the outer one admits, the inner one "
                "can refuse. Leave one out."
            )
        elif each.kind == "limit":
            yield f"{each.name} stands here twice: each call takes from it twice, and can stand in its own way. Leave one out."


_RULES: tuple[Rule, ...] = (
    _timeout_outside_breaker,
    _timeout_longer_than_open_time,
    _retry_inside_breaker,
    _fallback_that_hides,
    _fallback_inside,
    _answers_inside_breaker,
    _too_long_for_the_timeout,
    _attempts_multiply,
    _attempts_past_a_limit,
    _waits_too_long,
    _waiting_counts_as_slow,
    _hedge_in_vain,
    _the_same_twice,
)
