# /// script
# requires-python = ">=3.11"
# dependencies = ["aiobreaker"]
#
# [tool.uv.sources]
# aiobreaker = { path = ".." }  # not the older project of that name on the package index
# ///
"""What a log says of an outage: a line for each transition, in words and as JSON; what comes with every call is summed."""

import json
import logging

import anyio

from aiobreaker import CircuitBreaker, CircuitOpenError, FailureRate, LastSeconds, Retry
from aiobreaker.telemetry.logging import log_events

stock = CircuitBreaker("stock", trip=FailureRate(0.5, window=LastSeconds(10), minimum_calls=10), open_for=0.2)
patient = Retry(on=ConnectionError, attempts=2, backoff=0.001, name="stock retry") | stock
down = False


class AsJson(logging.Formatter):
    """A formatter that writes what a record says beside what every record says."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        every = vars(logging.makeLogRecord({}))
        own = {key: value for key, value in vars(record).items() if key not in every and key != "message"}
        return json.dumps({"level": record.levelname, **own})


@patient
async def look_up(sku: str) -> str:
    """Ask how many there are."""
    await anyio.sleep(0.001)
    if down:
        raise ConnectionError("connection refused")
    return f"{sku}: 3 left"


async def main() -> None:
    """Two hundred questions, some of them while the service is down."""
    global down  # noqa: PLW0603 - the example's switch
    for number in range(200):
        down = 20 <= number < 100
        try:
            await look_up("pear")
        except (ConnectionError, CircuitOpenError):
            await anyio.sleep(0.003)


if __name__ == "__main__":
    in_words, as_json = logging.StreamHandler(), logging.StreamHandler()
    as_json.setFormatter(AsJson())
    logging.basicConfig(level=logging.INFO, handlers=[in_words, as_json])
    with log_events(patient):
        anyio.run(main)
