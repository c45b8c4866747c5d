"""Toolkits that share policies with ours, each behind one small adapter. What is not installed is left out.

Settings say the same as ours, or come as near to that as the peer can; `differs` says what is otherwise. What does not wholly
work under an event loop is not timed there, even if a call that succeeds would.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

ADAPTERS = ("nopanic", "hyx", "pyresilience", "tenacity", "stamina")


@dataclass(frozen=True)
class Shared:
    """A policy that a peer has too: a function that makes one, as a decorator, in a running event loop."""

    make: Callable[[], Callable[[Any], Any]]
    differs: str = ""
    trio: bool = True


@dataclass(frozen=True)
class Toolkit:
    """One peer, and what it shares with us."""

    distribution: str
    shared: Mapping[str, Shared]
    apart: tuple[str, ...] = ()  # what has a name like ours, but is something else

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"{self.distribution} {metadata.version(self.distribution)}"

    @property
    def differs(self) -> tuple[str, ...]:
        """In words, what is otherwise than ours."""
        told: dict[str, list[str]] = {}
        for policy, shared in self.shared.items():
            if shared.differs:
                told.setdefault(shared.differs, []).append(policy)
        return (*(f"{' and '.join(policies)}: {differs}" for differs, policies in told.items()), *self.apart)


def installed() -> list[Toolkit]:
    """The toolkits that are there."""
    return [toolkit for name in ADAPTERS if (toolkit := find(name)) is not None]


def find(name: str) -> Toolkit | None:
    """One toolkit by its name in ADAPTERS; None if it is not installed."""
    try:
        toolkit: Toolkit = import_module(f"{__name__}.{name}").TOOLKIT
    except ImportError:
        return None
    return toolkit
