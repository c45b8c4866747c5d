"""Puts the figures on paper: the bars as text for a terminal, everything as a page for a reader who knows nothing of it."""

import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata

from . import policy_peers
from .cases import OURS
from .measure import About, Measured
from .peer_cases import BLOCK, CALL, DECORATOR, FAILING, PLAIN, REFUSAL, WAYS, title
from .peers import ADAPTERS
from .rows import Row

Bars = dict[str, list[Row]]


def verdicts(bars: Bars) -> str:
    """The bars with pass or MISSED, for a terminal."""
    lines = []
    for loop, rows in bars.items():
        lines.append(f"\n{loop or 'memory and import'}, Python {platform.python_version()}")
        lines += [f"  {row.name:<62} {row.shown(row.value):>9}  {row.limit:<14} {row.verdict}".rstrip() for row in rows]
    missed = sum(row.missed for rows in bars.values() for row in rows)
    lines.append(f"\n{missed} of {sum(row.bar is not None for rows in bars.values() for row in rows)} bars missed")
    return "\n".join(lines)


def page(found: dict[str, Measured], bars: Bars, policies: Bars) -> str:
    """Everything, in Markdown. `bars` are the breaker's, `policies` those of the policies."""
    first = next(iter(found.values()))
    about, toolkits = first.about, first.toolkits
    timed = {loop: rows for loop, rows in bars.items() if loop}
    parts = [
        HEAD.format(**_circumstances([*(peer.label for peer in about), *(toolkit.label for toolkit in toolkits)])),
        _across(timed),
        MEMORY,
        _table(["", "measured", "bar", ""], ([row.name, row.shown(row.value), row.limit, row.verdict] for row in bars[""])),
        PRICES,
        _across({loop: each.prices for loop, each in found.items()}),
        PEERS,
        _table(["", "counts", *_PEER_COLUMNS], _peer_lines(found, about)),
        CANNOT,
        *(f"* {peer.label}: {'; '.join(peer.cannot)}." for peer in about),
        *_missing(ADAPTERS, [peer.label for peer in about]),
        POLICIES,
        _across({loop: each.policies for loop, each in found.items()}),
        OVER_OURS,
        _across(policies),
        DIFFERS,
        *(f"* {toolkit.label}: {'; '.join(toolkit.differs)}." for toolkit in toolkits if toolkit.differs),
        *_missing(policy_peers.ADAPTERS, [toolkit.label for toolkit in toolkits]),
        POLICY_PRICES,
        _across({loop: each.policy_prices for loop, each in found.items()}),
    ]
    return "\n".join(parts) + "\n"


HEAD = """\
# How fast it is

Measured on {date} with Python {python} on {machine}; {versions}.
Written by `python -m benchmarks.run`; do not edit.

What is timed is a guarded `async def noop(): ...`, the worst case for whatever is wrapped around it: behind a call that takes
a millisecond none of this is seen. The unit is one call through the least wrapper that there can be,

```python
async def wrapper(*args, **kwargs):
    return await fn(*args, **kwargs)
```

so 2.0 means: twice the total time of a call through that wrapper. Every sample, about a third of a millisecond, stands
between two samples of the wrapper and two of the bare function, taken right before and after it; the figure is the median of
these ratios over many rounds in shuffled order, the best of three fresh processes. Time is the thread's own processor time.
Nanoseconds differ from one minute to the next on a shared machine; these ratios do not. Failing and refused calls are compared
with a wrapper whose function raises. *Added* is the other way to look at it, under asyncio: what is added to the bare function,
over what the wrapper adds to it.

## The bars
"""

MEMORY = """
## Memory and import

Bytes by tracemalloc, on average over several hundred; breakers of one kind share the objects that say when to trip. Import is
the median, in processor time, of fresh processes that have imported asyncio and anyio before.
"""

PRICES = """
## Prices of options

No bars; how much an option, a state, or another way in costs, in the same unit. Slow calls in a time window are on
where nothing else is said.
"""

PEERS = """
## Other circuit breakers

In the same unit, under asyncio except where a column says otherwise. Each counts all that it can, up to failure rate and slow
calls; the table says what that is. *Plain* is the decorator again, counting no more than failures in a row, or what comes
nearest to that. An empty field: it has no such way, or does not run there.
"""

