"""The page: a table for each section, what was done for each answer, and notes."""

import platform
from datetime import UTC, datetime
from importlib import metadata

from ..peers import ADAPTERS
from .gather import Subject
from .notes import NOTES
from .script import OPEN_FOR, Answer, Section
from .sections import SECTIONS

HEAD = """\
# How circuit breakers behave

Measured on {date} with Python {python}; {versions}.
Written by `python -m benchmarks.behaviours`; do not edit.

Every answer is what a script saw when it ran against the breaker, under asyncio and, where the breaker runs there, under trio.
Where the two differ both are told. The scripts are in `benchmarks/behaviours/`, one file for each section; what each breaker is
given is in `benchmarks/peers/`, one file for each. All clocks of the process are put forward by the scripts, so that nothing
depends on how fast a machine is.

Unless a script says otherwise a breaker opens at 3 failures in a row, or what comes nearest to that, stays open for
{open_for:.0f} seconds, and is then decided by one trial; it guards by its decorator. Where a breaker can be set in several ways
it was given the one that answers the question best. A dash means that the question does not arise; a number leads to a note.
"""

CANNOT = """\
## What they cannot be told

Of the settings above:
"""


def page(subjects: list[Subject]) -> str:
    """Everything, in Markdown."""
    versions = [f"{name} {metadata.version(name)}" for name in ("anyio", "trio")]
    head = HEAD.format(
        date=f"{datetime.now(UTC):%d %B %Y}".lstrip("0"),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        versions=", ".join([*versions, *(subject.label for subject in subjects[1:])]),
        open_for=OPEN_FOR,
    )
    parts = [head, *(_section(section, subjects) for section in SECTIONS)]
    parts.append(CANNOT)
    parts += [f"* {subject.label}: {'; '.join(subject.cannot)}." for subject in subjects if subject.cannot]
    missing = [name for name in ADAPTERS if all(name != subject.name for subject in subjects)]
    if missing:
        parts.append(f"\nNot installed, and not measured: {', '.join(missing)}.")
    return "\n".join(parts) + "\n"


def _section(section: Section, subjects: list[Subject]) -> str:
    notes: list[str] = []
    lines = [
        ["", subjects[0].name, *(subject.label for subject in subjects[1:])],
        ["---"] * (1 + len(subjects)),
    ]
    for each in section.behaviours:
        cells = [_cell(subject, each.key, subject.joined(each.key), notes) for subject in subjects]
        lines.append([each.question, *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = "\n".join(f"{number}. {note[:1].upper()}{note[1:]}." for number, note in enumerate(notes, 1))
    done = "\n".join(f"* *{each.question}.* {each.how}" for each in section.behaviours)
    return "\n\n".join(part for part in (f"## {section.title}", table, told, f"What was done:\n\n{done}") if part) + "\n"


def _cell(subject: Subject, key: str, answer: Answer, notes: list[str]) -> str:
    """The answer, with the numbers of its notes."""
    mine = [note for note in (answer.note, NOTES.get((key, subject.name, answer.text), "")) if note]
    notes += [note for note in mine if note not in notes]
    numbers = ", ".join(str(notes.index(note) + 1) for note in mine)
    return f"{answer.text} <sup>{numbers}</sup>" if numbers else answer.text
