"""Draws the state machine by driving it: `python -m tests.state_diagram` writes docs/states.md anew."""

from itertools import product
from pathlib import Path

from aiobreaker.core.circuit import Circuit, Rules
from aiobreaker.core.conditions import ConsecutiveFailures
from aiobreaker.core.eras import Permit, State, Trials
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.schedules import Fixed
from aiobreaker.core.transitions import Cause, Transition

PAGE = Path(__file__).parent.parent / "docs" / "states.md"

WORDS = {
    Cause.TRIPPED: "a condition is met",
    Cause.HINTED: "the server asks to be left alone",
    Cause.DUE: "the open time is over and a call comes",
    Cause.TRIAL_FAILED: "the trials cannot succeed any more",
    Cause.LEASE_EXPIRED: "a trial outlives its lease",
    Cause.INCONCLUSIVE: "too many trials without a verdict",
    Cause.RECOVERED: "enough trials succeed",
}

TEXT = """# States

Drawn from the code: a test drives the state machine through every short history and holds this page against what it saw.

```mermaid
stateDiagram-v2
    [*] --> CLOSED
{arrows}
```

Besides, each state, `FORCED_OPEN`, `DISABLED` and `METRICS_ONLY` included, can be reached by hand from every other, and left
to any other. In `METRICS_ONLY` nothing leads to `OPEN`: there a condition that is met is a `WouldOpen` event.

Every arrow begins a new **era**. An admitted call belongs to the era that admitted it and reports to that one; when the era
is over, its result changes nothing (it is still an event, `late=True`). So a late success cannot close an open circuit, a
late failure cannot end a round of trials, and a late cancellation gives out no slot. Reading the state never changes it. """

STIMULI = ["success", "failure", "cancelled", "hint", "hang", "wait"]


def transitions() -> set[tuple[State, State, Cause]]:
    """Every change that any history of up to six calls and waits can make."""
    seen: set[tuple[State, State, Cause]] = set()
    for history in product(STIMULI, repeat=6):
        rules = Rules((ConsecutiveFailures(2),), Fixed(10.0), 0.0, Trials(2, concurrent=2, lease=5.0, max_inconclusive=1))
        circuit, now = Circuit(rules, 0.0, lambda: 0.5), 0.0
        for stimulus in history:
            now = _apply(circuit, stimulus, now)
        seen |= {(each.old, each.new, each.cause) for each in circuit.log if isinstance(each, Transition)}
    return seen


def _apply(circuit: Circuit, stimulus: str, now: float) -> float:
    if stimulus == "wait":
        return now + 10.0
    permit = circuit.admit(now)
    if isinstance(permit, Permit) and stimulus != "hang":
        outcome = {"failure": Outcome.FAILURE, "cancelled": Outcome.CANCELLED}.get(stimulus, Outcome.SUCCESS)
        circuit.settle(permit, outcome, now, now, hint=7.0 if stimulus == "hint" else None)
    return now


def page() -> str:
    """The whole page."""
    order = list(State)
    found = sorted(transitions(), key=lambda arrow: (order.index(arrow[0]), order.index(arrow[1]), list(Cause).index(arrow[2])))
    return TEXT.format(arrows="\n".join(f"    {old.name} --> {new.name}: {WORDS[cause]}" for old, new, cause in found))


if __name__ == "__main__":
    PAGE.write_text(page())
