"""The one list of facts that do not hold here, each with the reason. The libraries disagree with each other; our rules stand.

Law: the list cannot go stale. A test plays each of them and demands that it fails at the very place that is named.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Their rule and ours, and where they part.

    `place` is the number of the step, counted from 0 through steps and expectations; all before it holds. `refuses` is given
    instead when our settings cannot say it: the argument that the library refuses. `allows` is for facts about settings that
    cannot be: the values that are allowed here, all others being refused.
    """

    reason: str
    place: int | None = None
    refuses: str | None = None
    allows: tuple[tuple[str, object], ...] = ()


CONTRADICTIONS = {
    "R4J-09": Contradiction(
        "resilience4j decides only after all trials have ended; we decide as soon as the result is certain. Two slow trials of "
        "four are 50 %, so the circuit re-opens at the second and refuses the third.",
        place=2,
    ),
    "R4J-13": Contradiction(
        "resilience4j decides only after all trials have ended; we decide as soon as the result is certain. With three good "
        "trials of four the rate can only be 25 % or less, so the circuit closes at the third.",
        place=8,
    ),
    "R4J-21": Contradiction(
        "resilience4j can close a half-open circuit after a time in which nobody called; here time alone never closes one. "
        "Only successful trials do, or an order.",
        place=4,
    ),
    "R4J-29": Contradiction(
        "resilience4j lets a setting make cancellations failures; here no setting can, cancelled is always neutral. "
        "A caller who wants it settles the call as a failure by hand.",
        place=1,
    ),
    "R4J-31": Contradiction(
        "resilience4j gives a half-open round a time limit of its own and wants at least one second; our nearest setting is "
        "the lease of a trial, which may be any time above 0.",
        allows=(("max_half_open_s", 0.999),),
    ),
    "POL-11": Contradiction(
        "Polly judges only at failures, so that a success never opens the circuit; we judge at every recorded outcome, and the "
        "fourth call makes it 75 % of the least number of calls (R4J-01 says as we do).",
        place=7,
    ),
    "POL-37": Contradiction(
        "Polly wants a minimum of at least two calls; here one call is enough for those who say so.",
        allows=(("min_calls", 1),),
    ),
    "FSG-23": Contradiction(
        "failsafe-go accepts an open time of 0; here every duration is above 0, since a circuit that opens for no time refuses "
        "nothing.",
        refuses="open_for",
    ),
    "CKT-17": Contradiction(
        "cockatiel opens above a rate, so that a rate of 1 could never be reached; we open at the rate, and 1 means that all "
        "calls failed. It wants a number for the trials' rate; here None means that all trials must succeed.",
        allows=(("rate", 1), ("half_open_rate", None)),
    ),
    "SEM-13": Contradiction(
        "Semian can count errors that come close together as one; we count every failure, so the third one opens.",
        place=0,
    ),
}
