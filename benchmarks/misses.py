"""How far the quick form can be trusted: runs it many times, half of them on a busy machine, and counts each bar's misses."""

import argparse
import contextlib
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

from .report import Bars
from .rows import Row
from .run import quick

Seen = dict[tuple[str, str], list[Row]]


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """A block in which every core has another process to run."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()


def collect(seen: Seen, bars: Bars) -> None:
    """Add one run."""
    for loop, rows in bars.items():
        for row in rows:
            if row.bar is not None:
                seen[loop, row.name].append(row)


def table(calm: Seen, busy: Seen) -> str:
    """A line for each bar: how often it was missed, and the farthest that it was seen from the good side."""
    lines = [f"{'':<72} {'bar':>14} {'calm: missed, worst':>20} {'busy: missed, worst':>20}"]
    for key, rows in calm.items():
        loop, name = key
        cells = [_cell(rows), _cell(busy.get(key, []))]
        lines.append(f"{loop + ': ' if loop else ''}{name}".ljust(72) + f" {rows[0].limit:>14} {cells[0]:>20} {cells[1]:>20}")
    return "\n".join(lines)


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    worst = (min if rows[0].at_least else max)(row.value for row in rows)
    return f"{sum(row.missed for row in rows)} of {len(rows)}, {rows[0].shown(worst)}"


def main() -> None:
    """Run and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="how many runs; every second one on a busy machine")
    calm: Seen = defaultdict(list)
    busy: Seen = defaultdict(list)
    for turn in range(parser.parse_args().repeat):
        print(f"run {turn + 1}, {'busy' if turn % 2 else 'calm'}", file=sys.stderr)
        if turn % 2:
            with busy_machine():
                collect(busy, quick())
        else:
            collect(calm, quick())
    print(table(calm, busy))


if __name__ == "__main__":
    main()
