"""Every transition of the machine, and what may not cause one. The clock is a number."""

from math import inf
from typing import Any

import pytest

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate, any_of
from aiobreaker.core.eras import Flowing, Permit, Refusal, State, Totals, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Exponential, Fixed, Schedule, Steps
from aiobreaker.core.transitions import Cause, Forfeit, Transition
from aiobreaker.core.windows import LastCalls, LastSeconds

S, F, N, C = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED, Outcome.CANCELLED


class Bench:
    """A circuit with a clock of its own."""

    def __init__(
        self,
        trip: object = ConsecutiveFailures(2),
        *,
        schedule: Schedule = Fixed(10.0),  # noqa: B008 - frozen
        jitter: float = 0.0,
        trials: Trials = Trials(),  # noqa: B008 - frozen
        draw: float = 0.5,
    ) -> None:
        self.now = 0.0
        self.rules = Rules(any_of(trip).conditions, schedule, jitter, trials)
        self.circuit = Circuit(self.rules, self.now, lambda: draw)

    @property
    def state(self) -> State:
        return self.circuit.era.state

    @property
    def changes(self) -> list[tuple[State, State, Cause]]:
        return [(each.old, each.new, each.cause) for each in self.circuit.log if isinstance(each, Transition)]

    def start(self) -> Permit:
        answer = self.circuit.admit(self.now)
        assert isinstance(answer, Permit), answer
        return answer

    def refused(self) -> Refusal:
        answer = self.circuit.admit(self.now)
        assert isinstance(answer, Refusal), answer
        return answer

    def end(self, permit: Permit, outcome: Outcome, hint: float | None = None) -> bool:
        return self.circuit.settle(permit, outcome, self.now, permit.began, "OSError: down", hint)

    def run(self, *outcomes: Outcome, took: float = 0.0) -> None:
        for outcome in outcomes:
            permit = self.start()
            self.now += took
            self.end(permit, outcome)

    def opened(self) -> "Bench":
        self.circuit.open(self.now, None, "test")
        return self

    def half_opened(self) -> "Bench":
        self.opened()
        self.now += 10.0
        return self


def test_opens_at_the_threshold_and_not_before() -> None:
    bench = Bench()
    bench.run(F)
    assert bench.state is State.CLOSED
    bench.run(F)
    assert bench.state is State.OPEN
    assert bench.changes == [(State.CLOSED, State.OPEN, Cause.TRIPPED)]
    assert bench.refused() == Refusal(State.OPEN, "2 failures in a row (trips at 2)", 10.0)


def test_open_until_exactly_the_end_of_its_time_and_reading_changes_nothing() -> None:
    bench = Bench().opened()
    bench.now = 9.999
    assert bench.refused().retry_after == pytest.approx(0.001)
    bench.now = 10.0
    assert bench.state is State.OPEN
    assert bench.circuit.retry_after(bench.now) == 0.0
    assert bench.state is State.OPEN
    bench.start()
    assert bench.state is State.HALF_OPEN


@pytest.mark.parametrize(("outcome", "state"), [(S, State.CLOSED), (F, State.OPEN)])
def test_one_trial_decides(outcome: Outcome, state: State) -> None:
    bench = Bench().half_opened()
    bench.run(outcome)
    assert bench.state is state


@pytest.mark.parametrize(
    ("trials", "outcomes", "state"),
    [
        (Trials(3), [S, S], State.HALF_OPEN),
        (Trials(3), [S, S, S], State.CLOSED),
        (Trials(3), [S, F], State.OPEN),
        (Trials(3, required=1), [F, F], State.HALF_OPEN),
        (Trials(3, required=1), [F, F, F], State.OPEN),
        (Trials(3, required=1), [F, S], State.CLOSED),
        (Trials(5, required=3), [F, S, F], State.HALF_OPEN),
        (Trials(5, required=3), [F, S, F, F], State.OPEN),
        (Trials(5, required=3), [S, F, S, F, S], State.CLOSED),
        (Trials(5, required=3), [S, S, S], State.CLOSED),
    ],
)
def test_trials_are_decided_as_soon_as_the_result_is_certain(trials: Trials, outcomes: list[Outcome], state: State) -> None:
    bench = Bench(trials=trials).half_opened()
    bench.run(*outcomes)
    assert bench.state is state


