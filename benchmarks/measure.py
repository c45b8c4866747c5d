"""One process of the benchmarks: everything that is timed, under one event loop. Prints what it found as JSON.

`benchmarks.run` starts it, several times: ratios hold within a process, but some processes are slow as a whole.
"""

import argparse
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Self

import anyio

from . import peers, policy_peers
from .harness import PASSING, Case, measure
from .peer_cases import peer_cases
from .rows import Row

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}

KINDS = ("bars", "prices", "peers", "policies", "policy_prices")  # of rows


@dataclass(frozen=True)
class About:
    """What a table says of a peer beside its figures."""

    label: str
    counts: str
    cannot: tuple[str, ...]
    trio: bool


@dataclass(frozen=True)
class AboutToolkit:
    """What a table says of a toolkit beside the figures of its policies."""

    label: str
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What one process, or the best of several, has found under one event loop."""

    bars: list[Row]
    prices: list[Row]
    peers: list[Row]
    about: list[About]
    policies: list[Row]
    policy_prices: list[Row]
    toolkits: list[AboutToolkit]

    @classmethod
    def read(cls, text: str) -> Self:
        """From what another process has printed."""
        found = json.loads(text)
        about = [About(**each) for each in found["about"]]
        toolkits = [AboutToolkit(**each) for each in found["toolkits"]]
        return cls(**{kind: [Row(**row) for row in found[kind]] for kind in KINDS}, about=about, toolkits=toolkits)


async def everything(name: str, rounds: int, ours: bool) -> Measured:
    """Time the peers that are installed here, and our own breaker unless it is not the one that is installed."""
    bars: list[Row] = []
    barred: list[Case] = []
    priced: list[Case] = []
    if ours:
        from . import cases, fan_out, half_open, suspensions

        barred, priced = cases.barred() + cases.compared(), cases.priced()
    timed = await measure(barred + priced, rounds)
    # All else comes after: it leaves work in the event loop, and our refusals, which give way to it, would pay for that.
    if ours:
        bars += [
            Row("half-open: each of 10,000 refusals", await half_open.refusal_ratio(max(2, rounds // 20)), half_open.BAR),
            Row("event to 1,000 waiting readers, over streams", await fan_out.fan_out_ratio(max(10, rounds // 2)), fan_out.BAR),
            Row("each suspension, over the pass-through's", suspensions.suspension_ratio(rounds), suspensions.BAR),
        ]
    there = [peer for peer in peers.installed() if peer.trio or name != "trio"]
    theirs = [case for peer in there for case in await peer_cases(peer)]
    timed |= await measure(theirs, rounds)
    toolkits = policy_peers.installed() if ours else []
    beside: list[Case] = []
    policies_priced: list[Case] = []
    if ours:
        from . import policies

        beside, policies_priced = await policies.shared(toolkits, trio=name == "trio"), policies.priced()
    timed |= await measure(beside + policies_priced, rounds)

    def rows(timed_cases: list[Case]) -> list[Row]:
        return [Row(case.name, timed[case.name].total, case.bar, overhead=timed[case.name].overhead) for case in timed_cases]

    scale = Row("one pass-through call", await PASSING(10_000) * 1e5, unit="ns")
    about = [About(peer.label, peer.counts, peer.cannot, peer.trio) for peer in peers.installed()]
    return Measured(
        bars=rows(barred) + bars,
        prices=[*rows(priced), scale],
        peers=rows(theirs),
        about=about,
        policies=rows(beside),
        policy_prices=rows(policies_priced),
        toolkits=[AboutToolkit(toolkit.label, toolkit.differs) for toolkit in toolkits],
    )


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--peers-only", action="store_true", help="our own breaker is not installed here")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what a peer logs and warns of is not what is measured
    warnings.simplefilter("ignore")
    options = LOOPS[arguments.loop]
    found = anyio.run(everything, arguments.loop, arguments.rounds, not arguments.peers_only, **options)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
