"""Every interleaving of small worlds: what must hold in each of them, and the proof that it could be seen not to.

Law: each invariant is one function and one sentence, and for each of them there is a fault that it, by itself, finds.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import anyio
import pytest

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import Condition, ConsecutiveFailures, FailureRate, SlowCallRate
from aiobreaker.core.eras import HalfOpen, State, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Exponential, Fixed, Schedule
from aiobreaker.core.transitions import Cause, Forfeit, Transition
from aiobreaker.core.windows import LastCalls

from . import faulty
from .explorer import FLOWING, BrokenInvariant, Census, History, Invariant, Moment, Promise, World, explore
from .subjects import Bare, Stepped, WayIn, by_call, by_decorator, by_guard

# -- the invariants


def never_more_than_concurrent_trials(history: History, moment: Moment) -> None:
    """At most `concurrent` trials run at once, and no more of them than verdicts are wanted."""
    trials, running = history.world.rules.trials, len(history.trials())
    passed, failed, _ = history.verdicts()
    assert running <= trials.concurrent, f"{running} trials run at once"
    assert running + passed + failed <= trials.count, "more trials than verdicts are wanted"


def slots_are_neither_lost_nor_made(history: History, moment: Moment) -> None:
    """Whoever runs holds a slot, and nobody else; a trial is refused only if none is free, or none is wanted."""
    circuit, trials, running = history.circuit, history.world.rules.trials, len(history.trials())
    assert circuit.in_flight == len(history.callers), f"{circuit.in_flight} calls are said to be in flight"
    if not isinstance(circuit.era, HalfOpen):
        return
    assert circuit.era.slots.taken == running, f"{circuit.era.slots.taken} slots are taken, {running} trials run"
    if moment.admitted is False:
        passed, failed, _ = history.verdicts()
        assert running == trials.concurrent or running + passed + failed == trials.count, "refused, with a slot free"


def events_equal_transitions(history: History, moment: Moment) -> None:
    """Every change of state is told once, in order, and nothing else is."""
    changes = [each for each in moment.news if isinstance(each, Transition) and not each.shadow]
    told = [moment.before.state, *(change.new for change in changes)]
    assert all(change.old is old and old is not change.new for change, old in zip(changes, told, strict=False)), "a gap"
    assert told[-1] is history.state, f"it is {history.state}, and {told} was told"
    assert all(change.at == history.now == history.circuit.era.since for change in changes), "told for another time"
    log = [each for each in history.subject.log if isinstance(each, Transition) and not each.shadow]
    assert history.circuit.transitions == len(log)
    assert all(one.new is two.old for one, two in pairwise(log))
    assert sum(each.trials for each in moment.news if isinstance(each, Forfeit)) == moment.lapses, "lapsed leases"
    assert all(history.state is State.METRICS_ONLY for each in moment.news if isinstance(each, Transition) and each.shadow)


def no_refused_call_ran(history: History, moment: Moment) -> None:
    """A refusal leaves no trace, and comes while the circuit is open, or has no trial to give; never otherwise."""
    if moment.admitted is None:
        return
    more = history.circuit.in_flight - moment.in_flight
    assert more == moment.admitted, f"{'admitted' if moment.admitted else 'refused'}, and {more} more in flight"
    if moment.admitted:
        assert history.state in (*FLOWING, State.HALF_OPEN), f"admitted, while {history.state}"
    else:
        assert history.state not in FLOWING, f"refused, while {history.state}"
        assert moment.began_era or history.picture().counts == moment.before.counts, "a refusal was counted"


def an_open_time_is_kept(history: History, moment: Moment) -> None:
    """Nobody is admitted before the open time is over, and the first who comes after it is."""
    if moment.admitted is None or moment.before.state is not State.OPEN:
        return
    assert moment.admitted == (history.now >= moment.before.until)
    opened = [each for each in history.subject.log if isinstance(each, Transition) and each.new is State.OPEN][-1]
    assert opened.open_for is None or moment.before.until == opened.at + opened.open_for


def no_era_touches_another(history: History, moment: Moment) -> None:
    """A result counts in the era that admitted its call, or nowhere; every era begins with nothing counted."""
    seen = history.picture()
    if moment.late:
        assert not moment.in_time, "a late result was taken for one in time"
        assert moment.lapses or seen == moment.before, "a late result has changed something"
    elif moment.in_time is False:
        assert moment.lapses, "a result in time was taken for a late one"
    kinds = [outcome for outcome, _ in history.ended]
    counts = tuple(kinds.count(outcome) for outcome in Outcome)
    assert seen.counts == counts, f"counted {seen.counts}, of {counts} of its own"
    assert seen.trials[:3] in ((), history.verdicts()), f"verdicts {seen.trials[:3]}, of {history.verdicts()} of its own"
    assert not moment.began_era or not any(reading.count for reading in seen.readings), "an era begins with a window of another"


INVARIANTS = [
    never_more_than_concurrent_trials,
    slots_are_neither_lost_nor_made,
    events_equal_transitions,
    no_refused_call_ran,
    an_open_time_is_kept,
    no_era_touches_another,
]


def never_stuck(history: History) -> None:
    """Though every running call hangs for ever: 2 x `count` calls that succeed, and waiting when told to, close the circuit.

    The waiting is one lease and one open time at most. What an order keeps as it is needs one more order.
    """
    circuit, trials = history.circuit, history.world.rules.trials
    if history.state is State.FORCED_OPEN:
        assert history.subject.admit(history.now) is None
        circuit.half_open(history.now)
    elif history.state is not State.CLOSED and history.state in FLOWING:
        assert history.subject.admit(history.now) is not None
        circuit.let_flow(history.now, State.CLOSED, "by hand")
    began = history.now
    for _ in range(2 * trials.count):
        if circuit.era.state is State.CLOSED:
            break
        delay = circuit.retry_after(history.now)
        assert delay is not None
        history.now += delay
        held = history.subject.admit(history.now)
        if held is not None:
            history.subject.settle(held, Outcome.SUCCESS, history.now, None)
    assert circuit.era.state is State.CLOSED, f"still {circuit.era.state}"
    assert history.now - began <= history.world.lease + history.world.longest_open, "it took too long"


PROMISES = [never_stuck]


# -- the worlds: a second is a step, an open time takes two, a lease three, and a call is slow after two


def rules(trials: Trials, *trip: Condition, schedule: Schedule = Fixed(2.0)) -> Rules:  # noqa: B008 - frozen
    return Rules(trip or (ConsecutiveFailures(2),), schedule, 0.0, replace(trials, lease=3.0))


SLOW = SlowCallRate(1.0, 2.0, LastCalls(2), minimum_calls=2)
IN_FLIGHT = SlowCallRate(1.0, 2.0, LastCalls(2), minimum_calls=2, count_in_flight=True)
RATE = FailureRate(0.5, LastCalls(2), minimum_calls=2)
ORDERS = ("open", "half_open", "force_open", "closed")

WORLDS = {
    "one trial": World(rules(Trials(1, max_inconclusive=2))),
    "two trials, one by one": World(rules(Trials(2, max_inconclusive=2)), callers=3),
    "two trials at once": World(rules(Trials(2, concurrent=2, max_inconclusive=2))),
    "two trials at once, one success closes": World(rules(Trials(2, 2, required=1, max_inconclusive=1)), callers=3),
    "three trials, two at once, two successes close": World(rules(Trials(3, 2, 2, max_inconclusive=1)), callers=3),
    "slow calls": World(rules(Trials(2, 2, max_inconclusive=1), SLOW), window=2, callers=3),
    "calls in flight": World(rules(Trials(1, max_inconclusive=1), IN_FLIGHT), window=2, callers=3),
    "a failure rate": World(rules(Trials(1), RATE), window=2, callers=3),
    "growing open times and hints": World(
        rules(Trials(2, 2, max_inconclusive=2), schedule=Exponential(1.0, 2.0, 4.0)), callers=3, hints=(None, 1.0)
    ),
    "orders": World(rules(Trials(2, 2, max_inconclusive=2)), callers=3, orders=(*ORDERS, "disabled")),
    "orders and holds": World(
        rules(Trials(max_inconclusive=1)), callers=2, orders=(*ORDERS, "metrics_only", "hold", "release")
    ),
    "only measuring": World(
        rules(Trials(), ConsecutiveFailures(1), RATE),
        window=2,
        hints=(None, 1.0),
        begin=("metrics_only",),
        orders=("metrics_only",),
    ),
}

BY_ITSELF = {
    (State.CLOSED, State.OPEN, Cause.TRIPPED),
    (State.OPEN, State.HALF_OPEN, Cause.DUE),
    (State.HALF_OPEN, State.OPEN, Cause.TRIAL_FAILED),
    (State.HALF_OPEN, State.OPEN, Cause.LEASE_EXPIRED),
    (State.HALF_OPEN, State.OPEN, Cause.INCONCLUSIVE),
    (State.HALF_OPEN, State.CLOSED, Cause.RECOVERED),
}
HINTED = {(State.CLOSED, State.OPEN, Cause.HINTED), (State.HALF_OPEN, State.OPEN, Cause.HINTED)}
FLOORS = {  # states and steps, at least
    "one trial": (500, 4500),
    "two trials, one by one": (550, 4500),
    "two trials at once": (1300, 13000),
    "two trials at once, one success closes": (450, 4200),
    "three trials, two at once, two successes close": (1000, 9500),
    "slow calls": (1200, 11000),
    "calls in flight": (900, 8000),
    "a failure rate": (350, 2800),
    "growing open times and hints": (750, 12000),
    "orders": (850, 12000),
    "orders and holds": (800, 10000),
    "only measuring": (500, 6500),
}


def check_that_it_was_seen(census: Census, world: World) -> None:
    """Everything that can happen in this world has happened."""
    assert census.late
    if "metrics_only" in world.begin:
        assert census.changes == {(State.CLOSED, State.OPEN, cause) for cause in (Cause.TRIPPED, Cause.HINTED)}  # shadows
        return
    assert census.refusals
    assert census.lapses
    assert census.changes >= BY_ITSELF
    assert (census.changes >= HINTED) == (world.hints != (None,))
    if not world.orders:
        assert census.changes <= BY_ITSELF | HINTED


@pytest.mark.parametrize("name", WORLDS)
def test_every_interleaving(name: str) -> None:
    census = explore(WORLDS[name], INVARIANTS, PROMISES)
    states, steps = FLOORS[name]
    assert census.states >= states, census
    assert census.steps >= steps, census
    check_that_it_was_seen(census, WORLDS[name])


@pytest.mark.parametrize(
    ("way_in", "trip"),
    [
        (by_decorator, ConsecutiveFailures(2)),
        (by_decorator, SLOW),
        (by_decorator, IN_FLIGHT),
        (by_call, SLOW),
        (by_guard, SLOW),
    ],
)
def test_every_interleaving_of_real_guards_is_one_of_the_circuit(way_in: WayIn, trip: Condition) -> None:
    world = World(rules(Trials(2, 2, max_inconclusive=1), trip), callers=2, window=2 * (trip != ConsecutiveFailures(2)))

    async def walk() -> Census:  # in a loop, for guards ask it what a cancellation is
        return explore(replace(world, make=partial(Stepped, way_in=way_in)), INVARIANTS, PROMISES)

    census = anyio.run(walk)
    check_that_it_was_seen(census, world)
    assert census == explore(world, [], [])


# -- the proof that the invariants can be broken


FAULTS: list[tuple[type[Circuit], Invariant | Promise]] = [
    (faulty.SlotTwice, never_more_than_concurrent_trials),
    (faulty.LateCancellationMakesASlot, never_more_than_concurrent_trials),
    (faulty.EndlessLease, slots_are_neither_lost_nor_made),
    (faulty.CancelledKeepsItsSlot, slots_are_neither_lost_nor_made),
    (faulty.RefusesWithASlotFree, slots_are_neither_lost_nor_made),
    (faulty.CountsAnEndTwice, slots_are_neither_lost_nor_made),
    (faulty.TellsNothing, events_equal_transitions),
    (faulty.TellsTwice, events_equal_transitions),
    (faulty.TellsOutOfOrder, events_equal_transitions),
    (faulty.AdmitsWhileOpen, no_refused_call_ran),
    (faulty.CountsRefusals, no_refused_call_ran),
    (faulty.OpensEarly, an_open_time_is_kept),
    (faulty.StaysOpen, an_open_time_is_kept),
    (faulty.LateCounts, no_era_touches_another),
    (faulty.LateTrialCounts, no_era_touches_another),
    (faulty.KeepsVerdicts, no_era_touches_another),
    (faulty.EndlessLease, never_stuck),
    (faulty.StaysOpen, never_stuck),
    (faulty.WantsTooMuch, never_stuck),
]


def test_every_invariant_has_a_fault() -> None:
    assert {guardian for _, guardian in FAULTS} == {*INVARIANTS, *PROMISES}


@pytest.mark.parametrize(("fault", "guardian"), FAULTS, ids=lambda each: each.__name__)
def test_a_fault_is_found_by_the_invariant_that_is_there_for_it(fault: type[Circuit], guardian: Invariant | Promise) -> None:
    world = World(rules(Trials(3, 2, max_inconclusive=2)), callers=3, make=partial(Bare, kind=fault))
    with pytest.raises(BrokenInvariant) as found:
        explore(world, [each for each in INVARIANTS if each is guardian], [each for each in PROMISES if each is guardian])
    assert found.value.invariant == guardian.__name__
    assert found.value.path