def test_no_more_trials_run_than_slots_and_no_more_are_wanted_than_count() -> None:
    bench = Bench(trials=Trials(3, concurrent=2)).half_opened()
    first, second = bench.start(), bench.start()
    assert bench.refused().reason == "all trial slots are taken (2 at once)"
    bench.end(first, S)
    third = bench.start()
    assert "as many trials are running" in bench.refused().reason
    bench.end(second, S)
    assert bench.refused().state is State.HALF_OPEN
    bench.end(third, S)
    assert bench.state is State.CLOSED


@pytest.mark.parametrize("neutral", [N, C])
def test_a_neutral_trial_gives_its_slot_back_and_too_many_re_open(neutral: Outcome) -> None:
    bench = Bench(trials=Trials(2)).half_opened()
    bench.run(S, neutral, neutral, neutral)
    assert bench.state is State.HALF_OPEN
    bench.run(neutral)
    assert bench.changes[-1] == (State.HALF_OPEN, State.OPEN, Cause.INCONCLUSIVE)
    assert "4 trials ended without a verdict" in bench.refused().reason


def test_inconclusive_trials_do_not_lengthen_the_open_time() -> None:
    bench = Bench(schedule=Steps(10.0, 99.0), trials=Trials(max_inconclusive=1)).half_opened()
    bench.run(C)
    assert bench.refused().retry_after == 10.0


def test_a_trial_that_outlives_its_lease_fails_and_its_result_is_late() -> None:
    bench = Bench(trials=Trials(lease=5.0)).half_opened()
    hung = bench.start()
    bench.now += 4.75
    assert bench.refused().retry_after == 0.25
    bench.now += 0.25
    assert bench.refused().state is State.OPEN
    assert bench.changes[-1] == (State.HALF_OPEN, State.OPEN, Cause.LEASE_EXPIRED)
    assert Forfeit(1, bench.now) in bench.circuit.log
    assert bench.circuit.in_flight == 1
    assert not bench.end(hung, S)
    assert bench.state is State.OPEN
    assert bench.circuit.in_flight == 0
    assert bench.circuit.totals.late == 1


def test_a_trial_that_ends_exactly_at_its_lease_is_too_late_though_nobody_looked() -> None:
    bench = Bench(trials=Trials(lease=5.0)).half_opened()
    permit = bench.start()
    bench.now += 5.0
    assert not bench.end(permit, S)
    assert bench.state is State.OPEN


def test_a_forfeited_slot_is_free_for_another_trial_when_the_round_goes_on() -> None:
    bench = Bench(trials=Trials(3, concurrent=1, required=1, lease=5.0)).half_opened()
    hung = bench.start()
    bench.now += 5.0
    other = bench.start()
    assert not bench.end(hung, F)
    assert bench.circuit.in_flight == 1
    assert bench.end(other, S)
    assert bench.state is State.CLOSED
    assert bench.circuit.totals == Totals(successes=1, late=1)


def test_the_lease_is_the_open_time_but_at_least_thirty_seconds() -> None:
    for open_for, lease in [(5.0, 30.0), (60.0, 60.0)]:
        bench = Bench(schedule=Fixed(open_for))
        bench.circuit.open(0.0, None, "test")
        bench.now = open_for
        bench.start()
        assert bench.refused().retry_after == lease
    by_hand = Bench(schedule=Fixed(45.0))
    by_hand.circuit.half_open(0.0)
    by_hand.start()
    assert by_hand.refused().retry_after == 45.0


def test_a_late_success_does_not_close_and_a_late_failure_does_not_reopen() -> None:
    bench = Bench()
    old = [bench.start() for _ in range(4)]
    bench.run(F, F)
    assert not bench.end(old[0], S)
    assert bench.state is State.OPEN
    bench.now += 10.0
    trial = bench.start()
    assert not bench.end(old[1], F)
    assert not bench.end(old[2], C)
    assert bench.refused().state is State.HALF_OPEN, "a late cancellation gives out no extra slot"
    bench.end(trial, S)
    assert not bench.end(old[3], F)
    bench.run(F)
    assert bench.state is State.CLOSED
    assert bench.circuit.in_flight == 0


