"""The algorithms in front of a server whose capacity is known: the limit that they find is near it, and follows it.

The server has so many workers and a queue without end; a call takes about a service time, plus its time in the queue. So by
Little's law (which the original's README begins with) the server is fully used from `workers` calls at once on, and with L
calls at once each takes L / workers service times. Time is virtual, and chance is seeded.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, pstdev

import pytest

from aiobreaker.core.limits import AIMD, Algorithm, Gradient2, Meter, Vegas


@dataclass(frozen=True)
class Phase:
    """So many seconds with so many workers, so many seconds of service, and calls wanted per second."""

    seconds: float
    workers: int
    wanted: float
    service: float = 0.1


@dataclass
class Seen:
    """One second: the limit at its end, the mean time of its calls, how many ended."""

    limit: int
    rtt: float
    ended: int


def simulate(algorithm: Algorithm, *phases: Phase, seed: int = 1, spread: float = 0.3) -> list[list[Seen]]:
    """What was seen in each second of each phase. Service takes up to `spread` more or less than it should."""
    chance = random.Random(seed)
    meter = Meter(algorithm, chance.random)
    running: list[tuple[float, float, int]] = []  # end, beginning, calls in flight
    seen: list[list[Seen]] = []
    now = start = next_call = 0.0
    free: list[float] = []  # when each worker is free
    for phase in phases:
        free = [*([now] * phase.workers), *sorted(free)][-phase.workers :]
        heapq.heapify(free)
        seen.append([])
        times: list[float] = []
        while now < start + phase.seconds:
            if now >= start + len(seen[-1]) + 1:
                seen[-1].append(Seen(meter.limit, mean(times) if times else 0.0, len(times)))
                times = []
            if running and running[0][0] <= next_call:
                now, began, in_flight = heapq.heappop(running)
                meter.running -= 1
                meter.take(now, now - began, in_flight)
                times.append(now - began)
                continue
            now = next_call
            next_call += chance.expovariate(phase.wanted)
            if meter.running < meter.limit:
                meter.running += 1
                end = max(heapq.heappop(free), now) + phase.service * chance.uniform(1 - spread, 1 + spread)
                heapq.heappush(free, end)
                heapq.heappush(running, (end, now, meter.running))
        start += phase.seconds
    return seen


def at_ease(workers: int, seconds: float = 30) -> Phase:
    """60 % of what the server can do."""
    return Phase(seconds, workers, 0.6 * workers / 0.1)


def overload(workers: int, seconds: float = 60) -> Phase:
    """Three times what the server can do."""
    return Phase(seconds, workers, 3 * workers / 0.1)


def settled(phase: Sequence[Seen], last: int = 20) -> tuple[int, int, float, float]:
    """Of the last seconds of a phase: the lowest and highest limit, the mean time, and how many calls ended per second."""
    seconds = phase[-last:]
    limits = [second.limit for second in seconds]
    return min(limits), max(limits), mean(second.rtt for second in seconds), mean(second.ended for second in seconds)


SIZES = [5, 10, 20, 40, 80]


@pytest.mark.parametrize("workers", SIZES)
def test_gradient2_settles_at_its_tolerance_times_the_capacity(workers: int) -> None:
    """Where it rests, gradient x limit + 4 = limit: at 1.5 x capacity + 4, as long as the average is what it was at ease."""
    _, busy = simulate(Gradient2(initial_limit=workers, max_limit=1000), at_ease(workers), overload(workers))
    low, high, rtt, ended = settled(busy)
    assert 1.4 * workers + 2 <= low <= high <= 1.75 * workers + 8
    assert rtt < 0.1 * (1.75 + 8 / workers)
    assert ended > 0.95 * workers / 0.1


@pytest.mark.parametrize("workers", SIZES)
def test_vegas_settles_three_to_six_above_the_capacity(workers: int) -> None:
    """Between alpha and beta calls queue: 3 to 6 of them below a limit of 100. One less, because the queue is rounded up."""
    _, busy = simulate(Vegas(initial_limit=10), at_ease(workers), overload(workers, seconds=90), spread=0)
    low, high, rtt, ended = settled(busy)
    assert workers + 2 <= low <= high <= workers + 6
    assert rtt < 0.1 * (1 + 7 / workers)
    assert ended > 0.95 * workers / 0.1


def test_vegas_lets_less_through_where_times_vary() -> None:
    """The shortest time is below the usual one. The original's Gradient2 gives that as the reason why it is there."""
    _, busy = simulate(Vegas(window=0), at_ease(20), overload(20), spread=0.9)
    assert settled(busy)[1] < 20
    _, busy = simulate(Gradient2(), at_ease(20), overload(20), spread=0.9)
    assert settled(busy)[0] > 20


