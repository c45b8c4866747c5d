"""The front of the demo: chooses what it is shown with, runs it, and shows the end of it."""

import argparse
import json
import os
import signal
import sys
from typing import Protocol

import anyio

from .plain import Lines, Silent
from .plot import DEFAULT_DURATION, Plot
from .process import ServiceError
from .record import Entry, Record
from .run import Picture, perform
from .report import as_json


class Display(Picture, Protocol):
    """What the demo is shown with."""

    def tell(self, entry: Entry) -> object:
        """One more line of the story."""

    def finish(self, record: Record) -> object:
        """The end of it."""


def show(options: argparse.Namespace) -> int:
    """Run the demo as asked; the answer is the exit status."""
    try:
        plot = Plot(DEFAULT_DURATION if options.duration is None else options.duration)
    except ValueError as error:
        options.parser.error(f"argument --duration: {error}")
    display = _display(options)
    record = Record(plot, options.seed, options.backend, display.tell)
    status = _run(record, display)
    if status != 1:
        display.finish(record)
        if options.json:
            sys.stdout.write(json.dumps(as_json(record), indent=2) + "\n")
    return status


def _run(record: Record, display: Display) -> int:
    status = 0
    try:
        anyio.run(perform, record, display, backend=record.backend)
    except* ServiceError as errors:
        sys.stderr.write(f"aiobreaker demo: {_first(errors)}\n")
        status = 1
    except* KeyboardInterrupt:
        record.interrupted_by = signal.SIGINT
    return 128 + record.interrupted_by if record.interrupted_by else status


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _display(options: argparse.Namespace) -> Display:
    if options.json:
        return Silent()
    if options.plain or not _can_draw():
        return Lines()
    from .screen import Screen

    return Screen()


def _can_draw() -> bool:
    encoding = (sys.stdout.encoding or "").lower()
    return sys.stdout.isatty() and "utf" in encoding and os.environ.get("TERM") != "dumb"
