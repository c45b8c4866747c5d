"""The breaker beside the model, by all of its ways in, under asyncio and trio: always the same. When it is not, it is seen."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings

from aiobreaker import CircuitOpenError, Outcome, State, ledger
from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.eras import Refusal
from aiobreaker.core.outcomes import Judge
from aiobreaker.gate import Gate
from aiobreaker.hub import EventHub
from aiobreaker.settings import Settings

from .beside import play
from .core import faulty
from .core.strategies import examples
from .plans import Plan, plans

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@both
@settings(max_examples=examples(150), deadline=None)
@given(plan=plans())
def test_the_breaker_is_as_the_model(backend: str, plan: Plan) -> None:
    play(plan, backend)


@both
@settings(max_examples=examples(75), deadline=None)
@given(plan=plans(in_flight=True))
def test_the_breaker_is_as_the_model_where_running_calls_count(backend: str, plan: Plan) -> None:
    play(plan, backend)


# -- the proof that it could be seen to differ


def try_plans(backend: str) -> None:
    """As above, the same plans every time, and no search for the shortest."""

    @settings(max_examples=1000, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(plan=plans())
    def run(plan: Plan) -> None:
        play(plan, backend)

    run()


CIRCUITS = [  # beside the bare circuit all of them are found
    faulty.SlotTwice,
    faulty.EndlessLease,
    faulty.LateCounts,
    faulty.CancelledKeepsItsSlot,
    faulty.AdmitsWhileOpen,
    faulty.CountsRefusals,
    faulty.TellsTwice,
]


@pytest.mark.parametrize("fault", CIRCUITS)
def test_a_faulty_circuit_is_found(monkeypatch: pytest.MonkeyPatch, fault: type[Circuit]) -> None:
    monkeypatch.setattr(ledger, "Circuit", fault)
    with pytest.raises(AssertionError):
        try_plans("asyncio")


def cancelled_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge.error

    def error(self: Judge, error: BaseException, cancelled: Any = ()) -> Outcome:
        outcome = judge(self, error, cancelled)
        return Outcome.FAILURE if outcome is Outcome.CANCELLED else outcome

    monkeypatch.setattr(Judge, "error", error)


def hints_are_not_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "hint", lambda self, subject, *_: getattr(subject, "hint", None))


def refusals_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Gate.refuse

    def not_counted(self: Gate, refusal: Refusal, now: float) -> CircuitOpenError:
        self.circuit.era.refused -= 1
        return refuse(self, refusal, now)

    monkeypatch.setattr(Gate, "refuse", not_counted)


def an_event_in_ten_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    post = EventHub.post
    monkeypatch.setattr(EventHub, "post", lambda self, event: None if event.seq % 10 == 9 else post(self, event))


def events_come_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventHub, "post", lambda self, event: self.outbox.insert(0, event))


def a_second_hold_is_no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Circuit.hold

    def hold_once(self: Circuit, now: float, reason: str) -> object:
        return object() if self.era.state is State.FORCED_OPEN else hold(self, now, reason)

    monkeypatch.setattr(Circuit, "hold", hold_once)


def reconfigure_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    reconfigure = Circuit.reconfigure

    def afresh(self: Circuit, rules: Rules, now: float) -> None:
        reconfigure(self, rules, now)
        if self.era.state is State.CLOSED:
            self.let_flow(now, State.CLOSED, "other settings")

    monkeypatch.setattr(Circuit, "reconfigure", afresh)


SHELL_FAULTS = [
    cancelled_is_a_failure,
    hints_are_not_capped,
    refusals_are_not_counted,
    an_event_in_ten_is_lost,
    events_come_out_of_order,
    a_second_hold_is_no_hold,
    reconfigure_forgets,
]


@pytest.mark.parametrize("fault", SHELL_FAULTS)
def test_a_fault_of_the_shell_is_found(monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        try_plans("trio")