@pytest.mark.parametrize("workers", SIZES[1:])
def test_aimd_settles_where_calls_take_as_long_as_its_timeout(workers: int) -> None:
    """With L at once each takes L / workers x 0.1 s: 0.25 s with 2.5 times as many as there are workers."""
    _, busy = simulate(AIMD(timeout=0.25, max_limit=1000), at_ease(workers), overload(workers, seconds=240))
    low, high, rtt, ended = settled(busy)
    assert 2.5 * workers * 0.8 <= low <= high <= 2.5 * workers * 1.15
    assert rtt < 0.25 * 1.15
    assert ended > 0.95 * workers / 0.1


def kind(algorithm: Algorithm) -> str:
    return type(algorithm).__name__


FOLLOWERS = pytest.mark.parametrize(("algorithm", "spread"), [(Gradient2(), 0.3), (Vegas(), 0.0)], ids=["Gradient2", "Vegas"])


@FOLLOWERS
def test_the_limit_follows_when_workers_come_and_go(algorithm: Algorithm, spread: float) -> None:
    script = [at_ease(10), overload(10), at_ease(10), overload(30), at_ease(30), overload(10, seconds=90)]
    few, many, few_again = map(settled, simulate(algorithm, *script, spread=spread)[1::2])
    assert 10 < few[0] <= few[1] < 30 < many[0] <= many[1] < 70  # a minute of overload has moved the average of Gradient2
    assert 10 < few_again[0] <= few_again[1] < 35


@FOLLOWERS
def test_the_limit_falls_when_calls_become_slower_and_comes_back(algorithm: Algorithm, spread: float) -> None:
    """Limits that were enough are too much for a server that takes ten times as long; all calls pass when it is well again."""
    well, slow = Phase(40, 30, 200), Phase(40, 30, 200, service=1.0)
    before, meanwhile, after = simulate(algorithm, well, slow, well, spread=spread)
    assert settled(meanwhile, 1)[1] <= settled(before)[0] - 20
    assert settled(after)[3] > 0.95 * 200


@pytest.mark.parametrize("algorithm", [Gradient2(), Vegas(), AIMD(timeout=0.25)], ids=kind)
def test_the_limit_rests_when_load_goes(algorithm: Algorithm) -> None:
    """Calls that are not there say nothing about how many there could be."""
    *_, idle = simulate(algorithm, at_ease(20), overload(20), Phase(60, 20, 10))
    limits = [second.limit for second in idle[2:]]
    assert set(limits) == {limits[0]}


def test_without_a_limit_calls_take_longer_and_longer() -> None:
    """The control: what the limits above prevent."""
    (busy,) = simulate(AIMD(initial_limit=10**6, max_limit=10**6, timeout=1e6), overload(10, seconds=30))
    assert busy[-1].rtt > 10


def test_an_overload_that_lasts_becomes_normal_to_gradient2() -> None:
    """It grows by e in about 601 windows: the average moves by 2/601 of the difference, which is half of itself.

    So it doubles within 601 x ln 2 = 417 seconds, or a little less because of the queue that it allows.
    """
    _, busy = simulate(Gradient2(max_limit=1000), at_ease(10), overload(10, seconds=600))
    early = mean(second.limit for second in busy[90:110])
    doubled = next(second for second, seen in enumerate(busy) if seen.limit >= 2 * early)
    assert 300 <= doubled - 100 <= 420


def test_vegas_grows_by_what_it_lets_queue_each_time_it_measures_anew() -> None:
    """What it takes for the shortest time then has a queue in it. That is after at most 30 x 20 seconds."""
    _, busy = simulate(Vegas(), at_ease(10), overload(10, seconds=700), spread=0)
    assert settled(busy[:60])[1] <= 16
    assert 16 < settled(busy)[0] <= settled(busy)[1] <= 16 + 3 * 6


@pytest.mark.parametrize("algorithm", [Gradient2, AIMD], ids=["Gradient2", "AIMD"])
def test_call_by_call_they_swing(algorithm: type[Gradient2] | type[AIMD]) -> None:
    """Why a sample is a window: a call's time is that of the limit when it began, and many calls say the same at once."""
    settings = {"timeout": 0.25} if algorithm is AIMD else {}
    _, windows = simulate(algorithm(**settings), at_ease(10), overload(10))  # type: ignore[arg-type]
    _, calls = simulate(algorithm(window=0, **settings), at_ease(10), overload(10))  # type: ignore[arg-type]
    swing_of_windows, swing_of_calls = (pstdev(second.limit for second in busy[20:]) for busy in (windows, calls))
    assert swing_of_calls > 3 * swing_of_windows