def test_the_open_time_grows_with_failed_trials_and_starts_again_after_closing() -> None:
    bench = Bench(schedule=Exponential(1.0, factor=2.0, maximum=5.0))
    bench.run(F, F)
    for expected in [1.0, 2.0, 4.0, 5.0, 5.0]:
        assert bench.refused().retry_after == expected
        bench.now += expected
        bench.run(F)
    bench.now += 5.0
    bench.run(S, F, F)
    assert bench.refused().retry_after == 1.0


@pytest.mark.parametrize(("draw", "open_for"), [(0.0, 9.0), (0.5, 10.0), (0.999999, 11.0)])
def test_jitter_spreads_the_open_time_both_ways(draw: float, open_for: float) -> None:
    bench = Bench(jitter=0.1, draw=draw).opened()
    assert bench.refused().retry_after == pytest.approx(open_for, rel=1e-4)


def test_a_hint_opens_for_exactly_its_time_in_closed_and_half_open() -> None:
    bench = Bench(jitter=0.5, draw=0.0)
    bench.end(bench.start(), S, hint=7.0)
    assert bench.changes == [(State.CLOSED, State.OPEN, Cause.HINTED)]
    assert bench.refused().retry_after == 7.0
    bench.now += 7.0
    bench.end(bench.start(), F, hint=3.0)
    assert bench.refused() == Refusal(State.OPEN, "the dependency asked to be left alone for 3 s", 3.0)
    late = Bench()
    permit = late.start()
    late.opened()
    assert not late.end(permit, F, hint=99.0)
    assert late.refused().retry_after == 10.0


def test_a_hint_on_an_ignored_call_counts_too() -> None:
    bench = Bench()
    bench.end(bench.start(), N, hint=4.0)
    assert bench.refused().retry_after == 4.0
    bench.now += 4.0
    bench.end(bench.start(), N, hint=2.0)
    assert bench.refused().retry_after == 2.0


SLOW = SlowCallRate(0.5, slower_than=1.0, window=LastCalls(4), minimum_calls=2)


def test_slow_successes_open_and_slow_trials_do_not_close() -> None:
    bench = Bench(SLOW)
    bench.run(S, S, took=1.0)
    assert bench.state is State.OPEN
    bench.now += 10.0
    bench.run(S, took=1.0)
    assert bench.changes[-1] == (State.HALF_OPEN, State.OPEN, Cause.TRIAL_FAILED)
    assert "a trial was slow (1 s)" in bench.refused().reason
    bench.now += 10.0
    bench.run(C, took=1.0)
    assert bench.changes[-1] == (State.HALF_OPEN, State.OPEN, Cause.TRIAL_FAILED)
    bench.now += 10.0
    bench.run(S, took=0.9)
    assert bench.state is State.CLOSED


def test_cancelled_after_it_was_slow_counts_as_slow_and_before_it_does_not() -> None:
    bench = Bench(SLOW)
    bench.run(C, C, C, took=0.9)
    assert bench.circuit.readings(bench.now)[0].calls == 0
    bench.run(C, C, took=1.0)
    assert bench.state is State.OPEN


def test_a_slow_cancellation_leaves_failure_conditions_alone() -> None:
    bench = Bench(ConsecutiveFailures(3) | SlowCallRate(1.0, 1.0, LastCalls(9), minimum_calls=9))
    bench.run(F, F)
    bench.run(C, took=2.0)
    bench.run(F)
    assert bench.state is State.OPEN


def test_a_cancellation_is_slow_for_whom_it_was_slow() -> None:
    bench = Bench(SlowCallRate(1.0, 1.0, LastCalls(9), minimum_calls=9) | SlowCallRate(1.0, 5.0, LastCalls(9), minimum_calls=9))
    bench.run(C, took=2.0)
    assert [reading.count for reading in bench.circuit.readings(bench.now)] == [1, 0]


IN_FLIGHT = SlowCallRate(0.5, slower_than=2.0, window=LastSeconds(60), minimum_calls=3, count_in_flight=True)


