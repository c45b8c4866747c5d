"""The circuit beside the model: random settings, results out of order, cancellations, time, orders. Always the same."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from aiobreaker.core.circuit import Circuit
from aiobreaker.core.eras import Permit, Refusal, State
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.transitions import Forfeit, Transition

from .circuit_model import CircuitModel
from .faulty import FAULTS, LateCancellationMakesASlot
from .records import Call, Hold, Refused
from .strategies import examples, other_rules, rules, states

DRAW = 0.75
OUTCOMES = st.sampled_from([*Outcome, Outcome.FAILURE, Outcome.SUCCESS])
HINTS = st.sampled_from([None] * 9 + [5.0])
SECONDS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 1e6])


class Beside(RuleBasedStateMachine):
    """Both get the same, and must answer and become the same."""

    in_flight = False
    kind: type[Circuit] = Circuit

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.calls: list[tuple[Permit, Call]] = []
        self.holds: list[tuple[object, Hold]] = []

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        first = data.draw(rules(self.in_flight))
        self.circuit = self.kind(first, self.now, lambda: DRAW)
        self.model = CircuitModel(first, self.now, DRAW)

    # -- calls

    @rule()
    def start(self) -> None:
        answer, expected = self.circuit.admit(self.now), self.model.start(self.now)
        if isinstance(answer, Refusal):
            self.circuit.era.refused += 1  # as the shell does
            assert isinstance(expected, Refused)
            assert (answer.state, answer.retry_after) == (expected.state, expected.retry_after)
        else:
            assert isinstance(expected, Call)
            self.calls.append((answer, expected))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=OUTCOMES, hint=HINTS)
    def finish(self, data: st.DataObject, outcome: Outcome, hint: float | None) -> None:
        permit, call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.end(permit, call, outcome, hint)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]))
    def finish_with_a_verdict(self, data: st.DataObject, outcome: Outcome) -> None:
        self.finish(data, outcome, None)

    @rule(outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]))
    def call_at_once(self, outcome: Outcome) -> None:
        running = len(self.calls)
        self.start()
        if len(self.calls) > running:
            self.end(*self.calls.pop(), outcome)

    def end(self, permit: Permit, call: Call, outcome: Outcome, hint: float | None = None) -> None:
        in_time = self.circuit.settle(permit, outcome, self.now, permit.began, "why", hint)
        self.model.finish(call, outcome, self.now, hint)
        assert in_time == (not self.model.last_ending.late)
        assert not self.circuit.settle(permit, Outcome.FAILURE, self.now, permit.began)  # once is enough

    # -- time and orders

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(more=st.sampled_from([0.0, 0.0, -0.25, 0.25]))
    def wait_until_due(self, more: float) -> None:
        self.now += max(0.0, (self.model.retry_after(self.now) or 0.0) + more)

    @rule(data=st.data())
    def control(self, data: st.DataObject) -> None:
        """One rule for all of them, so that they stay rare."""
        data.draw(st.sampled_from([self.order, self.order, self.hold, self.release, self.release, self.reconfigure]))(data)

    def order(self, data: st.DataObject) -> None:
        circuit, model, now = self.circuit, self.model, self.now
        state = data.draw(states)
        if state is State.HALF_OPEN:
            circuit.half_open(now)
            model.half_open_by_hand(now)
        elif state is State.OPEN:
            duration = data.draw(st.sampled_from([None, None, 0.5, 5.0, 100.0]))
            circuit.open(now, duration, "by hand")
            model.open_by_hand(now, duration)
        elif state is State.FORCED_OPEN:
            circuit.force_open(now, "by hand")
            model.put(state, now)
        else:
            circuit.let_flow(now, state, "by hand")
            model.put(state, now)

    def hold(self, data: st.DataObject) -> None:
        self.holds.append((self.circuit.hold(self.now, "held"), self.model.hold(self.now)))

    def release(self, data: st.DataObject) -> None:
        if not self.holds:
            return
        hold, expected = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
        assert self.circuit.holds(hold) == (expected in self.model.holds)
        self.circuit.release(hold, self.now)
        self.model.release(expected, self.now)

    def reconfigure(self, data: st.DataObject) -> None:
        other = data.draw(other_rules(self.in_flight))
        self.circuit.reconfigure(other, self.now)
        self.model.reconfigure(other, self.now)

    # -- the comparison

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "circuit"):
            return
        circuit, model, now = self.circuit, self.model, self.now
        era = circuit.era
        assert (era.state, era.since) == (model.state, model.since)
        assert circuit.retry_after(now) == model.retry_after(now)
        assert circuit.readings(now) == model.readings(now)
        assert circuit.in_flight == len(model.running)
        assert circuit.totals == model.totals
        if era.state is not State.DISABLED:  # whose counts nobody shows
            assert (era.n, era.failures, era.refused) == (model.calls, model.failures, model.refused)
        told = [replace(entry, reason="") if isinstance(entry, Transition) else entry for entry in circuit.log]
        assert told == [entry for entry in model.log if isinstance(entry, Transition | Forfeit)]
        assert circuit.transitions == len(model.transitions)
        assert circuit.moves == Counter((entry.old, entry.new) for entry in model.transitions)
        assert circuit.refusals == Counter(entry.state for entry in model.log if isinstance(entry, Refused))

    def teardown(self) -> None:
        """Whatever has happened: when every call has ended and time has passed, successful calls close it."""
        if not hasattr(self, "circuit"):
            return
        for permit, _ in self.calls:
            self.circuit.settle(permit, Outcome.CANCELLED, self.now, permit.began)
        assert self.circuit.in_flight == 0
        if self.model.state in (State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY):
            return
        for _ in range(20):
            self.now += 200.0
            answer = self.circuit.admit(self.now)
            if isinstance(answer, Permit):
                self.circuit.settle(answer, Outcome.SUCCESS, self.now, self.now)
        assert self.circuit.era.state is State.CLOSED
        assert self.circuit.in_flight == 0


class BesideInFlight(Beside):
    """The same, with a condition that counts calls in flight."""

    in_flight = True


TestBeside = Beside.TestCase
TestBeside.settings = settings(max_examples=examples(150), stateful_step_count=60, deadline=None)
TestBesideInFlight = BesideInFlight.TestCase
TestBesideInFlight.settings = settings(max_examples=examples(75), stateful_step_count=60, deadline=None)


# -- the proof that they could be seen to differ


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault is not LateCancellationMakesASlot])  # too rare for chance
def test_a_faulty_circuit_is_found(fault: type[Circuit]) -> None:
    class Faulty(Beside):
        kind = fault

    quickly = settings(
        max_examples=1000, stateful_step_count=60, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Faulty, settings=quickly)
