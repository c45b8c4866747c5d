"""Presets hold together: nothing in them contradicts itself, and each does in an outage what its docstring says."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, Pipeline, Retry, State, presets
from aiobreaker.testing import Answer, ScriptedDependency

PRESETS: list[Callable[..., Pipeline[Any]]] = [
    presets.http_service,
    presets.database,
    presets.queue_consumer,
    presets.language_model,
]

each_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.__name__)


def breaker_of(pipeline: Pipeline[Any]) -> CircuitBreaker:
    return next(policy for policy in pipeline.policies if isinstance(policy, CircuitBreaker))


@each_preset
def test_nothing_contradicts_itself(preset: Callable[..., Pipeline[Any]]) -> None:
    assert preset("shop").lint() == []


@each_preset
@pytest.mark.anyio
async def test_a_good_call_passes(preset: Callable[..., Pipeline[Any]]) -> None:
    assert await preset("shop").call(ScriptedDependency("fine"), 1) == "fine"


@each_preset
@pytest.mark.anyio
async def test_an_outage_opens_the_breaker_and_refusals_follow(preset: Callable[..., Pipeline[Any]]) -> None:
    pipeline = preset("shop", on=ConnectionError, clock=anyio.current_time)
    dependency = ScriptedDependency(ConnectionError("down"))
    for _ in range(30):
        with pytest.raises((ConnectionError, CircuitOpenError, TimeoutError)), anyio.fail_after(60):
            await pipeline.call(dependency)
        if breaker_of(pipeline).state is State.OPEN:
            break
    called = len(dependency.calls)
    with pytest.raises(CircuitOpenError):
        await breaker_of(pipeline).call(dependency)
    assert len(dependency.calls) == called


@each_preset
@pytest.mark.anyio
async def test_other_errors_are_the_callers_own(preset: Callable[..., Pipeline[Any]]) -> None:
    dependency = ScriptedDependency(KeyError("typing error"))
    pipeline = preset("shop")
    with pytest.raises(KeyError):
        await pipeline.call(dependency)
    assert len(dependency.calls) == 1
    assert breaker_of(pipeline).snapshot().failures == 0


@each_preset
@pytest.mark.anyio
async def test_a_hang_ends_in_a_failure(preset: Callable[..., Pipeline[Any]]) -> None:
    pipeline = preset("shop", clock=anyio.current_time)
    with pytest.raises((TimeoutError, CircuitOpenError)):  # whichever is the last
        await pipeline.call(ScriptedDependency(Answer(after=float("inf"))))
    assert breaker_of(pipeline).snapshot().totals.failures >= 1


@pytest.mark.anyio
async def test_a_queued_message_is_dealt_with_before_it_comes_again() -> None:
    began = anyio.current_time()
    consumer = presets.queue_consumer("mail", visibility=60, clock=anyio.current_time)
    dependency = ScriptedDependency(Answer(after=float("inf")))
    with pytest.raises((TimeoutError, CircuitOpenError)):
        await consumer.call(dependency)
    assert anyio.current_time() - began <= 54
    assert len(dependency.calls) > 5  # a trial, after the circuit had opened


def test_retries_are_bounded() -> None:
    for preset, attempts in zip(PRESETS, (3, None, float("inf"), 2), strict=True):
        found = [policy.traits.attempts for policy in preset("shop").policies if isinstance(policy, Retry)]
        assert found == ([] if attempts is None else [attempts])


@pytest.mark.parametrize(
    ("preset", "wrong"),
    [
        (presets.database, {"connections": 0}),
        (presets.queue_consumer, {"visibility": 0}),
        (presets.language_model, {"per_minute": 0}),
        (presets.http_service, {"on": "OSError"}),
    ],
)
def test_wrong_settings_are_told(preset: Callable[..., Pipeline[Any]], wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="must be"):
        preset("shop", **wrong)
