"""Times the guards beside a pass-through wrapper: `python -m benchmarks.run --quick` prints each ratio against its bar.

The bars are aims, and a ratio above its bar says so. It informs and does not gate.
"""

import argparse
import sys
from typing import Any

import anyio

from .cases import closed_cases
from .fan_out import BAR, fan_out_ratio
from .harness import ratios

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, asyncio and trio only")
    quick: bool = parser.parse_args().quick
    for loop in ("asyncio", "trio") if quick else tuple(LOOPS):
        cases = closed_cases()
        found = anyio.run(ratios, cases, 40 if quick else 200, **LOOPS[loop])
        print(f"\n{loop}, Python {sys.version.split()[0]}: total time over that of a pass-through wrapper")
        for case in cases:
            ratio = found[case.name]
            verdict = "" if case.bar is None else f"(bar {case.bar:.1f}) {'pass' if ratio <= case.bar else 'MISSED'}"
            print(f"  {case.name:<45} {ratio:5.2f} {verdict}")
        ratio = anyio.run(fan_out_ratio, 15 if quick else 61, **LOOPS[loop])
        words = "1,000 waiting readers, over 1,000 memory streams"
        print(f"  {words:<45} {ratio:5.2f} (bar {BAR:.2f}) {'pass' if ratio <= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
