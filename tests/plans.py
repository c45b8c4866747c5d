"""Random plans for a breaker: settings, and what is done to it, step by step. Data only; `beside.py` plays them."""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from aiobreaker import Outcome, State
from aiobreaker.core.circuit import Rules

from .core.strategies import other_rules, rules, states


class DownError(Exception):
    """The dependency failed."""


class IgnoredError(Exception):
    """An error that says nothing about the dependency."""


class OddError(Exception):
    """An error that is nobody's failure: the dependency answered."""


class AbortedError(BaseException):
    """No `Exception`, and no cancellation."""


class Reply(NamedTuple):
    """What a call returns."""

    bad: bool = False
    hint: float | None = None


class Ending(NamedTuple):
    """How a call ends: it raises an error, or returns a reply; either may carry the server's hint."""

    kind: str = "reply"
    hint: float | None = None

    def make(self) -> Reply | BaseException:
        if self.kind in ("reply", "bad reply"):
            return Reply(self.kind == "bad reply", self.hint)
        error: BaseException = {
            "down": DownError("down"),
            "ignored": IgnoredError("not its fault"),
            "odd": OddError("no such thing"),
            "mixed group": ExceptionGroup("several", [IgnoredError("not its fault"), DownError("down")]),
            "ignored group": ExceptionGroup("several", [IgnoredError("not its fault")]),
            "aborted": AbortedError(),
        }[self.kind]
        error.hint = self.hint  # type: ignore[attr-defined]
        return error


KINDS = {
    "reply": Outcome.SUCCESS,
    "bad reply": Outcome.FAILURE,
    "down": Outcome.FAILURE,
    "ignored": Outcome.IGNORED,
    "odd": Outcome.SUCCESS,
    "mixed group": Outcome.FAILURE,
    "ignored group": Outcome.IGNORED,
    "aborted": Outcome.IGNORED,
}
LONGEST_HINT = 20.0  # seconds; more is not followed

WAYS_IN = ("decorator", "new decorator", "call", "guard", "checked guard", "acquire")


class Start(NamedTuple):
    """A call begins, by one of the ways in, and is held open."""

    way: str


class End(NamedTuple):
    """One of the calls that are running ends."""

    which: int
    ending: Ending


class Cancel(NamedTuple):
    """One of them is cancelled."""

    which: int


class AtOnce(NamedTuple):
    """A call from beginning to end."""

    way: str
    ending: Ending


class Wait(NamedTuple):
    """Time passes."""

    seconds: float


class WaitUntilDue(NamedTuple):
    """Time passes until a call could be admitted, and so much more; or less, but never back."""

    more: float


class Order(NamedTuple):
    """Control by hand."""

    state: State
    seconds: float | None = None


class Isolate(NamedTuple):
    """A hold begins."""


class Release(NamedTuple):
    """One of the holds ends."""

    which: int


class Reconfigure(NamedTuple):
    """Other settings."""

    rules: Rules


class Watch(NamedTuple):
    """Somebody asks for the events of single calls, or ceases to."""


Step = Start | End | Cancel | AtOnce | Wait | WaitUntilDue | Order | Isolate | Release | Reconfigure | Watch


class Plan(NamedTuple):
    """Settings and steps. `judged` gives it rules for results and hints; `observed` an observer of transitions."""

    rules: Rules
    judged: bool
    observed: bool
    steps: list[Step]

    @property
    def in_flight(self) -> bool:
        return any(getattr(condition, "count_in_flight", False) for condition in self.rules.conditions)


SECONDS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 1e6])
ways = st.sampled_from(WAYS_IN)
hints = st.sampled_from([None] * 20 + [0.0, 5.0, 1000.0])
foul_weather = st.builds(Ending, st.sampled_from(["reply", "down"] * 4 + list(KINDS)), hints)
fair_weather = st.builds(Ending, st.sampled_from(["reply"] * 16 + list(KINDS)), hints)
numbers = st.integers(0, 7)  # of one among those that are there


def _steps(in_flight: bool, endings: st.SearchStrategy[Ending], orders: bool) -> st.SearchStrategy[Step]:
    usual: list[st.SearchStrategy[Any]] = [
        *[st.builds(Start, ways)] * 4,
        *[st.builds(AtOnce, ways, endings)] * 4,
        *[st.builds(End, numbers, endings)] * 4,
        *[st.builds(WaitUntilDue, st.sampled_from([0.0, 0.0, 0.0, -0.25, 0.25]))] * 3,
        *[st.builds(Wait, SECONDS)] * 2,
        st.builds(Cancel, numbers),
    ]
    rare: list[st.SearchStrategy[Any]] = [
        st.builds(Order, states, st.sampled_from([None, None, 0.5, 5.0, 100.0])),
        st.builds(Isolate),
        *[st.builds(Release, numbers)] * 2,
        st.builds(Reconfigure, other_rules(in_flight)),
        st.builds(Watch),
    ]
    steps: st.SearchStrategy[Step] = st.sampled_from(usual + rare if orders else usual).flatmap(lambda kind: kind)
    return steps


@st.composite
def plans(draw: st.DrawFn, in_flight: bool = False) -> Plan:
    settings = draw(rules(in_flight))
    begin = draw(st.sampled_from([State.CLOSED, State.HALF_OPEN, State.METRICS_ONLY]))
    steps = _steps(in_flight, draw(st.sampled_from([fair_weather, foul_weather])), draw(st.booleans()))
    rounds = draw(st.lists(st.lists(steps, min_size=1, max_size=12), max_size=12))
    taken = [Order(begin), *(step for steps in rounds for step in steps)]
    return Plan(settings, draw(st.booleans()), draw(st.booleans()), taken)
