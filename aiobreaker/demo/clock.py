"""The one clock of the demo: monotonic seconds, as breakers use by default."""

from time import monotonic

import anyio

now = monotonic


async def sleep_until(moment: float) -> None:
    """Sleep until then; not at all if it has passed."""
    await anyio.sleep(max(0.0, moment - now()))
