"""stamina: retries, by tenacity; under trio with the help of sniffio."""

from typing import Any

import stamina

from . import Shared, Toolkit, terms


def retry() -> Any:
    return stamina.retry(
        on=OSError,
        attempts=terms.ATTEMPTS,
        timeout=None,
        wait_initial=terms.FIRST_DELAY,
        wait_max=terms.LONGEST_DELAY,
        wait_jitter=terms.FIRST_DELAY,
    )


TOOLKIT = Toolkit(
    distribution="stamina",
    shared={terms.RETRY: Shared(retry, "adds jitter to the delay rather than drawing all of it")},
)
