"""One line of the results: what was measured, how much it was, and the bar that it must stay under, or reach."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

DECIMALS = {"B": 0, "ms": 1, "ns": 0, "of": 0}


@dataclass(frozen=True)
class Row:
    """A figure. `unit` is x for a ratio, or one of DECIMALS. `at_least` turns the bar round."""

    name: str
    value: float
    bar: float | None = None
    unit: str = "x"
    at_least: bool = False
    overhead: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it is on the wrong side of its bar."""
        return self._beyond(1.0)

    @property
    def gross(self) -> bool:
        """Whether it is so far on the wrong side that noise cannot have done it: twice."""
        return self._beyond(2.0)

    def _beyond(self, factor: float) -> bool:
        if self.bar is None:
            return False
        return self.value < self.bar / factor if self.at_least else self.value > self.bar * factor

    @property
    def verdict(self) -> str:
        """In words."""
        if self.bar is None:
            return ""
        return "MISSED" if self.missed else "pass"

    def shown(self, value: float | None) -> str:
        """A value of its kind as text."""
        if value is None:
            return ""
        return f"{value:.2f}" if self.unit == "x" else f"{value:.{DECIMALS[self.unit]}f} {self.unit}".removesuffix(" of")

    @property
    def limit(self) -> str:
        """The bar as text."""
        if self.bar is None:
            return ""
        return f"{'at least' if self.at_least else 'at most'} {self.shown(self.bar)}"


def best(runs: Iterable[list[Row]]) -> list[Row]:
    """Each row at its lowest among these runs, which have the same rows."""
    lowest: dict[str, Row] = {}
    for rows in runs:
        for row in rows:
            seen = lowest.setdefault(row.name, row)
            overheads = [each for each in (seen.overhead, row.overhead) if each is not None]
            lowest[row.name] = replace(seen, value=min(seen.value, row.value), overhead=min(overheads, default=None))
    return list(lowest.values())