CANNOT = """
### What they cannot be told

Of a breaker that opens after so many failures in a row, stays open for so many seconds, and closes after so many trials.
"""

POLICIES = """
## The policies beside their peers

In the same unit, decorators around a call that succeeds, with settings that say the same, or as near to that as can be:
3 attempts on `OSError` with exponential back-off and jitter; 60 s for a timeout, a deadline, and the delay of a hedge, which
never pass; 10 calls at once, and nobody waits; more calls per second than anybody can make; None in place of an `OSError`;
a breaker that opens after 5 failures in a row, for 30 s. Of a cache, *hit* is one key over and over, and *miss* a new key every
time, with room for a million; when it is full, there is room for 1,024. The *chain of six* is fallback, rate limit, bulkhead,
retry, breaker, timeout. Nothing is timed under an event loop where it would not wholly work, even if this call would.
"""

OVER_OURS = """
### How many times ours they take
"""

DIFFERS = """
### What they do otherwise
"""

POLICY_PRICES = """
### Prices of policies

No bars: what nobody else has, and options.
"""


def _circumstances(labels: list[str]) -> dict[str, str]:
    names = [f"{name} {metadata.version(name)}" for name in ("anyio", "trio", "uvloop")]
    return {
        "date": f"{datetime.now(UTC):%d %B %Y}".lstrip("0"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "machine": f"{sys.platform}, {platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(dict.fromkeys([*names, *labels])),
    }


def _across(by_loop: Bars) -> str:
    """One line for each name, one column for each event loop; with the bars, if there are any."""
    rows: dict[str, dict[str, Row]] = {}
    for loop, each in by_loop.items():
        for row in each:
            rows.setdefault(row.name, {})[loop] = row
    lines = [_line(list(by_loop), seen) for seen in rows.values()]
    barred = any(line[-2] for line in lines)
    head = ["", *by_loop, "added", "bar", ""]
    return _table(head, lines) if barred else _table(head[:-2], [line[:-2] for line in lines])


def _line(loops: list[str], seen: dict[str, Row]) -> list[str]:
    first = next(iter(seen.values()))
    values = [first.shown(seen[loop].value) if loop in seen else "" for loop in loops]
    verdict = "MISSED" if any(row.missed for row in seen.values()) else first.verdict
    return [first.name, *values, first.shown(first.overhead), first.limit, verdict]


_PEER_COLUMNS = ["decorator", "added", "uvloop", "trio", "plain", "call", "block", "failing call", "refusal"]
_OURS = {
    DECORATOR: OURS,
    PLAIN: "decorator, consecutive failures",
    CALL: "call, time window and slow calls",
    BLOCK: "guard block, time window and slow calls",
    FAILING: "failing call, slow calls",
    REFUSAL: "refusal while open",
}


def _peer_lines(found: dict[str, Measured], about: list[About]) -> Iterable[list[str]]:
    rows = {loop: {row.name: row for row in each.bars + each.peers} for loop, each in found.items()}
    for peer in about:
        yield [peer.label, peer.counts, *_figures(rows, {way: title(peer.label, way) for way in WAYS})]
    yield ["this one", "failure rate and slow calls, last 60 s", *_figures(rows, _OURS)]


def _figures(rows: dict[str, dict[str, Row]], names: dict[str, str]) -> list[str]:
    def figure(loop: str, way: str) -> str:
        row = rows[loop].get(names[way])
        return row.shown(row.value) if row is not None else ""

    decorated = rows["asyncio"][names[DECORATOR]]
    across = [figure(loop, DECORATOR) for loop in ("asyncio", "uvloop", "trio")]
    others = [figure("asyncio", way) for way in (PLAIN, CALL, BLOCK, FAILING, REFUSAL)]
    return [across[0], decorated.shown(decorated.overhead), *across[1:], *others]


def _missing(names: Iterable[str], there: list[str]) -> list[str]:
    gone = [name for name in names if not any(label.startswith(name) for label in there)]
    return [f"\nNot installed, and not measured: {', '.join(gone)}."] if gone else []


def _table(head: list[str], lines: Iterable[list[str]]) -> str:
    """A Markdown table. Columns without a title and those of words begin at the left."""
    rule = ["---" if column in {"", "counts", "bar"} else "--:" for column in head]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
