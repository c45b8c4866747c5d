"""What a cache keeps: results with the time for which they are good; the least recently used goes first.

Law: `n` numbers every use, and a use is `n` and the entry's `used` and nothing in between, so it needs no lock. What goes is
decided among the `used`, so the order is exact.
"""

from collections.abc import Hashable
from math import inf
from operator import itemgetter
from typing import Any
from weakref import ref


class Entry:
    """A result, kept `since` a moment: fresh before `fresh_until`, and in need before `stale_until`.

    It is neither until `begin` has said so.
    """

    __slots__ = ("__weakref__", "fresh_until", "key", "result", "since", "stale_until", "used")

    def __init__(self, key: Hashable, result: Any, since: float) -> None:
        self.key = key
        self.result = result
        self.since = since
        self.fresh_until = self.stale_until = -inf
        self.used = 0

    def serves_stale(self, now: float) -> bool:
        """Whether it may be served if there is nothing better. If the clock has gone back behind it, nobody knows its age."""
        return self.since <= now < self.stale_until


class Entries:
    """At most `max_size` results by key. `n` counts their uses, of which `other_uses` were no hits."""

    __slots__ = ("_line", "by_key", "max_size", "n", "other_uses")

    def __init__(self, max_size: int) -> None:
        self.by_key: dict[Hashable, Entry] = {}
        self.max_size = max_size
        self.n = self.other_uses = 0
        self._line: list[tuple[int, ref[Entry]]] = []  # it keeps no result alive

    def use(self, entry: Entry) -> None:
        """It has been used, but was no hit."""
        self.other_uses += 1
        self.n = entry.used = self.n + 1

    def oldest(self) -> Entry | None:
        """The least recently used, each once; None if there is none. Whoever asks takes it out, if it is still there.

        All are put in order when the last order has been used up: what has been used since is more recent than the rest of it.
        """
        while True:
            while self._line:
                used, reference = self._line.pop()
                entry = reference()
                if entry is not None and entry.used == used:
                    return entry
            self._line = [(entry.used, ref(entry)) for entry in list(self.by_key.values())]
            if not self._line:
                return None
            self._line.sort(key=itemgetter(0), reverse=True)
