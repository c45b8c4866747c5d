"""Plain lines: for terminals that are none, for pipes and for logs. It also keeps silent, for those who want only the end."""

import sys
import textwrap
from types import TracebackType
from typing import Self

from ..breaker import Snapshot
from .record import Entry, Record
from .report import CAPTION, HEADER, rows

_WIDTH = 80


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Nothing to clean up."""

    def tell(self, entry: Entry) -> None:
        """Take no notice."""

    def draw(self, record: Record, seen: Snapshot) -> None:
        """Take no notice."""

    def finish(self, record: Record) -> None:
        """Take no notice."""


class Lines(Silent):
    """One line for everything that happens, and the table at the end."""

    def tell(self, entry: Entry) -> None:
        """Write the line."""
        _write(f"{entry.at:6.2f} s  {entry.who:7}  {entry.what}")

    def finish(self, record: Record) -> None:
        """Write the table."""
        if not record.sent:
            return
        _write("")
        for line in table(record):
            _write(line)


def table(record: Record) -> list[str]:
    """The table at the end, as text."""
    outages, between, total = rows(record)
    head = [part.split("\n") for part in HEADER]
    upper = [parts[0] if len(parts) > 1 else "" for parts in head]
    lower = [parts[-1] for parts in head]
    body = [list(row.cells) for row in (*outages, between)]
    last = list(total.cells)
    widths = [max(map(len, column)) for column in zip(upper, lower, *body, last, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    lines = [_line(cells, widths) for cells in (upper, lower)] + [rule]
    lines += [_line(cells, widths) for cells in body] + [rule, _line(last, widths), ""]
    return lines + textwrap.wrap(CAPTION, _WIDTH)


def _line(cells: list[str], widths: list[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join((cells[0].ljust(widths[0]), *numbers)).rstrip()


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
