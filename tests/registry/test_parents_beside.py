"""Three generations beside an obvious model: whatever is done to any of them, states, refusals, counts and slots agree."""

from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker import State
from aiobreaker.core.circuit import Rules

from ..core.strategies import examples, rules
from .family import ENDS, KEYS, WAYS, Family


class Step(NamedTuple):
    """A method of the family, and what it is called with."""

    what: str
    arguments: tuple[Any, ...] = ()


def steps() -> st.SearchStrategy[Step]:
    keys = st.sampled_from(KEYS)
    leaves = st.sampled_from(["x", "x", "y", "z"])
    numbers = st.integers(0, 7)
    ends = st.sampled_from(["fine", "down", "down", *ENDS])
    seconds = st.sampled_from([0.25, 1.0, 2.0, 10.0, 20.0, 30.0, 60.0])
    orders = st.tuples(keys, st.sampled_from(State), st.sampled_from([None, 0.5, 10.0]))

    def some(what: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
        return st.builds(Step, st.just(what), st.tuples(*arguments))

    usual = [
        some("start", leaves | keys),
        some("at_once", leaves | keys, st.sampled_from(WAYS), ends),
        some("end", numbers, ends),
    ]
    rare = [
        some("wait", seconds),
        some("watch", keys),
        some("isolate", keys),
        some("release", numbers),
        some("reconfigure", keys, rules()),
        st.builds(Step, st.just("order"), orders),
        some("same"),
    ]
    return st.sampled_from(usual * 3 + [rare[0]] * 2 + rare).flatmap(lambda kind: kind)


LAPSE = [
    Step("order", ("middle", State.HALF_OPEN, None)),
    Step("start", ("y",)),
    Step("order", ("x", State.OPEN, 10.0)),
    Step("wait", (60.0,)),
    Step("at_once", ("x", "call", "fine")),
]
"""The call could be the trial of x, and finds that the breaker above has a trial whose lease is over."""


def plans() -> st.SearchStrategy[list[Step]]:
    """Steps; in the midst of some plans, a lapse."""
    some = st.lists(steps(), max_size=30)
    return st.builds(lambda before, lapse, after: before + lapse + after, some, st.sampled_from([[], LAPSE]), some)


async def take(family: Family, step: Step) -> None:
    if (step.what == "end" and not family.flights) or (step.what == "release" and not family.holds):
        return
    done = getattr(family, step.what)(*step.arguments)
    if done is not None:
        await done


async def play(rules: dict[str, Rules], plan: list[Step]) -> None:
    family = Family(rules)
    try:
        for step in plan:
            await take(family, step)
            family.same_states()
        family.same()
    finally:
        for flight in family.flights:
            flight.permit.ignore()
        for _, isolation, _ in family.holds:
            await isolation.__aexit__(None, None, None)
    assert all(breaker.snapshot().in_flight == 0 for breaker in family.breakers.values())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_family_does_what_its_model_does(backend: str) -> None:
    @settings(max_examples=examples(150), deadline=None)
    @given(st.fixed_dictionaries({key: rules() for key in KEYS}), plans())
    def run(rules: dict[str, Rules], plan: list[Step]) -> None:
        anyio.run(play, rules, plan, backend=backend)

    run()
