"""Chaos: what it does to calls is drawn from a seed, and is what its settings say; nothing else is changed."""

import inspect
from collections.abc import Callable
from math import inf, nan
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, State
from aiobreaker.policies.events import ChaosMade
from aiobreaker.policies.hedge import Hedge
from aiobreaker.testing import Chaos, ChaosSnapshot, ScriptedDependency, record_events

from .. import virtual

Clock = Callable[[], float]


async def answer() -> str:
    return "fine"


async def fates(chaos: Chaos, calls: int) -> list[tuple[float, str]]:
    """What becomes of so many calls: how long they take, and what they answer or raise; a hang is cancelled after 1000 s."""
    seen = []
    for _ in range(calls):
        began = anyio.current_time()
        fate = "hung"
        with anyio.move_on_after(1000):
            try:
                fate = await chaos.call(answer)
            except Exception as error:
                fate = type(error).__name__
        seen.append((anyio.current_time() - began, fate))
    return seen


async def test_without_settings_it_does_nothing() -> None:
    chaos = Chaos(seed=1)
    assert await fates(chaos, 100) == [(0, "fine")] * 100
    assert chaos.snapshot() == ChaosSnapshot(calls=100, delayed=0, hung=0, failed=0, replaced=0)


# -- what it does


async def test_latency_is_a_number_a_range_or_a_function_of_chance() -> None:
    took = [seconds for seconds, _ in await fates(Chaos(latency=0.5), 5)]
    assert took == [pytest.approx(0.5)] * 5

    took = [seconds for seconds, _ in await fates(Chaos(latency=(1, 3), seed=1), 200)]
    assert 1 <= min(took) < 1.2
    assert 2.8 < max(took) <= 3
    assert len(set(took)) > 100

    drawn: list[float] = []

    def latency(random: Random) -> float:
        drawn.append(random.expovariate(10))
        return drawn[-1]

    took = [seconds for seconds, _ in await fates(Chaos(latency=latency, seed=1), 20)]
    assert took == pytest.approx(drawn)

    took = [seconds for seconds, _ in await fates(Chaos(latency=1, latency_rate=0.25, seed=1), 400)]
    assert 70 < sum(seconds > 0 for seconds in took) < 130


async def test_failures_come_after_the_latency_and_in_place_of_the_call() -> None:
    dependency = ScriptedDependency("fine")
    chaos = Chaos(latency=2, failure=1, error=OSError, name="storm")
    began = anyio.current_time()
    with pytest.raises(OSError, match="injected by 'storm'"):
        await chaos.call(dependency)
    assert anyio.current_time() - began == pytest.approx(2)
    assert dependency.calls == []


async def test_failures_by_rate_and_by_error() -> None:
    kinds = [fate for _, fate in await fates(Chaos(failure=0.3, seed=1), 1000)]
    assert 250 < kinds.count("ConnectionError") < 350
    assert kinds.count("fine") == 1000 - kinds.count("ConnectionError")

    failure = {ConnectionError: 0.1, lambda: KeyError("made"): 0.2, TimeoutError: 0.0, ValueError: 0.3}
    kinds = [fate for _, fate in await fates(Chaos(failure=failure, seed=1), 1000)]
    assert 70 < kinds.count("ConnectionError") < 130
    assert 160 < kinds.count("KeyError") < 240
    assert 250 < kinds.count("ValueError") < 350
    assert kinds.count("TimeoutError") == 0

    kinds = [fate for _, fate in await fates(Chaos(failure={OSError: 0.1, KeyError: 0.2, ValueError: 0.7}, seed=1), 300)]
    assert kinds.count("fine") == 0
    assert [fate for _, fate in await fates(Chaos(failure={}, seed=1), 10)] == ["fine"] * 10


async def test_every_failure_is_a_new_one() -> None:
    for error in (OSError, lambda: OSError("made")):
        chaos, raised = Chaos(failure=1, error=error), []
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                await chaos.call(answer)
            raised.append(caught.value)
        assert raised[0] is not raised[1]


async def test_a_hang_lasts_until_it_is_cancelled() -> None:
    dependency = ScriptedDependency("fine")
    chaos = Chaos(latency=1, hang=1, failure=1)
    with anyio.move_on_after(10**6) as scope:
        await chaos.call(dependency)
    assert scope.cancelled_caught
    assert dependency.calls == []
    assert chaos.snapshot() == ChaosSnapshot(calls=1, delayed=1, hung=1, failed=0, replaced=0)
    hung = [fate for _, fate in await fates(Chaos(hang=0.1, seed=1), 500)].count("hung")
    assert 30 < hung < 70


async def test_results_are_replaced_and_errors_are_not() -> None:
    def rotten(result: str) -> str:
        if result == "bad":
            raise ValueError(result)
        return result.upper()

    chaos = Chaos(outcome=rotten)
    assert await chaos.call(answer) == "FINE"
    with pytest.raises(ValueError, match="bad"):
        await chaos.call(ScriptedDependency("bad"))
    with pytest.raises(OSError):
        await chaos.call(ScriptedDependency(OSError()))
    assert chaos.snapshot().replaced == 2
    kinds = [fate for _, fate in await fates(Chaos(outcome=str.upper, outcome_rate=0.2, seed=1), 500)]
    assert 70 < kinds.count("FINE") < 130