def test_calls_that_never_answer_open_it_without_one_completed_call() -> None:
    bench = Bench(IN_FLIGHT)
    calls = [bench.start() for _ in range(3)]
    bench.now = 1.999
    bench.start()
    bench.now = 2.0
    assert bench.refused().reason.startswith("3 of 3 calls in the last 60 seconds took 2 s or longer")
    assert bench.circuit.in_flight == 4
    assert not bench.end(calls[0], S)


def test_a_running_slow_call_counts_once_whatever_its_end() -> None:
    bench = Bench(SlowCallRate(1.0, 2.0, LastSeconds(60), minimum_calls=9, count_in_flight=True))
    first, second = bench.start(), bench.start()
    bench.now = 3.0
    quick = bench.start()
    assert _slow(bench) == (2, 2)
    bench.end(quick, S)
    assert _slow(bench) == (2, 3)
    bench.end(first, S)
    assert _slow(bench) == (2, 3)
    bench.end(second, C)
    assert _slow(bench) == (2, 3)
    ignored = bench.start()
    bench.now = 6.0
    bench.start()
    assert _slow(bench) == (3, 4)
    bench.end(ignored, N)
    assert _slow(bench) == (2, 3)


def _slow(bench: Bench) -> tuple[int, int]:
    reading = bench.circuit.readings(bench.now)[0]
    return reading.count, reading.calls


def test_two_thresholds_in_flight_are_kept_apart() -> None:
    fast = SlowCallRate(1.0, 1.0, LastSeconds(60), minimum_calls=9, count_in_flight=True)
    slow = SlowCallRate(1.0, 5.0, LastSeconds(60), minimum_calls=9, count_in_flight=True)
    bench = Bench(slow | fast)
    permits = [bench.start()]
    for now in (1.0, 4.0, 5.0):
        bench.now = now
        permits.append(bench.start())
    assert [reading.count for reading in bench.circuit.readings(bench.now)] == [1, 3]
    bench.end(permits[0], N)
    assert [reading.count for reading in bench.circuit.readings(bench.now)] == [0, 2]


def test_an_answer_ends_the_wait_for_it() -> None:
    bench = Bench(IN_FLIGHT)
    streams = [bench.start() for _ in range(3)]
    bench.now = 1.0
    for stream in streams:
        bench.circuit.answered(stream, bench.now)
    bench.now = 50.0
    bench.start()
    bench.end(streams[0], S)
    assert _slow(bench) == (0, 1)
    trial = Bench().half_opened()
    permit = trial.start()
    trial.circuit.answered(permit, trial.now)
    trial.now += 5
    assert trial.end(permit, S)


def test_forced_open_and_disabled_and_back() -> None:
    bench = Bench()
    bench.circuit.force_open(0.0, "maintenance")
    bench.now = 1e9
    assert bench.refused() == Refusal(State.FORCED_OPEN, "maintenance", None)
    bench.circuit.let_flow(bench.now, State.DISABLED, "disabled")
    bench.run(F, F, F, S, N, C)
    bench.end(bench.start(), F, hint=5.0)
    assert bench.state is State.DISABLED
    assert bench.circuit.readings(bench.now) == ()
    assert bench.circuit.totals == Totals()
    dangling = bench.start()
    bench.circuit.let_flow(bench.now, State.CLOSED, "reset")
    assert not bench.end(dangling, F)
    assert bench.circuit.totals == Totals()
    assert bench.circuit.retry_after(bench.now) is None


def test_metrics_only_records_and_says_what_it_would_have_done() -> None:
    bench = Bench()
    bench.circuit.let_flow(0.0, State.METRICS_ONLY, "only measuring")
    bench.run(F, F)
    shadows = [entry for entry in bench.circuit.log if isinstance(entry, Transition) and entry.shadow]
    assert [(shadow.new, shadow.cause, shadow.open_for) for shadow in shadows] == [(State.OPEN, Cause.TRIPPED, 10.0)]
    bench.now = 5.0
    bench.run(F, F, F, C, N)
    bench.end(bench.start(), F, hint=3.0)
    assert len(bench.circuit.log) == 2, "quiet while it would be open"
    bench.now = 10.0
    bench.run(F)
    assert len(bench.circuit.log) == 2, "and counting from nothing afterwards"
    bench.run(F)
    assert len(bench.circuit.log) == 3
    bench.now = 20.0
    bench.end(bench.start(), S, hint=3.0)
    last = bench.circuit.log[-1]
    assert isinstance(last, Transition)
    assert (last.cause, last.open_for) == (Cause.HINTED, 3.0)
    assert bench.state is State.METRICS_ONLY
    assert bench.circuit.totals.failures == 8


