"""The front of the demo: chooses what it is shown with, runs it, and shows the end of it."""

import argparse
import json
import os
import signal
import sys
from types import TracebackType
from typing import Protocol

import anyio

from .plain import Lines, Silent
from .plot import Plot
from .process import ServiceError
from .record import Entry, Record
from .report import as_json
from .run import Picture, perform


class Display(Picture, Protocol):
    """What the demo is shown with."""

    def __enter__(self) -> object:
        """Take the terminal."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Give it back."""

    def tell(self, entry: Entry) -> object:
        """One more line of the story."""

    def finish(self, record: Record) -> object:
        """The end of it."""


def show(options: argparse.Namespace) -> int:
    """Run the demo as asked; the answer is the exit status."""
    parser: argparse.ArgumentParser = options.parser
    try:
        plot = Plot(options.duration)
    except ValueError as error:
        parser.error(f"argument --duration: {error}")
    display = _display(options)
    record = Record(plot, options.seed, options.backend, display.tell)
    status = 0
    try:
        status = _run(record, display)
        if options.json:
            sys.stdout.write(json.dumps(as_json(record), indent=2) + "\n")
        sys.stdout.flush()
    except* ServiceError as errors:
        sys.stderr.write(f"aiobreaker demo: {_first(errors)}\n")
        status = 1
    except* BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    return status


def _run(record: Record, display: Display) -> int:
    try:
        with display:
            anyio.run(perform, record, display, backend=record.backend)
    except* KeyboardInterrupt:
        record.interrupted_by = signal.SIGINT
    if record.interrupted_by is not None:
        record.note("demo", "interrupted")
    display.finish(record)
    return 128 + record.interrupted_by if record.interrupted_by else 0


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