async def test_what_makes_no_exception_or_no_duration_is_told() -> None:
    with pytest.raises(TypeError, match="error must be a function that makes an exception, not 'oops'"):
        await Chaos(failure=1, error=lambda: "oops").call(answer)  # type: ignore[arg-type, return-value]
    for wrong, kind in ((-1.0, ValueError), (inf, ValueError), (nan, ValueError), ("1", TypeError)):
        with pytest.raises(kind, match="latency must be"):
            await Chaos(latency=lambda _, wrong=wrong: wrong).call(answer)  # type: ignore[misc]


# -- chance


async def test_a_seed_gives_the_same_sequence_every_time() -> None:
    async def sequence(seed: int | str | None) -> list[tuple[float, str]]:
        chaos = Chaos(latency=(0, 1), latency_rate=0.5, failure=0.2, hang=0.1, outcome=str.upper, outcome_rate=0.5, seed=seed)
        return [(round(seconds, 6), fate) for seconds, fate in await fates(chaos, 60)]

    for seed in (1, "one"):
        assert await sequence(seed) == await sequence(seed)
    different = [await sequence(seed) for seed in (1, "1", 2, "one", None, None)]
    assert len({str(each) for each in different}) == len(different)


def test_the_sequence_is_the_same_in_every_version() -> None:
    chaos = Chaos(failure=0.5, seed=7)

    async def sequence() -> str:
        return "".join("x" if fate != "fine" else "." for _, fate in await fates(chaos, 24))

    assert anyio.run(sequence) == ".xxxx..xx.xxxx.x.xxx..x."


@given(
    st.fixed_dictionaries(
        {
            "latency": st.sampled_from([0.0, 1.0, (0.0, 2.0)]),
            "latency_rate": st.floats(0, 1),
            "failure": st.floats(0, 1),
            "hang": st.floats(0, 1),
            "outcome_rate": st.floats(0, 1),
        }
    ),
    st.integers(),
)
def test_what_is_drawn_for_one_thing_does_not_depend_on_the_others(settings: dict[str, Any], seed: int) -> None:
    """Against the same chances, each drawn alone, in the order of precedence."""

    def alone(**setting: Any) -> list[tuple[float, str]]:
        return run(Chaos(seed=seed, **setting))

    def run(chaos: Chaos) -> list[tuple[float, str]]:
        async def use() -> list[tuple[float, str]]:
            return await fates(chaos, 20)

        return virtual.run("asyncio", use)

    together = run(Chaos(outcome=str.upper, seed=seed, **settings))
    latencies = alone(latency=settings["latency"], latency_rate=settings["latency_rate"])
    hangs = alone(hang=settings["hang"])
    failures = alone(failure=settings["failure"])
    outcomes = alone(outcome=str.upper, outcome_rate=settings["outcome_rate"])
    for (took, fate), (latency, _), (_, hang), (_, failure), (_, outcome) in zip(
        together, latencies, hangs, failures, outcomes, strict=True
    ):
        assert fate == next((each for each in (hang, failure) if each != "fine"), outcome)
        assert took == pytest.approx(1000 if fate == "hung" else latency)


async def test_calls_that_run_at_once_are_drawn_in_the_order_of_their_beginning() -> None:
    def make() -> Chaos:
        return Chaos(latency=(0, 1), failure=0.5, seed=3)

    async def one(number: int) -> None:
        try:
            at_once[number] = await chaos.call(answer)
        except ConnectionError:
            at_once[number] = "ConnectionError"

    chaos, at_once = make(), [""] * 30
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(one, number)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
    assert at_once == [fate for _, fate in await fates(make(), 30)]


# -- the switch


async def test_it_can_be_switched_at_run_time_and_draws_nothing_while_it_is_off() -> None:
    chaos, always = Chaos(failure=0.5, seed=5, enabled=False), Chaos(failure=0.5, seed=5)
    assert not chaos.enabled
    assert await fates(chaos, 20) == [(0, "fine")] * 20
    chaos.enabled = True
    assert await fates(chaos, 40) == await fates(always, 40)
    chaos.enabled = False
    assert await fates(chaos, 20) == [(0, "fine")] * 20
    assert chaos.snapshot().calls == 80
    with pytest.raises(TypeError, match="enabled must be True or False, not 1"):
        chaos.enabled = 1  # type: ignore[assignment]


# -- among others


@pytest.mark.parametrize(
    "settings", [{"latency": 5}, {"hang": 1}, {"latency": 5, "failure": 1}, {"latency": 5, "outcome": str}]
)
async def test_a_cancelled_call_ends_at_once_wherever_it_is(settings: dict[str, Any]) -> None:
    for cancel_at in range(6):
        chaos = Chaos(**settings)
        ended: list[bool] = []

        async def victim(scope: anyio.CancelScope, chaos: Chaos = chaos, ended: list[bool] = ended) -> None:
            with scope:
                await chaos.call(answer)
            ended.append(scope.cancelled_caught)

        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(victim, scope)
            for _ in range(cancel_at):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
        assert ended == [True]
        assert anyio.current_time() == began