@pytest.mark.parametrize("start", list(State))
@pytest.mark.parametrize("target", list(State))
def test_every_state_can_be_reached_from_every_other(start: State, target: State) -> None:
    bench = Bench()
    _order(bench, start)
    dangling = bench.circuit.admit(bench.now)
    _order(bench, target)
    assert bench.state is target
    if isinstance(dangling, Permit):
        bench.end(dangling, S)
    assert bench.circuit.in_flight == 0


def _order(bench: Bench, state: State) -> None:
    if state is State.OPEN:
        bench.circuit.open(bench.now, None, "by hand")
    elif state is State.HALF_OPEN:
        bench.circuit.half_open(bench.now)
    elif state is State.FORCED_OPEN:
        bench.circuit.force_open(bench.now, "by hand")
    else:
        bench.circuit.let_flow(bench.now, state, "by hand")


def test_an_order_to_stay_is_no_transition() -> None:
    bench = Bench()
    for state in (State.CLOSED, State.OPEN, State.OPEN, State.HALF_OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.FORCED_OPEN):
        _order(bench, state)
    assert [new for _, new, _ in bench.changes] == [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN]
    assert bench.circuit.transitions == 3


def test_open_by_hand_for_a_given_time_also_when_open() -> None:
    bench = Bench().opened()
    bench.circuit.open(0.0, 3.0, "shorter")
    assert bench.refused() == Refusal(State.OPEN, "shorter", 3.0)
    bench.now = 3.0
    bench.start()
    again = Bench(schedule=Steps(1.0, 2.0))
    again.circuit.half_open(0.0)
    again.circuit.open(0.0, None, "by hand")
    assert again.refused().retry_after == 2.0


@pytest.mark.parametrize("found", list(State))
def test_a_hold_leaves_the_circuit_as_it_was_found(found: State) -> None:
    bench = Bench()
    _order(bench, found)
    hold = bench.circuit.hold(0.0, "maintenance")
    other = bench.circuit.hold(0.0, "more maintenance")
    assert bench.state is State.FORCED_OPEN
    bench.circuit.release(hold, 1.0)
    bench.circuit.release(hold, 1.0)
    assert bench.state is State.FORCED_OPEN
    bench.circuit.release(other, 1.0)
    assert bench.state is (State.OPEN if found is State.HALF_OPEN else found)
    if found is State.OPEN:
        bench.now = 1.0
        assert bench.refused().retry_after == 9.0
    if found is State.HALF_OPEN:
        bench.now = 1.0
        bench.start()


def test_an_order_ends_a_hold() -> None:
    bench = Bench()
    hold = bench.circuit.hold(0.0, "maintenance")
    bench.circuit.let_flow(0.0, State.DISABLED, "disabled")
    bench.circuit.release(hold, 1.0)
    assert bench.state is State.DISABLED


def test_in_flight_counts_over_eras() -> None:
    bench = Bench()
    permits = [bench.start() for _ in range(3)]
    bench.opened()
    assert bench.circuit.in_flight == 3
    for left, permit in enumerate(permits[::-1]):
        assert bench.circuit.in_flight == 3 - left
        bench.end(permit, S)
    assert bench.circuit.in_flight == 0


def test_a_shared_era_that_is_over_makes_every_guard_ask() -> None:
    bench = Bench()
    era = bench.circuit.era
    assert isinstance(era, Flowing)
    assert bench.circuit.door.era is era
    era.started += 1
    bench.opened()
    assert bench.circuit.door.era is None
    assert era.n + 1 >= era.horizon
    assert not bench.circuit.settle(era, S, 0.0, 0.0)
    assert bench.circuit.in_flight == 0


