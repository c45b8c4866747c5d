"""The circuit beside the model: random settings, results out of order, cancellations, time, orders. Always the same."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import Condition
from aiobreaker.core.eras import Permit, State, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Exponential, Fixed, Schedule, Steps
from aiobreaker.core.transitions import Transition

from .circuit_model import Call, CircuitModel
from .strategies import conditions

schedules: st.SearchStrategy[Schedule] = st.sampled_from([Fixed(10.0), Steps(1.0, 60.0), Exponential(2.0, 2.0, 16.0)])


@st.composite
def trials(draw: st.DrawFn) -> Trials:
    count = draw(st.integers(1, 4))
    return Trials(
        count,
        draw(st.integers(1, count)),
        draw(st.none() | st.integers(1, count)),
        draw(st.none() | st.sampled_from([2.0, 20.0])),
        draw(st.none() | st.integers(1, 3)),
    )


class Beside(RuleBasedStateMachine):
    """Both get the same, and must answer and become the same."""

    @initialize(conditions=st.lists(conditions(), min_size=1, max_size=2), schedule=schedules, trials=trials())
    def begin(self, conditions: list[Condition], schedule: Schedule, trials: Trials) -> None:
        rules = Rules(tuple(conditions), schedule, 0.0, trials)
        self.now = 0.0
        self.circuit = Circuit(rules, self.now, lambda: 0.5)
        self.model = CircuitModel(rules)
        self.calls: list[tuple[Permit, Call]] = []

    @rule()
    def start(self) -> None:
        answer, call = self.circuit.admit(self.now), self.model.start(self.now)
        assert isinstance(answer, Permit) == (call is not None)
        if isinstance(answer, Permit) and call is not None:
            self.calls.append((answer, call))
        elif self.model.state is State.OPEN:
            assert self.circuit.retry_after(self.now) == self.model.until - self.now

    @precondition(lambda self: self.calls)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([*Outcome, Outcome.FAILURE, Outcome.SUCCESS]),
        hint=st.sampled_from([None] * 9 + [5.0]),
    )
    def finish(self, data: st.DataObject, outcome: Outcome, hint: float | None) -> None:
        permit, call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.circuit.settle(permit, outcome, self.now, permit.began, "why", hint)
        self.model.finish(call, outcome, self.now, hint)

    @rule(outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE]))
    def call_at_once(self, outcome: Outcome) -> None:
        self.start()
        if self.calls and self.calls[-1][0].began == self.now:
            permit, call = self.calls.pop()
            self.circuit.settle(permit, outcome, self.now, permit.began, "why")
            self.model.finish(call, outcome, self.now)

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(state=st.sampled_from(list(State)))
    def order(self, state: State) -> None:
        if state is State.OPEN:
            if not (self.model.state is State.OPEN and self.now < self.model.until):
                self.model.open(self.now, self.model.attempt + 1 if self.model.state is State.HALF_OPEN else 0)
            self.circuit.open(self.now, None, "by hand")
        elif state is State.HALF_OPEN:
            self.circuit.half_open(self.now)
            self.model.half_open(self.now)
        elif state is State.FORCED_OPEN:
            self.circuit.force_open(self.now, "by hand")
            self.model.enter(state)
        else:
            self.circuit.let_flow(self.now, state, "by hand")
            self.model.enter(state)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "circuit"):
            return
        circuit, model = self.circuit, self.model
        assert circuit.era.state is model.state
        assert circuit.in_flight == len(model.running)
        changes = [each for each in circuit.log if isinstance(each, Transition) and not each.shadow]
        assert [State.CLOSED, *(change.new for change in changes)] == model.states
        assert all(one.new is two.old for one, two in pairwise(changes))
        assert circuit.transitions == len(changes)

    def teardown(self) -> None:
        """Whatever has happened: when every call has ended and time has passed, successful calls close it."""
        if not hasattr(self, "circuit") or self.model.state in (State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY):
            return
        for permit, _ in self.calls:
            self.circuit.settle(permit, Outcome.CANCELLED, self.now, permit.began)
        for _ in range(20):
            self.now += 60.0
            answer = self.circuit.admit(self.now)
            if isinstance(answer, Permit):
                self.circuit.settle(answer, Outcome.SUCCESS, self.now, self.now)
        assert self.circuit.era.state is State.CLOSED
        assert self.circuit.in_flight == 0


TestBeside = Beside.TestCase
TestBeside.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
