"""Callers who come, wait and are cancelled at any time, and orders to forget, beside a model of a cache: always the same."""

from dataclasses import dataclass

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker.policies.cache import Cache
from aiobreaker.policies.events import LeaderReplaced, StaleServed

from .. import virtual
from ..core.strategies import examples
from .sharing import Caller, Model, Plan, Work, plans, play


@dataclass
class Kept:
    result: int
    since: float
    used: int


class CacheModel(Model):
    """A list of all uses, looked through from the beginning."""

    def __init__(self, plan: Plan, ttl: float, stale_for: float, max_size: int) -> None:
        super().__init__(plan)
        self.ttl, self.stale_for, self.max_size = ttl, stale_for, max_size
        self.kept: dict[str, Kept] = {}
        self.uses = 0
        self.hits = self.stale = self.failed = 0
        self.ages: list[float] = []

    def use(self) -> int:
        self.uses += 1
        return self.uses

    def begin(self, caller: Caller) -> None:
        kept = self.kept.get(caller.key)
        if kept is None or self.now - kept.since >= self.ttl:
            super().begin(caller)
            return
        kept.used = self.use()
        self.hits += 1
        self.ends[caller.number] = ("returns", kept.result, self.now)

    def keep(self, key: str, result: int) -> None:
        self.kept[key] = Kept(result, self.now, self.use())
        if len(self.kept) > self.max_size:
            del self.kept[min(self.kept, key=lambda key: self.kept[key].used)]

    def answer(self, caller: Caller, leader: Caller) -> None:
        kept = self.kept.get(caller.key)
        self.failed += caller is leader and leader.ending == "raises"
        if leader.ending == "returns" or kept is None or self.now - kept.since >= self.ttl + self.stale_for:
            super().answer(caller, leader)
            return
        kept.used = self.use()
        self.stale += 1
        self.ages.append(self.now - kept.since)
        self.ends[caller.number] = ("returns", kept.result, self.now)

    def forget(self, key: str | None) -> None:
        super().forget(key)
        for each in list(self.kept):
            if key in (None, each):
                del self.kept[each]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", ["decorated", "called", "by key"])
@settings(max_examples=examples(150), deadline=None)
@given(
    plan=plans(orders=True),
    ttl=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    stale_for=st.sampled_from([0.0, 1.0, 3.0]),
    max_size=st.integers(1, 3),
)
def test_results_are_kept_as_in_the_model(
    backend: str, way: str, plan: Plan, ttl: float, stale_for: float, max_size: int
) -> None:
    model = CacheModel(plan, ttl, stale_for, max_size)
    model.run()
    work = Work()
    replaced: list[int] = []
    ages: list[float] = []

    async def main() -> None:
        cache = Cache(
            ttl,
            stale_for=stale_for,
            max_size=max_size,
            key=str if way == "by key" else None,
            clock=lambda: anyio.current_time() - began,
        )
        began = anyio.current_time()
        cache.subscribe(lambda event: replaced.append(event.followers) if isinstance(event, LeaderReplaced) else None)
        cache.subscribe(lambda event: ages.append(event.age) if isinstance(event, StaleServed) else None)

        @cache
        async def decorated(key: str) -> int:
            return await work(key)

        async def called(key: str) -> int:
            return await cache.call(work, key)

        def forget(key: str | None) -> None:
            if key is None:
                cache.clear()
            else:
                cache.invalidate(key)

        assert await play(plan, called if way == "called" else decorated, forget) == model.ends
        seen = cache.snapshot()
        assert (seen.hits, seen.misses) == (model.hits, len(plan.callers) - model.hits)
        assert (seen.stale, seen.failed, seen.size) == (model.stale, model.failed, len(model.kept))

    virtual.run(backend, main)
    assert work.made == model.made
    assert (replaced, ages) == (model.replaced, model.ages)
    assert work.running == 0