def test_the_door_is_shut_to_guards_that_would_not_do() -> None:
    bench = Bench(IN_FLIGHT)
    assert bench.circuit.door.era is bench.circuit.era
    assert bench.circuit.door.shared is None
    bench.circuit.personal = True
    bench.circuit.open_door()
    assert bench.circuit.door.era is None


def test_when_time_alone_could_admit() -> None:
    bench = Bench(trials=Trials(lease=5.0))
    assert bench.circuit.next_change() == 0.0
    bench.opened()
    assert bench.circuit.next_change() == 10.0
    assert not bench.circuit.wants_trial(9.0)
    assert bench.circuit.wants_trial(10.0)
    bench.circuit.half_open(10.0)
    assert bench.circuit.wants_trial(10.0)
    assert bench.circuit.retry_after(10.0) == 0.0
    assert bench.circuit.next_change() == inf
    bench.now = 10.0
    bench.start()
    assert bench.circuit.next_change() == 15.0
    bench.circuit.force_open(10.0, "by hand")
    assert bench.circuit.next_change() == inf


def reconfigured(bench: Bench, trip: object = None, trials: Trials | None = None) -> Rules:
    rules = bench.circuit.rules
    conditions = rules.conditions if trip is None else any_of(trip).conditions
    new = Rules(conditions, rules.schedule, rules.jitter, rules.trials if trials is None else trials)
    bench.circuit.reconfigure(new, bench.now)
    return new


def test_reconfigure_keeps_a_streak() -> None:
    bench = Bench(ConsecutiveFailures(5))
    bench.run(F, F)
    reconfigured(bench, ConsecutiveFailures(3))
    bench.run(F)
    assert bench.state is State.OPEN


@pytest.mark.parametrize(
    "window", [LastCalls(20), LastCalls(8), LastSeconds(60), LastSeconds(30, buckets=3)], ids=["20", "8", "60s", "30s"]
)
@pytest.mark.parametrize("before", [LastCalls(10), LastSeconds(60)], ids=["10", "60s"])
def test_reconfigure_keeps_what_a_window_remembers(before: LastCalls | LastSeconds, window: LastCalls | LastSeconds) -> None:
    bench = Bench(FailureRate(1.0, before, minimum_calls=9))
    bench.run(S, F, F, S, S, S, F)
    reconfigured(bench, FailureRate(0.9, window, minimum_calls=8))
    reading = bench.circuit.readings(bench.now)[0]
    assert (reading.count, reading.calls) == (3, 7)
    reconfigured(bench, FailureRate(3 / 8, window, minimum_calls=8))
    assert bench.state is State.CLOSED
    bench.run(S)
    assert bench.state is State.OPEN, "the next outcome is judged by the new rules, a success too"


def test_reconfigure_takes_nothing_over_between_failures_and_slowness() -> None:
    bench = Bench(FailureRate(1.0, LastCalls(10), minimum_calls=9))
    bench.run(F, F, F)
    reconfigured(bench, SlowCallRate(1.0, 1.0, LastCalls(10), minimum_calls=2) | ConsecutiveFailures(9))
    assert next((reading.count, reading.calls) for reading in bench.circuit.readings(0.0)) == (0, 0)


def test_reconfigure_keeps_calls_in_flight_and_slow_cancellations() -> None:
    bench = Bench(IN_FLIGHT)
    bench.run(C, took=2.0)
    old = bench.start()
    bench.now += 3.0
    bench.start()
    assert _slow(bench) == (2, 2)
    reconfigured(bench, SlowCallRate(0.9, 1.0, LastSeconds(50), minimum_calls=5, count_in_flight=True))
    bench.now += 1.0
    bench.start()
    assert _slow(bench) == (3, 3)
    bench.end(old, S)
    assert _slow(bench) == (3, 3)
    reconfigured(bench, SLOW)
    assert bench.circuit.in_flight == 2
    reconfigured(bench, IN_FLIGHT)


