"""What other libraries' tests state holds here too, for the core and for the breaker by every way in, except what is listed."""

from collections.abc import Callable, Coroutine
from math import inf, isfinite, nextafter
from typing import Any

import pytest

from aiobreaker import CircuitBreaker, FailureRate, LastCalls, LastSeconds, SlowCallRate, Trials

from .contradictions import CONTRADICTIONS
from .drivers import WAYS_IN, BreakerDriver, CoreDriver, Guarded
from .facts import VECTORS, Vector
from .interpreter import DisagreementError, play
from .translation import InexpressibleError, setup, successes_to_close

WayIn = Callable[[CircuitBreaker], Guarded]

ABOUT_SETTINGS = [vector for vector in VECTORS if "invalid" in vector.config]
HELD = [vector for vector in VECTORS if "invalid" not in vector.config and vector.id not in CONTRADICTIONS]
REFUSED = [vector for vector in VECTORS if vector.id in CONTRADICTIONS and CONTRADICTIONS[vector.id].refuses]
BROKEN = [vector for vector in VECTORS if vector.id in CONTRADICTIONS and CONTRADICTIONS[vector.id].place is not None]

every_way_in = pytest.mark.parametrize("way_in", WAYS_IN, ids=lambda way_in: way_in.__name__)


def each(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=str)


def without_waiting(coroutine: Coroutine[Any, Any, int]) -> int:
    """The result of a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return int(end.value)
    coroutine.close()
    raise AssertionError("the core waited")


@each(HELD)
def test_the_core_does_as_the_vector_says(vector: Vector) -> None:
    played = without_waiting(play(vector, CoreDriver(setup(vector.config))))
    assert played == len(vector.steps) + len(vector.expect)


@every_way_in
@each(HELD)
async def test_the_breaker_does_as_the_vector_says(vector: Vector, way_in: WayIn) -> None:
    async with BreakerDriver(setup(vector.config), way_in) as driver:
        played = await play(vector, driver)
    assert played == len(vector.steps) + len(vector.expect)


@each(BROKEN)
def test_the_core_contradicts_a_listed_vector_at_the_place_that_is_listed(vector: Vector) -> None:
    with pytest.raises(DisagreementError) as disagreement:
        without_waiting(play(vector, CoreDriver(setup(vector.config))))
    assert disagreement.value.place == CONTRADICTIONS[vector.id].place


@every_way_in
@each(BROKEN)
async def test_the_breaker_contradicts_a_listed_vector_at_the_place_that_is_listed(vector: Vector, way_in: WayIn) -> None:
    async with BreakerDriver(setup(vector.config), way_in) as driver:
        with pytest.raises(DisagreementError) as disagreement:
            await play(vector, driver)
    assert disagreement.value.place == CONTRADICTIONS[vector.id].place


@each(REFUSED)
def test_a_vector_listed_as_inexpressible_is_refused_by_the_argument_that_is_listed(vector: Vector) -> None:
    with pytest.raises(InexpressibleError, match=rf"^{CONTRADICTIONS[vector.id].refuses} must be"):
        setup(vector.config)


def trials_that_reopen_above(failure_rate: Any) -> Trials:
    if not isinstance(failure_rate, (int, float)) or not isfinite(failure_rate):
        return Trials(10, required=failure_rate)
    return Trials(10, required=successes_to_close(10, nextafter(failure_rate, inf)))


WINDOW = LastCalls(100)
SETTINGS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "failure_rate": ("rate", lambda value: FailureRate(value, WINDOW)),
    "rate": ("rate", lambda value: FailureRate(value, WINDOW)),
    "slow_rate": ("rate", lambda value: SlowCallRate(value, 1.0, WINDOW)),
    "slow_over": ("slower_than", lambda value: SlowCallRate(0.5, value, WINDOW)),
    "window": ("size", LastCalls),
    "period": ("span", LastSeconds),
    "min_calls": ("minimum_calls", lambda value: FailureRate(0.5, WINDOW, value)),
    "open_s": ("open_for", lambda value: CircuitBreaker("vector", open_for=value)),
    "half_open_calls": ("count", Trials),
    "half_open_rate": ("required", trials_that_reopen_above),
    "max_half_open_s": ("lease", lambda value: Trials(lease=value)),
}
"""The vectors' settings: the name of our argument, and how it is given."""


def refused(setting: str, value: object) -> bool:
    """Whether the library refuses the value; then it must name its argument."""
    argument, give = SETTINGS[setting]
    try:
        give(value)
    except (ValueError, TypeError) as error:
        if not str(error).startswith(f"{argument} must be "):
            raise
        return True
    return False


@each(ABOUT_SETTINGS)
def test_settings_that_cannot_be_are_refused_and_those_that_are_listed_are_not(vector: Vector) -> None:
    assert vector.steps == []
    assert vector.expect == [["expect_config_error"]]
    allowed = [
        (setting, value)
        for setting, values in vector.config["invalid"].items()
        for value in values
        if not refused(setting, float("nan") if value == "NaN" else value)
    ]
    assert tuple(allowed) == CONTRADICTIONS[vector.id].allows


def test_no_vector_is_left_out_and_every_listed_one_exists() -> None:
    played = [vector.id for vectors in (HELD, BROKEN, REFUSED, ABOUT_SETTINGS) for vector in vectors]
    assert sorted(played) == sorted(vector.id for vector in VECTORS)
    assert len(set(played)) == len(played) == 72
    assert set(CONTRADICTIONS) <= set(played)
    assert len(HELD) == 62
    for listed in CONTRADICTIONS.values():
        assert listed.reason
        assert (listed.place is not None) + bool(listed.refuses) + bool(listed.allows) == 1
