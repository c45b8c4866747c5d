"""The short cut of the closed path (a counter and a comparison) decides exactly as the obvious model does, always."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import Condition
from aiobreaker.core.eras import Flowing, State, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Fixed
from aiobreaker.core.transitions import Transition

from .model import ConditionModel
from .strategies import conditions

STEPS = st.tuples(
    st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, 1.3, 2.0, 5.0, 20.0]),  # time that passes
    st.sampled_from([Outcome.SUCCESS] * 3 + [Outcome.FAILURE] * 2 + [Outcome.IGNORED, Outcome.CANCELLED]),
    st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 3.0]),  # how long the call took
)


def closed(*trip: Condition) -> Circuit:
    return Circuit(Rules(trip, Fixed(30.0), 0.0, Trials()), 0.0, lambda: 0.5)


def end_as_a_guard_does(circuit: Circuit, era: Flowing, outcome: Outcome, now: float, began: float) -> None:
    """A plain success that is below every threshold is counted without asking."""
    quick = now - began < era.slow_after and era.n + 1 < era.horizon and now < era.roll_at
    if outcome is Outcome.SUCCESS and quick:
        era.n += 1
    else:
        circuit.settle(era, outcome, now, began)


@settings(max_examples=600, deadline=None)
@given(st.lists(conditions(), min_size=1, max_size=3), st.lists(STEPS, max_size=60))
def test_trips_exactly_when_the_model_does(trip: list[Condition], steps: list[tuple[float, Outcome, float]]) -> None:
    circuit = closed(*trip)
    models = [ConditionModel(condition) for condition in trip]
    now = 0.0
    for passed, outcome, elapsed in steps:
        now += passed
        era = circuit.era
        assert isinstance(era, Flowing)
        era.started += 1
        end_as_a_guard_does(circuit, era, outcome, now, now - elapsed)
        taken = now - (now - elapsed)
        met: list[Condition] = []
        for model in models:
            failed, cancelled = outcome is Outcome.FAILURE, outcome is Outcome.CANCELLED
            counts = outcome is not Outcome.IGNORED and model.record(now, failed=failed, elapsed=taken, cancelled=cancelled)
            if counts and model.met(now):
                met.append(model.condition)
        assert (circuit.era.state is State.OPEN) == bool(met)
        if met:
            tripped = circuit.log[0]
            assert isinstance(tripped, Transition)
            assert {reading.condition for reading in tripped.readings if reading.met} >= set(met)
            return
        for model, reading in zip(models, circuit.readings(now), strict=True):
            if hasattr(model.condition, "window"):
                remembered = model.remembered(now)
                assert (reading.count, reading.calls) == (sum(remembered), len(remembered))
        assert circuit.in_flight == 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(conditions(), min_size=1, max_size=2),
    st.lists(conditions(), min_size=1, max_size=2),
    st.lists(STEPS, max_size=30),
    st.lists(STEPS, max_size=30),
)
def test_reconfigure_keeps_counting_right(
    first: list[Condition],
    second: list[Condition],
    before: list[tuple[float, Outcome, float]],
    after: list[tuple[float, Outcome, float]],
) -> None:
    """After any change of conditions the counts stay within their windows, and a fresh set of calls is judged as before."""
    circuit = closed(*first)
    now = 0.0
    for index, (passed, outcome, elapsed) in enumerate(before + after):
        now += passed
        if index == len(before):
            circuit.reconfigure(Rules(tuple(second), Fixed(30.0), 0.0, Trials()), now)
        era = circuit.era
        if not isinstance(era, Flowing):
            return
        end_as_a_guard_does(circuit, era, outcome, now, now - elapsed)
        for reading in circuit.readings(now):
            assert 0 <= reading.count <= reading.calls