async def test_a_breaker_sees_what_it_does_and_a_hedge_helps() -> None:
    breaker = CircuitBreaker("dependency")
    pipeline = breaker | Chaos(failure=1)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await pipeline.call(answer)
    assert breaker.state is State.OPEN

    slow = [seconds for seconds, _ in await fates(Chaos(latency=10, latency_rate=0.2, seed=2), 100)]
    hedged = []
    pipeline = Hedge(0.5, attempts=4) | Chaos(latency=10, latency_rate=0.2, seed=2)
    for _ in range(100):
        began = anyio.current_time()
        assert await pipeline.call(answer) == "fine"
        hedged.append(anyio.current_time() - began)
    assert max(slow) == pytest.approx(10)
    assert sum(hedged) < sum(slow) / 5


async def test_events_and_the_decorator(clock: Clock) -> None:
    chaos = Chaos(latency=0.125, outcome=str.upper, name="storm", clock=clock)

    @chaos
    async def price(sku: str, *, currency: str = "EUR") -> str:
        """What it costs."""
        return f"{sku} in {currency}"

    assert price.__doc__ == "What it costs."
    assert list(inspect.signature(price).parameters) == ["sku", "currency"]
    began = anyio.current_time()
    with record_events(chaos | Chaos(enabled=False)) as events:
        assert await price("pear", currency="usd") == "PEAR IN USD"
    told = [(event.name, event.what, event.at - began) for event in events if isinstance(event, ChaosMade)]
    assert told == [("storm", "latency of 0.125 s", 0), ("storm", "outcome", pytest.approx(0.125))]

    for settings, words in (({"hang": 1}, "hang"), ({"failure": 1, "error": OSError}, "failure: OSError")):
        chaos = Chaos(**settings)
        with record_events(chaos) as events:
            await fates(chaos, 1)
        assert [event.what for event in events if isinstance(event, ChaosMade)] == [words]


def test_what_a_pipeline_says_of_it() -> None:
    traits = Chaos(failure={OSError: 0.1, KeyError: 0.1}, hang=0.01, outcome=str, outcome_rate=0.5, name="storm").traits
    assert traits.kind == "chaos"
    assert traits.words == "chaos 'storm' (0.01 of calls hang, 0.2 of calls fail, 0.5 of calls get another result)"
    assert Chaos(latency=1).traits.words == "chaos 'chaos' (no more than latency)"


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"latency": -1}, ValueError, r"latency must be a finite number of seconds, 0 or more, a \(low, high\) pair"),
        ({"latency": inf}, ValueError, "latency must be a finite number"),
        ({"latency": "1"}, TypeError, "latency must be a finite number"),
        ({"latency": True}, TypeError, "latency must be a finite number"),
        ({"latency": (2, 1)}, ValueError, r"latency must be a \(low, high\) pair of seconds, not \(2, 1\)"),
        ({"latency": (1,)}, ValueError, r"latency must be a \(low, high\) pair"),
        ({"latency": (1, inf)}, ValueError, "latency must be a finite number"),
        ({"latency_rate": 1.5}, ValueError, "latency_rate must be a fraction from 0 to 1, not 1.5"),
        ({"failure": -0.1}, ValueError, "failure must be a fraction from 0 to 1"),
        ({"failure": nan}, ValueError, "failure must be a fraction from 0 to 1"),
        ({"failure": True}, TypeError, "failure must be a fraction from 0 to 1"),
        ({"failure": [OSError]}, TypeError, "failure must be a fraction from 0 to 1"),
        ({"failure": {OSError: 0.6, KeyError: 0.6}}, ValueError, "failure must be fractions that add up to at most 1, not 1.2"),
        ({"failure": {OSError: 2}}, ValueError, "failure must be a fraction from 0 to 1"),
        ({"failure": {"OSError": 0.5}}, TypeError, "error must be an exception type that takes a message, or a function"),
        ({"failure": {OSError: 0.1}, "error": OSError}, ValueError, "error must be left out when failure names the errors"),
        ({"error": OSError("once")}, TypeError, "error must be an exception type"),
        ({"error": KeyboardInterrupt}, TypeError, "error must be an exception type"),
        ({"error": UnicodeDecodeError}, TypeError, "error must be an exception type .*: function takes exactly 5 arguments"),
        ({"hang": 1.01}, ValueError, "hang must be a fraction from 0 to 1"),
        ({"outcome": "rotten"}, TypeError, "outcome must be a function of the result, not 'rotten'"),
        ({"outcome_rate": -1}, ValueError, "outcome_rate must be a fraction from 0 to 1"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, a string or None, not 1.5"),
        ({"seed": True}, TypeError, "seed must be"),
        ({"enabled": "yes"}, TypeError, "enabled must be True or False, not 'yes'"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"clock": 1}, TypeError, "clock must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Chaos(**settings)
