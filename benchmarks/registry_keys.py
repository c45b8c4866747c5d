"""What a key costs in a registry when every key is used once: the last ones must not cost more than the first, nor be kept."""

from aiobreaker import BreakerRegistry, CircuitBreaker

from .harness import clock
from .rows import Row

BAR = 1.2
MAX_SIZE = 1024


def registry_rows(keys: int) -> list[Row]:
    """Time per key in the last tenth over that in the second, when the registry is full; and how many are kept."""
    registry: BreakerRegistry[int] = BreakerRegistry(lambda key: CircuitBreaker(f"{key}"), max_size=MAX_SIZE)
    tenth = keys // 10
    times = [_seconds(registry, range(first, first + tenth)) for first in range(0, keys, tenth)]
    return [
        Row(f"registry: the last of {keys:,} keys used once, over the first", times[-1] / times[1], BAR),
        Row(f"registry: breakers kept of {keys:,}", float(len(registry)), float(MAX_SIZE), "of"),
        Row("registry: one new key", times[-1] / tenth * 1e9, unit="ns"),
    ]


def _seconds(registry: BreakerRegistry[int], keys: range) -> float:
    began = clock()
    for key in keys:
        registry[key]
    return clock() - began
