"""Callers who come, wait and are cancelled at any time, beside a model: always the same."""

import pytest
from hypothesis import given, settings

from aiobreaker.policies.coalesce import Coalesce
from aiobreaker.policies.events import LeaderReplaced

from .. import virtual
from ..core.strategies import examples
from .sharing import Model, Plan, Work, plans, play


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", ["decorated", "called", "by key"])
@settings(max_examples=examples(100), deadline=None)
@given(plan=plans())
def test_callers_share_as_in_the_model(backend: str, way: str, plan: Plan) -> None:
    model = Model(plan)
    model.run()
    work = Work()
    replaced: list[int] = []

    async def main() -> None:
        coalesce = Coalesce(key=str if way == "by key" else None)
        coalesce.subscribe(lambda event: replaced.append(event.followers) if isinstance(event, LeaderReplaced) else None)

        @coalesce
        async def decorated(key: str) -> int:
            return await work(key)

        async def called(key: str) -> int:
            return await coalesce.call(work, key)

        assert await play(plan, called if way == "called" else decorated) == model.ends
        seen = coalesce.snapshot()
        assert (seen.calls, seen.shared, seen.running) == (len(plan.callers), model.shared, 0)

    virtual.run(backend, main)
    assert work.made == model.made
    assert replaced == model.replaced
    assert work.running == 0
