"""The live screen: all that is drawn with rich. Every sign differs in shape too, for those who see no colours."""

from collections.abc import Iterator
from itertools import groupby
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..breaker import Snapshot
from ..core.conditions import FailureRate, SlowCallRate
from ..core.eras import State
from ..core.tallies import Reading
from .plot import TRIALS, Fault
from .record import Ending, Entry, Record
from .report import CAPTION, HEADER, rows
from .timeline import slices

_ENDINGS = {
    Ending.FINE: ("█", "green"),
    Ending.SLOW: ("▒", "yellow"),
    Ending.FAILED: ("✗", "bold red"),
    Ending.REFUSED: ("░", "cyan"),
}
_STATES = {
    State.CLOSED: ("━", "green"),
    State.OPEN: ("┄", "bold red"),
    State.HALF_OPEN: ("◐", "yellow"),
}
_SHORT = {Fault.REFUSED: "refused", Fault.ERRORS: "500s", Fault.HANGING: "hangs", Fault.SLOW: "slow"}
_FIXED_ROWS = 14  # of the screen: all but time line and events
_GUTTER = 9


class Screen:
    """The whole terminal while the demo runs; afterwards the time line and the table."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        self._live.update(Text("Starting the payment service ..."), refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._live.stop()

    def tell(self, entry: Entry) -> None:
        """Nothing to do: the next frame shows it."""

    def draw(self, record: Record, seen: Snapshot) -> None:
        """Draw one frame."""
        self._live.update(self.frame(record, seen), refresh=True)

    def frame(self, record: Record, seen: Snapshot) -> RenderableType:
        """Everything there is to see at this moment, as large as the terminal."""
        width, height = self._console.size
        spare = max(4, height - _FIXED_ROWS)
        return Group(
            _header(record, width),
            _panel("circuit breaker", _standing(record, seen, width - 4)),
            _panel("calls", _timeline(record, f"{seen.in_flight} in flight", width - 4, spare // 2)),
            _panel("events", _events(record, spare - spare // 2)),
        )

    def finish(self, record: Record) -> None:
        """Leave the time line and the table behind."""
        if record.interrupted_by is not None:
            self._console.print(f"Interrupted after {record.elapsed:.1f} s.", style="yellow")
        if not record.sent:
            return
        unfinished = f"{record.sent - len(record.calls)} unfinished"
        self._console.print(_panel("calls", _timeline(record, unfinished, self._console.width - 4, 5)))
        self._console.print(Text(), _table(record))


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=f"[bold]{title}[/]", title_align="left", border_style="dim", box=box.ROUNDED)


def _header(record: Record, width: int) -> Text:
    left = Text.assemble((" aiobreaker demo", "bold"), (f"  {record.backend}, seed {record.seed}", "dim"))
    right = f"{record.elapsed:.1f} of {record.plot.duration:g} s "
    return left.append(" " * max(1, width - len(left) - len(right))).append(right, "bold")


# -- how it stands


def _standing(record: Record, seen: Snapshot, width: int) -> RenderableType:
    readings, at_trip = (seen.readings, False) if seen.readings else (_last_readings(record), True)
    return Group(
        _labelled("service", _service(record)),
        _labelled("circuit", _circuit(seen)),
        *(_bar(reading, width, at_trip) for reading in readings),
    )


def _labelled(label: str, text: Text) -> Text:
    line = Text(label.ljust(_GUTTER), style="dim", no_wrap=True, overflow="ellipsis")
    return line.append_text(Text(style="not dim").append_text(text))


def _service(record: Record) -> Text:
    outage = record.outage
    if outage is None or outage.mended_at is not None:
        return Text.assemble((" WELL ", "bold black on green"), "  answers payments")
    return Text.assemble((f" {outage.fault.value.upper()} ", "bold white on red"), f"  {outage.fault.told}")


def _circuit(seen: Snapshot) -> Text:
    details = {
        State.CLOSED: f"calls pass, {seen.in_flight} in flight",
        State.OPEN: f"calls are refused, the next trial in {seen.retry_after or 0:.1f} s",
        State.HALF_OPEN: f"{seen.calls - seen.failures} of {TRIALS} trials succeeded",
    }
    colours = {State.CLOSED: "black on green", State.OPEN: "white on red", State.HALF_OPEN: "black on yellow"}
    name = seen.state.value.replace("_", "-").upper()
    return Text.assemble((f" {name} ", f"bold {colours[seen.state]}"), f"  {details[seen.state]}")


def _last_readings(record: Record) -> tuple[Reading, ...]:
    return next((event.readings for event in reversed(record.events) if event.readings), ())


def _bar(reading: Reading, width: int, at_trip: bool) -> Text:
    condition = reading.condition
    assert isinstance(condition, FailureRate | SlowCallRate)
    rate = reading.rate or 0.0
    size = max(10, width - _GUTTER - 34)
    colour = "red" if rate >= condition.rate else "yellow" if rate >= condition.rate / 2 else "green"
    line = Text(("slow" if isinstance(condition, SlowCallRate) else "failed").ljust(_GUTTER), style="dim", no_wrap=True)
    for cell in range(size):
        if cell == round(size * condition.rate):
            line.append("┃", "not dim bold")
        elif cell < round(size * rate):
            line.append("█", colour if at_trip else f"not dim {colour}")
        else:
            line.append("·", "dim")
    when = "at the trip" if at_trip else f"trips at {condition.rate:.0%}"
    return line.append(f" {rate:4.0%} of {reading.calls:3} calls ".rjust(19), "none" if at_trip else "not dim").append(when)


# -- the time line


def _timeline(record: Record, others: str, width: int, height: int) -> RenderableType:
    found = slices(record, max(1, width - _GUTTER))
    most = max(1, *(each.endings.total() for each in found))
    stacks = [each.stack(height, most) for each in found]
    lines = [
        Text(" " * _GUTTER).append_text(
            Text.assemble(*(_ENDINGS[stack[level]] if level < len(stack) else (" ", "") for stack in stacks))
        )
        for level in reversed(range(height))
    ]
    lines.append(_labelled("service", _service_band([each.fault if each.state else "" for each in found])))
    lines.append(_labelled("circuit", Text.assemble(*(_STATES[each.state] if each.state else (" ", "") for each in found))))
    lines.append(_legend(record, others))
    return Group(*lines)


def _service_band(faults: list[Fault | str | None]) -> Text:
    band = Text()
    for fault, run in groupby(faults):
        length = len(list(run))
        if isinstance(fault, Fault):
            band.append(_SHORT[fault][:length].center(length), "bold white on red")
        else:
            band.append(("━" if fault is None else " ") * length, "green")
    return band


def _legend(record: Record, others: str) -> Text:
    line = Text(f"{record.sent} sent".ljust(_GUTTER), style="bold", no_wrap=True, overflow="ellipsis")
    for ending, (sign, style) in _ENDINGS.items():
        line.append(f" {sign} ", f"not bold {style}").append(f"{record.endings[ending]} {ending.value} ", "not bold")
    return line.append(f" {others}", "not bold dim")


# -- events and the end


def _events(record: Record, count: int) -> RenderableType:
    lines = list(_told(record.story[-count:]))
    return Group(*lines, *(Text() for _ in range(count - len(lines))))


def _told(entries: list[Entry]) -> Iterator[Text]:
    for entry in entries:
        colour = _STATES[entry.state][1] if entry.state else "red" if entry.broken else "green"
        line = Text(f"{entry.at:5.1f} s  ", style="dim", no_wrap=True, overflow="ellipsis")
        line.append(f"{entry.who}  ", "not dim bold")
        change, colon, reason = entry.what.partition(": ") if entry.state else (entry.what, "", "")
        yield line.append(change.replace("->", "→"), f"not dim {colour}").append(f"{colon}{reason}", "not dim")


def _table(record: Record) -> Table:
    outages, between, total = rows(record)
    table = Table(
        box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_footer=True, caption=f"\n{CAPTION}"
    )
    table.caption_justify = "left"
    for name, footer in zip(HEADER, total.cells, strict=True):
        table.add_column(name, footer, justify="right", no_wrap=True, header_style="bold", footer_style="bold")
    table.columns[0].justify = "left"
    for row in outages:
        table.add_row(*row.cells)
    table.add_row(*between.cells, style="dim")
    return table
