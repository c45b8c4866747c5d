"""What the demo makes of a record: exact numbers in the table, honest slices in the time line, a screen that fits."""

from collections import Counter
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from aiobreaker import CircuitBreaker, State
from aiobreaker.demo.plain import Lines, table
from aiobreaker.demo.plot import Fault, Plot
from aiobreaker.demo.record import Call, Ending, Entry, Outage, Record
from aiobreaker.demo.report import as_json, rows
from aiobreaker.demo.screen import Screen
from aiobreaker.demo.timeline import Slice, slices

FINE, SLOW, FAILED, REFUSED = Ending


def a_record(**changes: Any) -> Record:
    """Ten seconds: fine, then an outage from 2 to 6 that is found at 3 and over at 7, then fine again."""
    record = Record(Plot(10.0), 1, "asyncio", lambda entry: None, began_at=100.0, ended_at=110.0)
    record.outages.append(Outage(Fault.HANGING, broken_at=102.0, mended_at=106.0, detected_at=103.0, recovered_at=107.0))
    endings = [
        (100.5, 100.6, FINE),
        (101.9, 102.7, FAILED),  # was under way when the service broke
        (102.1, 102.5, SLOW),
        (103.0, 103.0, REFUSED),
        (104.0, 104.0, REFUSED),
        (106.5, 106.5, REFUSED),  # in vain: the service was back
        (107.5, 107.6, FINE),
    ]
    for number, (sent_at, ended_at, ending) in enumerate(endings, 1):
        record.call_ended(Call(number, sent_at, ended_at, ending))
    record.sent = len(endings)
    record.reached = {1, 2, 3, 7}
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def test_saved_waiting_counts_only_refusals_while_the_service_was_down() -> None:
    (hanging,), between, total = rows(a_record())
    assert (hanging.sent, hanging.slow, hanging.failed, hanging.refused, hanging.in_vain) == (5, 1, 1, 3, 1)
    assert hanging.wait == pytest.approx((0.8 + 0.4) / 2)
    assert hanging.saved == pytest.approx(2 * 0.6)
    assert (hanging.detect, hanging.recover) == (1.0, 1.0)
    assert (between.sent, between.fine, between.saved) == (2, 2, None)
    assert (total.sent, total.refused, total.saved) == (7, 3, hanging.saved)


def test_json_says_when_a_refused_call_has_reached_the_service() -> None:
    assert as_json(a_record())["totals"]["refused_but_reached_service"] == 0
    assert as_json(a_record(reached={1, 4}))["totals"]["refused_but_reached_service"] == 1


def test_calls_without_an_end_are_unfinished() -> None:
    totals = as_json(a_record(sent=9))["totals"]
    assert (totals["sent"], totals["unfinished"]) == (9, 2)


def test_an_outage_that_nobody_noticed_has_no_times() -> None:
    record = a_record(outages=[Outage(Fault.SLOW, broken_at=102.0, mended_at=103.0)])
    lines = table(record)
    (slow,) = (line for line in lines if line.startswith("slow"))
    assert slow.split()[-2:] == ["-", "-"]


def test_a_service_that_the_circuit_found_well_before_we_did_was_well_by_then() -> None:
    record = a_record(outages=[Outage(Fault.REFUSED, broken_at=102.0, detected_at=103.0, recovered_at=104.0)])
    record.mended()
    assert rows(record)[0][0].recover == 0.0


def test_the_plain_table_is_aligned() -> None:
    lines = table(a_record())
    rule = next(line for line in lines if line.startswith("---"))
    named = [line for line in lines if line.startswith(("hanging", "in between", "total", "Outage"))]
    assert len(named) == 4
    assert {len(line) for line in named} == {len(rule)}


def test_plain_lines_say_when_who_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().tell(Entry(1.5, "service", "is well again"))
    assert capsys.readouterr().out == "  1.50 s  service  is well again\n"


def test_the_time_line_shows_calls_where_they_ended_and_the_service_as_it_was() -> None:
    found = slices(a_record(), 10)
    assert [each.endings.total() for each in found] == [1, 0, 2, 1, 1, 0, 1, 1, 0, 0]
    assert [each.fault for each in found] == [None, None, *[Fault.HANGING] * 5, None, None, None]
    assert {each.state for each in found} == {State.CLOSED}


def test_what_is_to_come_is_empty() -> None:
    found = slices(a_record(ended_at=105.0, calls=[], outages=[]), 10)
    assert [each.state for each in found] == [State.CLOSED] * 6 + [None] * 4


def test_whatever_happened_has_a_cell_and_no_stack_is_too_high() -> None:
    crowded = Slice(Counter({FINE: 96, SLOW: 1, FAILED: 2, REFUSED: 1}))
    assert crowded.stack(5, 100) == [FINE, FINE, SLOW, FAILED, REFUSED]
    assert Slice(Counter({FINE: 50})).stack(4, 100) == [FINE, FINE]
    assert Slice().stack(5, 100) == []


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_a_frame_fills_the_screen_exactly(width: int, height: int) -> None:
    console = Console(file=StringIO(), width=width, height=height)
    record = a_record()
    for number in range(30):
        record.note("circuit", f"closed -> open: number {number}, {'and so on ' * 20}", 101.0, state=State.OPEN)
    breaker = record.plot.breaker((), lambda result: False, lambda: 0.5)
    frame = Screen(console).frame(record, breaker.snapshot())
    lines = console.render_lines(frame, pad=False)
    assert len(lines) == height
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)


def test_a_tiny_terminal_is_no_error() -> None:
    console = Console(file=StringIO(), width=8, height=3)
    breaker = Plot(10.0).breaker((), lambda result: False, lambda: 0.5)
    assert console.render_lines(Screen(console).frame(a_record(), breaker.snapshot()))


@pytest.mark.parametrize("order", [CircuitBreaker.reset, CircuitBreaker.open, CircuitBreaker.half_open])
def test_every_state_can_be_drawn(order: Any) -> None:
    console = Console(file=StringIO(), width=80, height=24)
    breaker = Plot(10.0).breaker((), lambda result: False, lambda: 0.5)
    order(breaker)
    with console.capture() as captured:
        console.print(Screen(console).frame(a_record(), breaker.snapshot()))
    assert f" {breaker.state.value.replace('_', '-').upper()} " in captured.get()


@pytest.mark.parametrize("duration", [7.9, 301, float("nan"), float("inf"), -1])
def test_a_plot_that_cannot_be_played_says_what_can(duration: float) -> None:
    with pytest.raises(ValueError, match="at least 8 and at most 300 seconds"):
        Plot(duration)
