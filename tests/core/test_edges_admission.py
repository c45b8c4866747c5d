"""Who is let in, what the refused are told, what guards see at the door, and how the admitted are counted."""

from math import inf

from aiobreaker.core.conditions import SlowCallRate
from aiobreaker.core.eras import HalfOpen, Permit, State, Stopped, Totals, Trials
from aiobreaker.core.windows import LastCalls

from .test_circuit import C, F, N, S
from .test_edges_transitions import CLOSED, FORCED_OPEN, HALF_OPEN, OPEN, at, growing


def test_refusals_of_a_round_of_trials() -> None:
    bench = growing(Trials(2, concurrent=1)).half_opened()
    first = bench.start()
    bench.now = 11.0
    assert bench.refused() == (HALF_OPEN, "all trial slots are taken (1 at once)", 29.0)
    bench.end(first, S)
    assert bench.circuit.retry_after(11.0) == 0.0
    bench.start()
    assert bench.refused() == (HALF_OPEN, "as many trials are running as verdicts are wanted", 30.0)
    wide = growing(Trials(3, concurrent=3)).half_opened()
    wide.run(S)
    wide.start()
    wide.start()
    assert not wide.circuit.wants_trial(10.0), "a slot is free, but no more verdicts are wanted"
    assert wide.refused() == (HALF_OPEN, "as many trials are running as verdicts are wanted", 30.0)


def test_the_door_shows_guards_what_they_need_not_ask() -> None:
    bench = growing()
    circuit, door, closed = bench.circuit, bench.circuit.door, bench.circuit.era
    assert (door.era, door.shared, door.stop.until) == (closed, closed, -inf)
    bench.opened()
    assert (door.era, door.shared, door.stop) == (None, None, circuit.era)
    assert isinstance(circuit.era, Stopped)
    assert (circuit.era.why, circuit.era.until) == ("test", 10.0)
    bench.now = 10.0
    trial = bench.start()
    assert (door.era, door.shared, door.stop) == (None, None, circuit.era)
    assert isinstance(circuit.era, HalfOpen)
    assert (circuit.era.why, circuit.era.until) == ("as many trials are running as verdicts are wanted", 40.0)
    bench.end(trial, N)
    assert circuit.era.until == -inf, "one more trial may begin"
    assert not circuit.era.why
    circuit.personal = True
    circuit.open_door()
    assert door.stop is circuit.era, "that calls are told does not make refusals slower"
    circuit.watched = True
    circuit.open_door()
    assert door.stop is not circuit.era
    assert door.stop.until == -inf
    circuit.let_flow(11.0, CLOSED, "reset")
    assert (door.era, door.shared, door.stop.until) == (None, None, -inf)


def test_what_it_would_do_is_what_it_does() -> None:
    seen: list[tuple[State, float, bool]] = []
    bench = growing(Trials(3, required=1, lease=5.0))

    def ask(now: float) -> None:
        at(bench, now)
        state, would = bench.state, bench.circuit.would_admit(now)
        assert bench.state is state, "a question changes nothing"
        answer = bench.circuit.admit(now)
        assert isinstance(answer, Permit) is would
        seen.append((state, now, would))

    ask(0.0)
    bench.opened()
    for now in (9.999, 10.0, 14.999, 15.0):
        ask(now)
    bench.circuit.force_open(16.0, "by order")
    ask(1e9)
    bench.circuit.let_flow(1e9, State.DISABLED, "off")
    ask(1e9)
    assert seen == [
        (CLOSED, 0.0, True),
        (OPEN, 9.999, False),
        (OPEN, 10.0, True),
        (HALF_OPEN, 14.999, False),
        (HALF_OPEN, 15.0, True),
        (FORCED_OPEN, 1e9, False),
        (State.DISABLED, 1e9, True),
    ]
    free = growing(Trials(2, concurrent=2)).half_opened()
    free.start()
    assert free.circuit.would_admit(10.0)


def test_an_admission_can_be_withdrawn_before_the_call_begins() -> None:
    bench = growing()
    permits = [bench.start() for _ in range(3)]
    assert permits[0].above is None
    bench.circuit.withdraw(permits[0])
    assert bench.circuit.in_flight == 2
    assert not bench.end(permits[0], F)
    assert bench.circuit.totals == Totals()
    trials = growing().half_opened()
    trials.circuit.withdraw(trials.start())
    assert trials.circuit.in_flight == 0
    trials.run(S)
    assert trials.state is CLOSED, "its slot has come back"
    slow = SlowCallRate(1.0, 2.0, LastCalls(9), minimum_calls=1, count_in_flight=True)
    running = growing(trip=slow)
    running.circuit.withdraw(running.start())
    at(running, 5.0).start()
    assert running.state is CLOSED, "it does not run, and so it cannot be slow"


def test_totals_of_trials() -> None:
    bench = growing(Trials(9, concurrent=2, required=1, lease=5.0)).half_opened()
    for outcome in (F, F, N, N, C, C):
        bench.run(outcome)
    assert bench.circuit.totals == Totals(failures=2, ignored=2, cancelled=2)
    assert bench.circuit.era.totals == bench.circuit.totals
    hung = [bench.start(), bench.start()]
    at(bench, 15.0).run(F)
    for permit in hung:
        assert not bench.end(permit, S)
    assert bench.circuit.totals == Totals(failures=3, ignored=2, cancelled=2, late=2)
    assert bench.circuit.in_flight == 0
    bench.run(S)
    assert bench.circuit.totals == Totals(successes=1, failures=3, ignored=2, cancelled=2, late=2)


def test_a_child_process_counts_on_from_what_has_ended() -> None:
    bench = growing(Trials(9, concurrent=3, required=1, lease=5.0)).half_opened()
    for outcome in (F, N, N, C, C, C):
        bench.run(outcome)
    late = bench.start()
    bench.now = 15.0
    bench.start()
    bench.end(late, S)
    assert bench.circuit.in_flight == 1
    bench.circuit.forget_calls()
    assert bench.circuit.in_flight == 0
    bench.start()
    assert bench.circuit.in_flight == 1
