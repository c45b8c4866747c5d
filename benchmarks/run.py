"""Measures the breaker and the policies beside a pass-through wrapper and their peers.

`python -m benchmarks.run` measures everything, under every event loop, and writes benchmarks/results.md; with
`uv run --group peers` the other breakers and toolkits are there. `--quick` prints the bars only, under asyncio and trio.

A bar that is missed says so. The exit code is 1 only if some figure is more than twice off its bar: noise stops nothing.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from . import report
from .bars import policies_against_peers, timed_bars, weighed_bars
from .measure import LOOPS, Measured
from .processes import joined, measured, older
from .rows import Row

PROCESSES = 3
RESULTS = Path(__file__).parent / "results.md"
SOURCE = Path(__file__).parent.parent / "aiobreaker"


def quick() -> dict[str, list[Row]]:
    """The bars by event loop; those that have to do with none are under the empty name."""
    found = {loop: measured(loop, 20, PROCESSES) for loop in ("asyncio", "trio")}
    by_loop = {loop: timed_bars(each) + policies_against_peers(each) for loop, each in found.items()}
    return {**by_loop, "": weighed_bars(5, keys=50_000)}


def full() -> dict[str, Measured]:
    """Everything, by event loop."""
    found = {}
    for loop in LOOPS:
        print(f"measuring under {loop}", file=sys.stderr)
        found[loop] = joined(measured(loop, 100, PROCESSES), older(loop, 100, PROCESSES))
    return found


def fingerprint() -> str:
    """Of the breaker's source: a page must not mix figures of two versions."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.rglob("*.py")))).hexdigest()


def main() -> int:
    """Measure, print, and say whether anything is grossly off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the bars only, under asyncio and trio")
    if parser.parse_args().quick:
        bars = quick()
    else:
        before, found, weighed = fingerprint(), full(), weighed_bars(15, keys=1_000_000)
        if fingerprint() != before:
            print("the source was changed while it was measured: nothing is written", file=sys.stderr)
            return 1
        timed = {loop: timed_bars(each) for loop, each in found.items()}
        beside = {loop: policies_against_peers(each) for loop, each in found.items()}
        RESULTS.write_text(report.page(found, {**timed, "": weighed}, beside))
        print(f"written: {RESULTS.relative_to(RESULTS.parent.parent)}")
        bars = {**{loop: timed[loop] + beside[loop] for loop in found}, "": weighed}
    print(report.verdicts(bars))
    return int(any(row.gross for rows in bars.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