def test_reconfigure_in_half_open_cannot_get_stuck() -> None:
    bench = Bench(trials=Trials(5, required=3)).half_opened()
    bench.run(S, F)
    reconfigured(bench, trials=Trials(2, required=1))
    assert bench.state is State.CLOSED
    strict = Bench(trials=Trials(5, required=3)).half_opened()
    strict.run(S, F)
    reconfigured(strict, trials=Trials(2))
    assert strict.changes[-1] == (State.HALF_OPEN, State.OPEN, Cause.MANUAL)
    longer = Bench(trials=Trials(1, lease=5.0)).half_opened()
    longer.start()
    reconfigured(longer, trials=Trials(3, concurrent=2, lease=7.0))
    longer.start()
    assert longer.state is State.HALF_OPEN


def test_reconfigure_leaves_an_open_time_and_the_special_states_alone() -> None:
    bench = Bench().opened()
    reconfigured(bench, ConsecutiveFailures(1))
    assert bench.refused().retry_after == 10.0
    bench.circuit.let_flow(0.0, State.DISABLED, "disabled")
    reconfigured(bench, ConsecutiveFailures(7))
    bench.run(F)
    assert bench.state is State.DISABLED


class Busy(dict[int, float]):
    """Flights out of which a guard in another thread takes one, each time that somebody looks."""

    def items(self) -> Any:
        if len(self) > 1:
            super().pop(next(iter(self)))
            raise RuntimeError("dictionary changed size during iteration")
        return super().items()

    def pop(self, ticket: int, default: Any = None) -> Any:
        super().pop(ticket, None)
        return None


def test_flights_may_land_while_they_are_counted() -> None:
    bench = Bench(IN_FLIGHT)
    era = bench.circuit.era
    assert isinstance(era, Flowing)
    era.flights = busy = Busy({1: 0.0, 2: 0.0, 3: 0.0})
    era._levels = (busy, *era._levels[1:])
    bench.now = 50.0
    era.age(bench.now)
    assert _slow(bench) == (0, 0)
    assert not era.flights


def test_a_memory_taken_over_twice_is_not_shared() -> None:
    window = LastSeconds(10.0)
    bench = Bench(FailureRate(1.0, window, minimum_calls=9))
    bench.run(F, S)
    reconfigured(bench, FailureCount(9, window) | FailureRate(1.0, window, minimum_calls=9))
    bench.run(F)
    assert [(reading.count, reading.calls) for reading in bench.circuit.readings(0.0)] == [(2, 3), (2, 3)]
    bench.now = 10.0
    assert [(reading.count, reading.calls) for reading in bench.circuit.readings(10.0)] == [(0, 0), (0, 0)]


def test_a_permit_settles_once() -> None:
    bench = Bench(ConsecutiveFailures(1)).half_opened()
    permit = bench.start()
    assert bench.end(permit, S)
    assert not bench.end(permit, F)
    assert bench.state is State.CLOSED
    assert bench.circuit.totals == Totals(successes=1)


def test_a_child_process_has_nothing_in_flight() -> None:
    bench = Bench()
    bench.start()
    bench.opened()
    bench.circuit.let_flow(0.0, State.CLOSED, "reset")
    bench.run(S, N, C, F)
    bench.start()
    assert bench.circuit.in_flight == 2
    bench.circuit.forget_calls()
    assert bench.circuit.in_flight == 0
    bench.run(S)
    assert bench.circuit.in_flight == 0


def test_a_running_call_that_becomes_slow_is_judged_without_what_has_left_the_window() -> None:
    bench = Bench(SlowCallRate(1.0, 1.0, LastSeconds(5), minimum_calls=2, count_in_flight=True))
    slow = bench.start()
    bench.now = 2.0
    bench.circuit.settle(slow, Outcome.SUCCESS, bench.now, slow.began)
    bench.now = 100.0
    bench.start()
    bench.now = 102.0
    bench.start()
    assert bench.state is State.CLOSED
    assert [(each.count, each.calls, each.met) for each in bench.circuit.readings(bench.now)] == [(1, 1, False)]
    bench.now = 103.0
    assert [(each.count, each.calls, each.met) for each in bench.circuit.readings(bench.now)] == [(2, 2, True)]
    assert bench.state is State.CLOSED  # reading changes nothing; the next call sees it
    bench.refused()
    assert bench.state is State.OPEN
