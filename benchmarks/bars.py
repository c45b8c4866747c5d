"""Every bar: those of the timed cases, those over the peers, and those of memory and import."""

from . import policies
from .cases import OURS
from .import_time import import_row
from .measure import Measured
from .memory import memory_rows
from .peer_cases import DECORATOR, PLAIN, title
from .registry_keys import registry_rows
from .rows import Row

PEER_BARS = {"interlock-cb": 12.0, "nopanic": 3.5}
ANY_PEER = 1.0  # to be faster than every decorator, of whatever it counts


def against_peers(measured: Measured) -> list[Row]:
    """How many times the total time of our decorator, with slow calls, each peer's decorators take: the full, the cheapest."""
    values = {row.name: row.value for row in measured.bars + measured.peers}
    rows = []
    for peer in measured.about:
        label, full = peer.label, values.get(title(peer.label, DECORATOR))
        if full is None:
            continue
        cheapest = min(full, values[title(label, PLAIN)])
        if bar := PEER_BARS.get(label.split()[0]):
            rows.append(Row(f"{label}, decorator, over ours", full / values[OURS], bar, at_least=True))
        rows.append(Row(f"{label}, cheapest decorator, over ours", cheapest / values[OURS], ANY_PEER, at_least=True))
    return rows


def policies_against_peers(measured: Measured) -> list[Row]:
    """How many times the total time of each policy of ours the same takes in each toolkit that has it."""
    values = {row.name: row.value for row in measured.policies}
    rows = []
    for policy in policies.SHARED:
        for toolkit in measured.toolkits:
            theirs = values.get(policies.title(policy, toolkit.label))
            if theirs is not None:
                over = theirs / values[policies.title(policy, policies.OURS)]
                rows.append(Row(f"{policies.title(policy, toolkit.label)}, over ours", over, ANY_PEER, at_least=True))
    return rows


def timed_bars(measured: Measured) -> list[Row]:
    """All bars of the breaker under one event loop."""
    return measured.bars + against_peers(measured)


def weighed_bars(runs: int, keys: int) -> list[Row]:
    """The bars that have nothing to do with an event loop."""
    return [*memory_rows(), import_row(runs), *registry_rows(keys)]
